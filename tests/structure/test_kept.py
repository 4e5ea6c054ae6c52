"""What stays when all that masks have left without effect is cut out: outputs are the same, and every index set fits the others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.maps import (
    Conv,
    Dense,
    Embed,
    Frozen,
    Merge,
    Named,
    Normalise,
    Product,
    Reindex,
    Resample,
    Scale,
    Softmax,
    Source,
    Window,
)
from pkcompiler.ir.types import Op, Slot, TensorType
from pkcompiler.paths.reindex import apply_reindex, concrete
from pkcompiler.structure.kept import Kept, kept_units
from tests.structure import groups_models
from tests.structure.graph_function import GraphFunction
from tests.structure.groups_models import Net, built, chain, drawn
from tests.structure.kept_models import MODELS, frozen, lstm, resnet

DENSITIES = (0.3, 0.1, 0.03)
cases = pytest.mark.parametrize(
    ("family", "density", "streams"),
    [(f, d, s) for f in MODELS for d in DENSITIES for s in ("union", "indexed")],
    ids=lambda v: getattr(v, "__name__", str(v)),
)


@cache
def captured_of(family) -> tuple[nn.Module, tuple[Tensor, ...], Capture]:
    model, inputs = family()
    return model, inputs, capture(model, inputs)


def random_masks(model: nn.Module, density: float, seed: int = 0) -> dict[str, Tensor]:
    """Matrices and kernels to the density, half of all biases and gains."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < (density if p.ndim > 1 else 0.5) for n, p in model.named_parameters()}


@cache
def opened(family, density: float, streams: str) -> tuple[Capture, tuple[Tensor, ...], dict[str, Tensor], Kept]:
    model, inputs, captured = captured_of(family)
    masks = random_masks(model, density)
    kept = kept_units(captured.graph, captured.tensors, masks, captured.watched, streams=streams)
    return captured, inputs, masks, kept


def whole(index: tuple[Tensor | None, ...], shape: tuple[int, ...]) -> Tensor:
    """Which entries of a tensor stay, by what stays of its dimensions."""
    stays = torch.ones(shape, dtype=torch.bool)
    for dim, kept in enumerate(index):
        if kept is not None:
            line = torch.zeros(shape[dim], dtype=torch.bool)
            line[kept] = True
            stays &= line.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    return stays


@cases
def test_outputs_are_the_same_without_what_leaves(family, density, streams):
    captured, inputs, masks, kept = opened(family, density, streams)
    function = GraphFunction(captured, masks, *inputs)

    def cut(value: str, tensor: Tensor) -> Tensor:
        shape = tuple(concrete(types[value].shape, 1))
        return tensor * whole(kept.values[value], shape) if tensor.is_floating_point() else tensor

    types = {v.name: v.type for v in captured.graph.values}
    after = function.run(cut)
    assert after.abs().max() > 0
    assert (after - function.output).abs().max() <= 1e-12 * function.output.abs().max()


@cases
def test_every_index_set_fits_what_it_meets(family, density, streams):
    """An independent walk over the graph: what an operation makes of the entries that stay is what stays of its result."""
    captured, _, _, kept = opened(family, density, streams)
    graph = captured.graph
    shapes = {v.name: tuple(concrete(v.type.shape, 1)) for v in graph.values} | {s.name: tuple(s.type.shape) for s in graph.slots}
    stays = {n: whole(i, shapes[n]) for n, i in (kept.values | kept.axes).items()}
    sizes = {n: [s.any(tuple(d for d in range(s.dim()) if d != dim)) for dim in range(s.dim())] for n, s in stays.items()}
    for name in (*graph.outputs, *(v.name for v in graph.inputs)):
        assert stays[name].all()
    for name, lines in sizes.items():
        assert all(line.any() for line in lines), name
    for op in graph.ops:
        fits(op, stays, sizes, captured, streams == "indexed")


def fits(op: Op, stays: dict[str, Tensor], lines: dict[str, list[Tensor]], captured: Capture, indexed: bool) -> None:
    y, own = stays[op.name], lines[op.name]
    x = stays[op.inputs[0]] if op.inputs else torch.ones(())
    read = lines[op.inputs[0]] if op.inputs else []
    match op.map:
        case Dense(weight, bias, transposed):
            outputs, inputs = reversed(lines[weight]) if transposed else lines[weight]
            assert torch.equal(inputs, read[-1]) and torch.equal(outputs, own[-1])
            assert bias is None or torch.equal(lines[bias][0], own[-1])
            assert all(map(torch.equal, read[:-1], own[:-1]))
        case Conv(weight=weight, bias=bias, groups=groups):
            first, second, *kernel = lines[weight]
            assert all(line.all() for line in (*kernel, *read[2:], *own[2:]))
            outputs, inputs = own[1], read[1]
            if op.map.transposed:
                assert torch.equal(first, inputs) and rectangle(
                    outputs.reshape(groups, -1), inputs.reshape(groups, -1).any(1), second
                )
            else:
                assert torch.equal(first, outputs) and rectangle(
                    inputs.reshape(groups, -1), first.reshape(groups, -1).any(1), second
                )
            blocks = first.reshape(groups, -1)
            assert rectangle(blocks, blocks.any(1), blocks.any(0))
            assert bias is None or torch.equal(lines[bias][0], outputs)
        case Scale(weight, bias, shape, factor, center):
            assert torch.equal(x, y)
            for slot in (weight, bias, *(getattr(f, "slot", None) for f in (factor, center))):
                assert slot is None or alike(stays[slot].reshape(shape), y)
        case Embed(weight):
            assert lines[weight][0].all() and torch.equal(lines[weight][1], own[-1])
        case Frozen():
            assert y.all()
        case Source(Named(slot)):
            assert torch.equal(stays[slot], y)
        case Normalise():
            assert torch.equal(x, y)
            if op.map.kind == "group":
                blocks = own[1].reshape(op.map.groups, -1)
                assert torch.equal(blocks.any(1), blocks.all(1)) and all(line.all() for line in own[2:])
                assert op.map.groups > 1 or blocks.all()
            else:
                assert all(line.all() for line in own[-len(op.map.shape) :])
        case Softmax(dim):
            assert torch.equal(x, y) and own[dim].all()
        case Product(kind="matmul"):
            other = lines[op.inputs[1]]
            assert torch.equal(read[-1], other[-2]) and torch.equal(read[-2], own[-2]) and torch.equal(other[-1], own[-1])
        case Merge() if indexed:
            pass  # every operand, and the sum, keeps its own
        case Merge() | Product(kind="mul"):
            for name in op.inputs:
                assert alike(stays[name], y)
        case Reindex():
            reindexed(op.map, [stays[n] for n in op.inputs], y, captured)
        case Resample() | Window():
            rank = len(getattr(op.map, "kernel", ()) or op.map.size)
            assert all(line.all() for line in own[-rank:]) and all(map(torch.equal, read[:-rank], own[:-rank]))
        case _:
            assert torch.equal(x, y)


def rectangle(blocks: Tensor, rows: Tensor, columns: Tensor) -> bool:
    return torch.equal(blocks, rows[:, None] & columns)


def alike(part: Tensor, y: Tensor) -> bool:
    """Whether what broadcasts against y keeps what y keeps, in the dimensions that it has; the others it keeps."""
    for place in range(-part.dim(), 0):
        line, own = (t.movedim(place, 0).flatten(1).any(1) if t.dim() > 1 else t for t in (part, y))
        if not torch.equal(line, own if part.shape[place] == y.shape[place] else torch.ones_like(line)):
            return False
    return True


def reindexed(map: Reindex, inputs: list[Tensor], y: Tensor, captured: Capture) -> None:
    """Moving the entries that stay gives the entries that stay; copies and paddings may be fewer."""
    args = dict(map.args)
    moved = apply_reindex(map, [t.double() for t in inputs], 1, captured.tensors) > 0
    if map.fn == "sum":
        assert torch.equal(moved, y)
    elif map.fn == "pad":
        inside = apply_reindex(map, [torch.ones_like(inputs[0], dtype=torch.float64)], 1, {}) > 0
        assert torch.equal(moved & inside, y & inside)
    elif map.fn in ("expand", "repeat"):
        assert not (y & ~moved).any()
    else:
        assert torch.equal(moved, y), (map, args)


def parts(axis: Tensor | None) -> list[int] | None:
    return None if axis is None else axis.tolist()


def kept_of(model: nn.Module, inputs: tuple[Tensor, ...], masks: dict[str, Tensor], **options) -> Kept:
    captured = capture(model, inputs)
    return kept_units(captured.graph, captured.tensors, masks, captured.watched, **options)


def without(model: nn.Module, **gone: object) -> dict[str, Tensor]:
    """Masks without some entries, by parameter (its dots as ``__``) and index."""
    parameters = dict(model.named_parameters())
    found = {}
    for name, index in gone.items():
        mask = torch.ones(parameters[name.replace("__", ".")].shape, dtype=torch.bool)
        mask[index] = False
        found[name.replace("__", ".")] = mask
    return found


def attention(**gone: object) -> Kept:
    """Three heads of two."""
    model, inputs = groups_models.attention()
    return kept_of(model, inputs, without(model, **gone))


def test_a_pair_of_queries_and_keys_leaves_where_it_is_dead_in_all_heads():
    kept = attention(k__weight=[0, 2, 4])
    assert [parts(kept.axes[n][0]) for n in ("q.weight", "q.bias", "k.weight")] == [[1, 3, 5]] * 3
    assert kept.axes["v.weight"] == (None, None)


def test_a_pair_that_is_dead_in_some_heads_stays():
    kept = attention(k__weight=[0, 2])
    assert parts(kept.axes["q.weight"][0]) is None and parts(kept.axes["k.weight"][0]) is None
    assert [n for text, n in kept.reasons if "views it together" in text] == [2, 2]


def test_a_head_leaves_whole():
    kept = attention(o__weight=(slice(None), slice(2, 4)))
    for name, dim in (("q.weight", 0), ("k.weight", 0), ("v.weight", 0), ("v.bias", 0), ("o.weight", 1)):
        assert parts(kept.axes[name][dim]) == [0, 1, 4, 5]


def test_heads_and_pairs_leave_at_once():
    kept = attention(o__weight=(slice(None), slice(2, 4)), k__weight=[1, 5])
    assert parts(kept.axes["q.weight"][0]) == [0, 4] and parts(kept.axes["v.weight"][0]) == [0, 1, 4, 5]


def between(change, second: int, **gone: object) -> Kept:
    """Six units ``a`` at each of four positions, a view of them, and what reads it."""
    net = Net(lambda m, x: m.b(change(m.a(x))), a=nn.Linear(2, 6, bias=False), b=nn.Linear(second, 2))
    model, inputs = built(net, drawn(2, 4, 2))
    return kept_of(model, inputs, without(model, **gone))


def test_factors_that_two_shapes_share_are_taken_apart():
    """4 positions x 6 units seen as 2 x 12: of every two positions the same units leave."""
    kept = between(lambda x: x.reshape(x.shape[0], 2, 12), 12, a__weight=[1, 4])
    assert parts(kept.axes["a.weight"][0]) == [0, 2, 3, 5] and parts(kept.axes["b.weight"][1]) == [0, 2, 3, 5, 6, 8, 9, 11]
    kept = between(lambda x: x.reshape(x.shape[0], 8, 3), 3, b__weight=(slice(None), 1))
    assert parts(kept.axes["a.weight"][0]) == [0, 2, 3, 5] and parts(kept.axes["b.weight"][1]) == [0, 2]


def test_a_view_that_divides_across_units_keeps_them():
    kept = between(lambda x: x.reshape(x.shape[0], 3, 8), 8, a__weight=[1, 4])
    assert kept.axes["a.weight"] == (None, None)
    assert dict(kept.reasons)["%reshape divides it across its units"] == 2


def test_a_sum_over_units_loses_zeros_and_a_mean_keeps_them():
    for reduce, left in ((lambda x: x.sum(-1, keepdim=True), [0, 2, 3, 5]), (lambda x: x.mean(-1, keepdim=True), None)):
        kept = between(reduce, 1, a__weight=[1, 4])
        assert parts(kept.axes["a.weight"][0]) == left
    assert dict(kept.reasons)["%mean takes a mean over it"] == 2


def test_what_is_said_to_stay_whole_does():
    model, inputs = chain()
    masks = without(model, **{"0__weight": [1], "0__bias": [1], "1__weight": [1], "1__bias": [1]})
    assert parts(kept_of(model, inputs, masks).axes["0.weight"][0]) == [0, 2]
    kept = kept_of(model, inputs, masks, whole=frozenset({"1.weight"}))
    assert all(axis is None for index in kept.axes.values() for axis in index)
    assert kept.reasons == (("it was to stay whole", 1),)


def test_a_network_of_which_nothing_is_left_has_one_unit_in_every_layer():
    model, inputs = chain()
    kept = kept_of(model, inputs, {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters()})
    assert [parts(axis) for axis in kept.axes["0.weight"]] == [[0], None, None, None]
    assert [parts(axis) for axis in kept.axes["5.weight"]] == [None, [0, 1, 2, 3]]
    assert dict(kept.reasons)["the last of its dimension stays"] == 1


def test_padded_channels_leave_with_those_that_they_are_added_to():
    """A block of 12 channels on a path of 8 that two zeros surround on either side."""
    model, inputs = resnet()
    dead = {f"{block}__{name}": [0, 1] for block in (4, 5) for name in ("two__weight", "bn2__weight", "bn2__bias")}
    kept = kept_of(model, inputs, without(model, **dead))
    assert [parts(kept.axes[n][0]) for n in ("4.two.weight", "5.two.weight", "5.bn2.running_mean")] == [list(range(2, 12))] * 3
    assert parts(kept.axes["8.weight"][1]) == list(range(2, 12)) and kept.axes["3.two.weight"] == (None,) * 4


def test_branches_that_are_indexed_keep_their_own():
    model, inputs = resnet()
    masks = without(model, **{f"3__{name}": [2, 5] for name in ("two__weight", "bn2__weight", "bn2__bias")})
    assert kept_of(model, inputs, masks).axes["3.two.weight"][0] is None
    kept = kept_of(model, inputs, masks, streams="indexed")
    assert parts(kept.axes["3.two.weight"][0]) == [0, 1, 3, 4, 6, 7] and kept.axes["0.weight"][0] is None
    assert kept.reasons == ()


def test_recurrent_units_leave_over_gates_and_time():
    """Unit 3 of six: its candidate is 0."""
    model, inputs = lstm(layers=1)
    masks = without(model, **{f"cell__{name}_l0": [15] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    rows = [i for i in range(24) if i % 6 != 3]
    for streams in ("union", "indexed"):
        kept = kept_of(model, inputs, masks, streams=streams)
        assert all(parts(kept.axes[name][0]) == rows for name in masks)
        assert [parts(kept.axes[n][1]) for n in ("cell.weight_hh_l0", "head.weight")] == [rows[:5], rows[:5]]
        assert parts(kept.axes["cell.weight_ih_l0"][1]) is None


def test_what_recorded_factors_are_computed_from_must_be_given():
    _, _, captured = captured_of(frozen)
    with pytest.raises(pkcompiler.PkcError, match="PKC440"):
        kept_units(captured.graph, captured.tensors)
    with pytest.raises(pkcompiler.PkcError, match="PKC401"):
        kept_units(captured.graph, captured.tensors, {"a": torch.ones(1)}, captured.watched)


def test_a_slot_that_no_operation_reads_stays():
    _, _, captured = captured_of(frozen)
    graph = replace(captured.graph, slots=(*captured.graph.slots, Slot("idle", TensorType("f64", (3, 2)), "parameter")))
    tensors = {**captured.tensors, "idle": torch.ones(3, 2)}
    assert kept_units(graph, tensors, None, captured.watched).axes["idle"] == (None, None)
