"""From scores of parameters to masks of whole groups."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.structure import Coupling, coupling, group_scores, kept_of, masks_of, removal_order, select_groups
from tests.structure.groups_models import attention, concat, cut, residual
from tests.structure.groups_tools import atoms_of, zeroed

FAMILIES = (residual, concat, attention, cut)


@functools.cache
def coupled(family) -> tuple[nn.Module, Coupling]:
    model, inputs = family()
    return model, coupling(capture(model, inputs).graph)


def drawn_scores(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {n: torch.rand(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()}


def density(masks: dict[str, Tensor]) -> float:
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_masks_are_zero_at_the_members_of_what_goes(family):
    model, found = coupled(family)
    kept = torch.arange(len(found.groups)) % 3 != 0
    masks = masks_of(found, kept)
    gone = frozenset().union(*(atoms_of(g) for g, stays in zip(found.groups, kept.tolist(), strict=True) if not stays))
    truth = dict(zeroed(model, gone).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter * masks.get(name, True), truth[name])
    assert torch.equal(kept_of(found, masks), kept)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("normalise", ["sum", "mean"])
def test_the_score_of_a_group_is_that_of_what_makes_it(family, normalise):
    model, found = coupled(family)
    scores = drawn_scores(model)
    del scores[next(n for n in scores if n.endswith("bias"))]
    for group, score in zip(found.groups, group_scores(found, scores, normalise), strict=True):
        terms = [
            scores[m.parameter].select(m.axis, i).flatten()
            for m in group.members
            for i in m.indices
            if m.side == "out" and m.parameter in scores
        ]
        every = torch.cat(terms)
        assert torch.isclose(score, every.sum() if normalise == "sum" else every.mean(), rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_the_worst_groups_go_first_and_no_layer_loses_all(family):
    model, found = coupled(family)
    scores = group_scores(found, drawn_scores(model))
    order = removal_order(found, scores)
    assert scores[order].tolist() == sorted(scores[order].tolist())
    left = masks_of(found, torch.ones(len(found.groups), dtype=torch.bool).index_fill(0, order, False))
    for axis in (a for a in found.axes if a.role == "parameter"):
        alive = (
            left[axis.slot].sum([d for d in range(len(axis.shape)) if d != axis.dim]) if len(axis.shape) > 1 else left[axis.slot]
        )
        assert alive.bool().any()
    stays = set(range(len(found.groups))) - set(order.tolist())
    assert all(any(set(g.within) & set(found.groups[s].within) for s in stays) for g in found.groups)


def test_each_slice_of_a_weight_keeps_a_unit():
    """Two halves that are used apart: the weight alone would allow one of them to vanish."""
    net = nn.Linear(2, 6)
    torch.nn.init.ones_(net.weight)

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.left, self.right = net, nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.up(x).chunk(2, -1)
            return self.left(a) + self.right(b)

    found = coupling(capture(Halves().double().eval(), (torch.ones(1, 2, dtype=torch.float64),)).graph)
    order = removal_order(found, torch.arange(6.0))
    assert order.tolist() == [0, 1, 3, 4]


def test_equal_scores_go_by_position_the_last_first():
    _, found = coupled(residual)
    assert removal_order(found, torch.zeros(7)).tolist() == [6, 5, 4, 2, 1]


def test_what_must_stay_is_the_unit_that_its_layer_keeps():
    _, found = coupled(residual)
    stays = torch.tensor([False, True, False] + [False] * 4)
    assert removal_order(found, torch.arange(7.0), stays=stays).tolist() == [0, 2, 3, 4, 5]


def left_of(model: nn.Module, found: Coupling, kept: Tensor) -> tuple[int, dict[str, Tensor]]:
    """What a choice of groups leaves of a model whose entries are all 1, by zeroing what goes: how much, and where."""
    gone = frozenset().union(*(atoms_of(g) for g, stays in zip(found.groups, kept.tolist(), strict=True) if not stays))
    ones = copy.deepcopy(model)
    for parameter in ones.parameters():
        parameter.data.fill_(1)
    where = {n: p.detach() > 0 for n, p in zeroed(ones, gone).named_parameters()}
    return sum(int(m.sum()) for m in where.values()), where


def uneven() -> tuple[nn.Module, Tensor]:
    """Units of very different sizes: what a wide one leaves free, narrow ones fill."""
    return nn.Sequential(nn.Linear(40, 3), nn.ReLU(), nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2)), torch.randn(2, 40)


@pytest.mark.parametrize("family", [residual, cut, uneven], ids=lambda f: f.__name__)
@pytest.mark.parametrize("part", [0.75, 0.6])
def test_no_more_is_removed_than_the_target_needs(family, part):
    """The worst go until the target holds; of these come back, the best first, all with which it still holds."""
    model, found = coupled(family)
    scores = drawn_scores(model)
    order = removal_order(found, group_scores(found, scores)).tolist()
    kept = torch.ones(len(found.groups), dtype=torch.bool)
    most = part * left_of(model, found, kept)[0]
    gone = []
    while left_of(model, found, kept)[0] > most:
        gone.append(order[len(gone)])
        kept[gone[-1]] = False
    for position in reversed(gone):
        kept[position] = True
        kept[position] = left_of(model, found, kept)[0] <= most
    whole = sum(p.numel() for n, p in model.named_parameters() if n not in masks_of(found, kept))
    masks = select_groups(found, scores, lambda masks: whole + sum(int(m.sum()) for m in masks.values()) <= most)
    where = left_of(model, found, kept)[1]
    assert all(torch.equal(m, where[n]) for n, m in masks.items())


def test_what_is_gone_stays_gone():
    model, found = coupled(residual)
    scores = drawn_scores(model)
    first = select_groups(found, scores, lambda masks: density(masks) <= 0.7)
    turned = {n: -s for n, s in scores.items()}
    second = select_groups(found, turned, lambda masks: density(masks) <= 0.4, masks=first)
    assert not any((second[n] & ~first[n]).any() for n in first)


def test_scores_of_pruned_entries_do_not_count():
    model, found = coupled(residual)
    scores = drawn_scores(model)
    masks = {n: torch.rand(s.shape, generator=torch.Generator().manual_seed(5)) > 0.5 for n, s in scores.items()}
    assert torch.allclose(
        group_scores(found, scores, masks=masks), group_scores(found, {n: s * masks[n] for n, s in scores.items()})
    )


def test_a_target_out_of_reach_is_refused():
    model, found = coupled(residual)
    with pytest.raises(PkcError, match="PKC443"):
        select_groups(found, drawn_scores(model), lambda masks: density(masks) <= 0.01)


def test_scores_of_other_shapes_are_refused_all_at_once():
    model, found = coupled(residual)
    wrong = drawn_scores(model) | {"one.weight": torch.ones(2), "two.weight": torch.ones(2)}
    with pytest.raises(PkcError) as caught:
        group_scores(found, wrong)
    assert [d.code for d in caught.value.diagnostics] == ["PKC441", "PKC441"]


def test_groups_without_a_score_are_refused():
    _, found = coupled(residual)
    with pytest.raises(PkcError, match="PKC442"):
        group_scores(found, {})
