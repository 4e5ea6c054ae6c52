"""What stays when all that masks have left without effect is cut out: outputs are the same, and every index set fits the others."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.maps import (
    Conv,
    Dense,
    Embed,
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
from pkcompiler.ir.types import Op
from pkcompiler.paths.reindex import apply_reindex, concrete
from pkcompiler.structure.kept import Kept, kept_units
from tests.structure.graph_function import GraphFunction
from tests.structure.kept_models import MODELS

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
