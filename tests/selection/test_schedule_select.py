"""Selection in structures and by budgets, against every choice there is on tiny tensors."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pkcompiler import PkcError
from pkcompiler.ir.weights import Sides
from pkcompiler.selection import quantity as quantities
from pkcompiler.selection.candidates import Candidates
from pkcompiler.selection.quantity import Quantity
from pkcompiler.selection.select import select
from pkcompiler.selection.structures import Block, Ratio, check_fits, groups_of, violation
from pkcompiler.selection.swap import swap
from pkcompiler.sparse_file import SparseSize, pack, unpack

SHAPES = {"a": (2, 4), "b": (1, 4)}
SIZES = {n: int(np.prod(s)) for n, s in SHAPES.items()}
SIDES = dict.fromkeys(SHAPES, Sides())
VALUES = st.lists(st.integers(0, 3).map(float), min_size=12, max_size=12)


def pool(protected=(), floors=None, shapes=SHAPES, sides=None) -> Candidates:
    sizes = {n: int(np.prod(s)) for n, s in shapes.items()}
    return Candidates(sizes, shapes, frozenset(protected), floors or {}, sides or dict.fromkeys(shapes, Sides()))


def tensors(values, dtype=torch.float64) -> dict[str, torch.Tensor]:
    flat = torch.tensor(values, dtype=dtype)
    return {n: p.reshape(s) for (n, s), p in zip(SHAPES.items(), flat.split(list(SIZES.values())), strict=True)}


def flat(masks) -> np.ndarray:
    return np.concatenate([masks[n].numpy().reshape(-1) for n in SHAPES])


@given(VALUES, st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_two_of_four_keeps_the_best_sum_that_any_choice_has(values, count) -> None:
    kept = flat(select(tensors(values), {}, pool(), count / 12, structure=Ratio(2, 4)))
    groups = kept.reshape(3, 4).sum(1)
    assert kept.sum() == count and groups.max(initial=0) <= 2
    best = max(
        sum(values[i] for i in chosen)
        for chosen in combinations(range(12), count)
        if max(np.bincount(np.array(chosen, dtype=int) // 4, minlength=3)) <= 2
    )
    assert sum(np.array(values)[kept]) == best


def each_that_fits(units, scores, cost, budget) -> list:
    """By hand: units in order of score, equal ones in order of position, each taken that fits beside those taken before."""
    taken: list = []
    for unit in sorted(units, key=lambda unit: -scores[units.index(unit)]):
        if cost([*taken, unit]) <= budget:
            taken.append(unit)
    return taken


@given(VALUES, st.integers(0, 12), st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=40, deadline=None)
def test_blocks_stay_in_order_each_that_still_fits(values, count, before) -> None:
    """By hand: blocks of 2 x 2 of a, of 1 x 2 of b (cut off at its edge); sums over what is left, in order."""
    places = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9], [10, 11]]
    alive = [left for block in places if (left := [i for i in block if before[i]])]
    masks = tensors([float(b) for b in before])
    kept = flat(select(tensors(values), {n: m.bool() for n, m in masks.items()}, pool(), count / 12, structure=Block(2, 2)))
    taken = each_that_fits(alive, [sum(values[i] for i in b) for b in alive], lambda blocks: sum(map(len, blocks)), count)
    assert np.flatnonzero(kept).tolist() == sorted(i for block in taken for i in block)


@given(VALUES, st.integers(0, 60), st.sampled_from([None, Ratio(2, 4), Block(1, 2)]))
@settings(max_examples=60, deadline=None)
def test_a_budget_of_costs_is_used_up_in_order_of_score(values, budget, structure) -> None:
    """Weights that cost 3 and 7: where a dear one does not fit any more, cheap ones after it do."""
    counted = Quantity("flops", {"a": 3, "b": 7}, SIZES, fixed=1)
    kept = flat(select(tensors(values), {}, pool(), 1.0, structure=structure, quantity=counted, budget=budget))
    costs = [3] * 8 + [7] * 4
    units = [[i] for i in range(12)]
    if isinstance(structure, Block):
        units = [[i, i + 1] for i in range(0, 12, 2)]
    if isinstance(structure, Ratio):
        groups = [sorted(range(g, g + 4), key=lambda i: (-values[i], i))[:2] for g in (0, 4, 8)]
        units = [[i] for i in sorted(i for best in groups for i in best)]
    totals = [sum(values[i] for i in unit) for unit in units]
    taken = each_that_fits(units, totals, lambda chosen: 1 + sum(costs[i] for unit in chosen for i in unit), budget)
    assert np.flatnonzero(kept).tolist() == sorted(i for unit in taken for i in unit)


@given(VALUES, st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_a_layer_of_blocks_fills_its_share(values, count) -> None:
    """Rows of 3 in blocks of 2 (and 1 at the edge), ``scope = uniform``: the narrow one stays where the wide one does not fit."""
    shapes = {"a": (2, 3), "b": (2, 3)}
    scores = {n: torch.tensor(values[6 * i : 6 * i + 6]).reshape(2, 3) for i, n in enumerate(shapes)}
    masks = select(scores, {}, pool(shapes=shapes), count / 12, structure=Block(1, 2), scope="uniform")
    shares = [count // 2 + count % 2, count // 2]
    for i, name in enumerate(shapes):
        units = [[0, 1], [2], [3, 4], [5]]
        totals = [sum(values[6 * i + j] for j in unit) for unit in units]
        taken = each_that_fits(units, totals, lambda blocks: sum(map(len, blocks)), shares[i])
        assert np.flatnonzero(masks[name].numpy()).tolist() == sorted(j for unit in taken for j in unit)


def test_what_costs_nothing_stays_and_floors_come_first() -> None:
    counted = Quantity("flops", {"a": 0, "b": 1}, SIZES)
    assert flat(select(tensors([0.0] * 12), {}, pool(), 1.0, quantity=counted, budget=2)).tolist() == [True] * 10 + [False] * 2
    counted = Quantity("flops", {"a": 1, "b": 1}, SIZES)
    masks = select(tensors([9.0] * 8 + [1.0] * 4), {}, pool(floors={"b": 3}), 1.0, quantity=counted, budget=5)
    assert (int(masks["a"].sum()), int(masks["b"].sum())) == (2, 3)


@pytest.mark.parametrize("scope", ["layer", "uniform"])
def test_local_scopes_keep_to_the_structure(scope) -> None:
    masks = select(tensors([float(i) for i in range(12)]), {}, pool(), 0.5, structure=Ratio(2, 4), scope=scope)
    assert masks["a"].tolist() == [[False, False, True, True]] * 2 and masks["b"].tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("sides", [Sides(0, 1), Sides(1, 0)])
def test_groups_of_kernels_run_along_the_inputs(sides) -> None:
    shape = (4, 4, 3)
    for structure in (Ratio(1, 2), Block(3, 2)):
        groups, count = groups_of(structure, shape, sides)
        groups = groups.reshape(shape)
        for first, second in product(np.ndindex(shape), repeat=2):
            o, p = first[sides.outputs], second[sides.outputs]
            i, j = first[sides.inputs], second[sides.inputs]
            if isinstance(structure, Ratio):
                together = o == p and i // 2 == j // 2 and first[2] == second[2]
            else:
                together = o // 3 == p // 3 and i // 2 == j // 2
            assert (groups[first] == groups[second]) == together
        assert len(np.unique(groups)) == count == groups.max() + 1


def test_violations_name_the_first_group_and_misfits_are_refused() -> None:
    mask = torch.tensor([[True, False, True, False], [True, True, True, False]])
    assert violation(Ratio(2, 4), mask, Sides()) == "[1, 0:4] keeps 3 of 4"
    assert violation(Ratio(3, 4), mask, Sides()) == ""
    assert violation(Block(2, 2), mask, Sides()) == "[0:2, 0:2] keeps 3 of 4"
    assert violation(Block(1, 1), mask, Sides()) == ""
    with pytest.raises(PkcError) as caught:
        check_fits(Ratio(2, 3), ["a", "c"], {"a": (2, 4), "c": (4,)}, {"a": Sides()})
    (found,) = caught.value.diagnostics
    assert found.code == "PKC422" and "1 more than a multiple of 3" in found.message
    assert found.notes == ("no parameter fits: choose another structure",)


def test_parameters_that_a_structure_does_not_fit_are_one_error_with_the_line_that_keeps_them_all() -> None:
    names = [f"layer{i}.weight" for i in range(6)]
    shapes = dict.fromkeys(names, (2, 4)) | {"last.weight": (2, 9)}
    with pytest.raises(PkcError) as caught:
        check_fits(Ratio(2, 3), [*names, "last.weight"], shapes, dict.fromkeys(shapes, Sides()), ("@bias", "stem.*"))
    (found,) = caught.value.diagnostics
    assert "6 of 7 parameters: 'layer0.weight' has 4 inputs" in found.message and found.message.endswith("and 3 more")
    assert found.notes == ("keep them whole: except = " + ", ".join(["bias", '"stem.*"', *(f'"{n}"' for n in names)]),)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_the_size_of_the_sparse_file_is_that_of_the_file(seed, density) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {
        "a.weight": torch.randn(7, 9, generator=generator),
        "b": torch.randn(130, generator=generator).half(),
        "n": torch.tensor(3),
        "é.bias": torch.randn(5, generator=generator, dtype=torch.float64),
    }
    masks = {n: torch.rand(state[n].shape, generator=generator) < density for n in ("a.weight", "b")}
    packed = pack(state, masks)
    counted = SparseSize(state, {n: m.numel() for n, m in masks.items()})
    assert counted({n: int(m.sum()) for n, m in masks.items()}) == len(save(packed))
    again = unpack(packed, {n: tuple(m.shape) for n, m in masks.items()})
    assert all(torch.equal(again[n], t.masked_fill(~masks[n], 0) if n in masks else t) for n, t in state.items())


@given(VALUES, st.integers(100, 500))
@settings(max_examples=20, deadline=None)
def test_a_budget_in_bytes_is_held_exactly(values, budget) -> None:
    state = tensors(values, torch.float32)
    counted = quantities.size(state, SIZES)
    masks = select(tensors(values), {}, pool(), 1.0, quantity=counted, budget=budget)
    bytes_ = len(save(pack(state, masks)))
    assert bytes_ <= budget or not flat(masks).any()

    def written(chosen) -> int:
        flags = tensors([float([i] in chosen) for i in range(12)])
        return len(save(pack(state, {n: m.bool() for n, m in flags.items()})))

    assert [[i] for i in np.flatnonzero(flat(masks))] == sorted(each_that_fits([[i] for i in range(12)], values, written, budget))


@given(VALUES, VALUES, st.floats(0, 1), st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_swap_drops_the_worst_and_takes_the_best_of_all_that_is_gone(low, high, part, before) -> None:
    masks = {n: m.bool() for n, m in tensors([float(b) for b in before]).items()}
    kept = [i for i in range(12) if before[i]]
    count = round(part * len(kept))
    stays = sorted(kept, key=lambda i: (-low[i], i))[: len(kept) - count]
    gone = [i for i in range(12) if i not in stays]
    expected = sorted([*stays, *sorted(gone, key=lambda i: (-high[i], i))[:count]])
    assert np.flatnonzero(flat(swap(masks, tensors(low), tensors(high), pool(), part))).tolist() == expected
    fixed = swap(masks, tensors(low), tensors(high), pool(protected={"b"}), part)
    assert torch.equal(fixed["b"], masks["b"]) and fixed["a"].sum() == masks["a"].sum()
    local = swap(masks, tensors(low), tensors(high), pool(), part, scope="layer")
    assert [int(local[n].sum()) for n in SHAPES] == [int(masks[n].sum()) for n in SHAPES]


def test_a_swap_of_blocks_moves_whole_blocks() -> None:
    masks = select(tensors([float(i) for i in range(12)]), {}, pool(), 0.5, structure=Block(1, 2))
    back = tensors([9.0, 9.0, *[0.0] * 10])
    after = swap(masks, tensors([1.0] * 12), back, pool(), 0.34, block=Block(1, 2))
    assert flat(after)[:2].all() and flat(after).sum() == 6
    assert all(violation(Block(1, 2), after[n], Sides()) == "" for n in SHAPES)
