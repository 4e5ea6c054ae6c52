"""Reindexings: every operator that moves, repeats, drops or sums entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pkcompiler.ir.maps import Batch, Dim, Merge, Reindex
from pkcompiler.ops.linear import take
from pkcompiler.ops.table import Entry, Index, Known, Path, Ref, Use, path_op


@path_op(
    "aten.view.default", "aten.reshape.default", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.squeeze.dims",
    "aten.squeeze.default", "aten.flatten.using_ints", "aten._unsafe_view.default", "aten.unflatten.int",
)  # fmt: skip
def reshape(use: Use) -> Ref:
    return reshaped(use, use["self"], use.shape)


def reshaped(use: Use, x: Ref, shape: Sequence[Dim]) -> Ref:
    """x in another shape; x itself where it has that already."""
    if tuple(x.shape) == tuple(shape):
        return x
    if isinstance(x, Index):
        made = use.emit(Reindex("reshape", (("shape", tuple(shape)),)), x, shape=shape)
        return Index(made.name, tuple(shape))
    return use.emit(Reindex("reshape", (("shape", tuple(shape)),)), use.path(x), shape=shape)


@path_op("aten.permute.default", "aten.transpose.int", "aten.t.default")
def permute(use: Use) -> Ref:
    return permuted(use, use["self"], turning(use) or ())


def permuted(use: Use, x: Ref, dims: Sequence[int]) -> Ref:
    """x with its dimensions in the order ``dims``; x itself where that is theirs."""
    if tuple(dims) == tuple(range(len(dims))):
        return x
    return use.emit(Reindex("permute", (("dims", tuple(dims)),)), use.path(x), shape=tuple(x.shape[d] for d in dims))


def turning(use: Use) -> tuple[int, ...] | None:
    """The dimensions of its operand in the order that an operator puts them in; None for one that does no such thing."""
    rank = len(use.shape)
    match use.name:
        case "aten.permute.default":
            return tuple(d % rank for d in use["dims"])
        case "aten.t.default":
            return tuple(reversed(range(rank)))
        case "aten.transpose.int":
            swapped = {(a := use["dim0"] % rank): (b := use["dim1"] % rank), b: a}
            return tuple(swapped.get(d, d) for d in range(rank))
    return None


@path_op("aten.expand.default")
def expand(use: Use) -> Ref:
    x = use["self"]
    return x if tuple(x.shape) == tuple(use.shape) else use.emit(Reindex("expand", (("shape", use.shape),)), use.path(x))


@path_op("aten.slice.Tensor")
def slice_(use: Use) -> Ref:
    start, end = use["start"] or 0, use["end"]
    return sliced(use, use["self"], use["dim"], start, end, shape=use.shape, step=use["step"])


def sliced(use: Use, x: Ref, dim: int, start: int, end: int | None, *, shape: Sequence[Dim], step: int = 1) -> Ref:
    """Entries ``start`` to ``end`` of a dimension, which give ``shape``; x itself where it has that already. Refuses the batch."""
    if tuple(x.shape) == tuple(shape):
        return x
    dim %= len(x.shape)
    size = x.shape[dim]
    if isinstance(size, Batch):
        raise use.unsupported("it slices the batch")
    first, last = bounds(start, end, size)
    args = (("dim", dim), ("start", first), ("end", last), ("step", step))
    return use.emit(Reindex("slice", args), use.path(x), shape=shape)


@path_op("aten.narrow.default")
def narrow(use: Use) -> Ref:
    return sliced(use, use["self"], use["dim"], use["start"], use["start"] + use["length"], shape=use.shape)


@path_op("aten.select.int")
def select(use: Use) -> Ref:
    x = use["self"]
    dim = use["dim"] % len(x.shape)
    size = x.shape[dim]
    if isinstance(size, Batch):
        raise use.unsupported("it selects one sample of the batch")
    return use.emit(Reindex("select", (("dim", dim), ("index", use["index"] % size))), use.path(x))


@path_op("aten.cat.default")
def cat(use: Use) -> Ref:
    parts = [p for p in use["tensors"] if tuple(p.shape) != (0,)]
    dim = use["dim"] % len(use.shape)
    if isinstance(use.shape[dim], Batch):
        raise use.unsupported("it concatenates along the batch")
    return use.emit(Reindex("cat", (("dim", dim),)), *(use.path(p) for p in parts))


@path_op("aten.stack.default")
def stack(use: Use) -> Ref:
    dim = use["dim"] % len(use.shape)
    single = (*use.shape[:dim], 1, *use.shape[dim + 1 :])
    parts = [reshaped(use, use.path(p), single) for p in use["tensors"]]
    return use.emit(Reindex("cat", (("dim", dim),)), *parts)


def pieces(use: Use, sizes: Sequence[int], dim: int) -> list[Ref]:
    """The operand in consecutive pieces along ``dim``, of the given sizes."""
    x = use["self"]
    dim %= len(x.shape)
    out, start = [], 0
    for size in sizes:
        shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
        out.append(sliced(use, x, dim, start, start + size, shape=shape))
        start += size
    return out


@path_op("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default")
def split(use: Use) -> list[Ref]:
    dim = use["dim"]
    shapes = use.shape
    return pieces(use, [int(s[dim % len(s)]) for s in shapes], dim)


@path_op("aten.unbind.int")
def unbind(use: Use) -> list[Ref]:
    x = use.path(use["self"])
    dim = use["dim"] % len(x.shape)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    return [use.emit(Reindex("select", (("dim", dim), ("index", i))), x, shape=shape) for i in range(int(x.shape[dim]))]


@path_op("aten.constant_pad_nd.default", "aten.pad.default")
def pad(use: Use) -> Ref:
    x = use.path(use["self"])
    mode = use.get("mode", "constant")
    out = use.emit(Reindex("pad", (("pad", tuple(use["pad"])), ("mode", mode))), x)
    value = use.get("value", 0)
    if mode != "constant" or value == 0:
        return out
    inner = [1 if isinstance(d, Batch) else d for d in x.shape]
    border = torch.nn.functional.pad(torch.zeros(inner), use["pad"], value=value)
    shape = tuple(1 if isinstance(d, Batch) else d for d in use.shape)
    return use.emit(Merge((1, 1)), out, use.path(Known(border, shape)))


def padded(mode: str) -> Entry:
    """The entry of a padding in one mode."""

    def entry(use: Use) -> Ref:
        return use.emit(Reindex("pad", (("pad", tuple(use["padding"])), ("mode", mode))), use.path(use["self"]))

    return entry


for _rank in (1, 2, 3):
    path_op(f"aten.reflection_pad{_rank}d.default")(padded("reflect"))
    path_op(f"aten.replication_pad{_rank}d.default")(padded("replicate"))


@path_op("aten.roll.default")
def roll(use: Use) -> Ref:
    x = use.path(use["self"])
    dims = tuple(d % len(x.shape) for d in use["dims"])
    if not dims:
        raise use.unsupported("it rolls over the batch")
    return use.emit(Reindex("roll", (("shifts", tuple(use["shifts"])), ("dims", dims))), x)


@path_op("aten.flip.default")
def flip(use: Use) -> Ref:
    x = use.path(use["self"])
    return use.emit(Reindex("flip", (("dims", tuple(d % len(x.shape) for d in use["dims"])),)), x)


@path_op("aten.repeat.default")
def repeat(use: Use) -> Ref:
    x, repeats = use.path(use["self"]), tuple(use["repeats"])
    for dim, count in enumerate(repeats):
        if isinstance(count, Batch):
            x = along_batch(use, x, dim - (len(repeats) - len(x.shape)), count)
    whole = tuple(1 if isinstance(count, Batch) else count for count in repeats)
    return x if tuple(x.shape) == tuple(use.shape) else use.emit(Reindex("repeat", (("repeats", whole),)), x)


def along_batch(use: Use, x: Path, dim: int, count: Batch) -> Path:
    """x repeated ``count`` times along one dimension."""
    before, after = x.shape[: max(dim, 0)], x.shape[max(dim + 1, 0) :]
    size = x.shape[dim] if dim >= 0 else 1
    if isinstance(size, Batch) or dim < -1:
        raise use.unsupported("it repeats over the batch")
    apart = use.path(reshaped(use, x, (*before, 1, *([size] if dim >= 0 else []), *after)))
    shape = (*before, count, *([size] if dim >= 0 else []), *after)
    wide = use.emit(Reindex("expand", (("shape", shape),)), apart, shape=shape)
    return use.path(reshaped(use, wide, (*before, Batch(count.factor * size), *after)))


@path_op("aten.repeat_interleave.self_int")
def repeat_interleave(use: Use) -> Ref:
    x = use.path(use["self"])
    dim = use["dim"] % len(x.shape)
    index = torch.arange(int(x.shape[dim])).repeat_interleave(use["repeats"])
    return take(use, x, dim, Known(index, (index.numel(),)))


@path_op("aten.cumsum.default")
def cumsum(use: Use) -> Ref:
    x = use.path(use["self"])
    return use.emit(Reindex("cumsum", (("dim", use["dim"] % len(x.shape)),)), x)


@path_op("aten.unfold.default")
def unfold(use: Use) -> Ref:
    x = use.path(use["self"])
    args = (("dim", use["dimension"] % len(x.shape)), ("size", use["size"]), ("step", use["step"]))
    return use.emit(Reindex("unfold", args), x)


@path_op("aten.diagonal.default")
def diagonal(use: Use) -> Ref:
    x = use.path(use["self"])
    rank = len(x.shape)
    args = (("offset", use["offset"]), ("dim1", use["dim1"] % rank), ("dim2", use["dim2"] % rank))
    return use.emit(Reindex("diagonal", args), x)


@path_op("aten.index_select.default")
def index_select(use: Use) -> Ref:
    rows = use["index"]
    if not isinstance(rows, Known):
        raise use.unsupported("its indices depend on the data")
    x = use.path(use["self"])
    return take(use, x, use["dim"] % len(x.shape), rows)


@path_op("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(use: Use) -> Ref:
    """Constant indices: their dimensions are flattened (moved to the front if they are not neighbours), then rows are taken."""
    x, indices = use.path(use["self"]), use["indices"]
    given = [i for i, ref in enumerate(indices) if ref is not None]
    refs = [indices[i] for i in given]
    if not all(isinstance(r, Known) for r in refs):
        raise use.unsupported("its indices depend on the data")
    if given != list(range(given[0], given[-1] + 1)):
        rest = [d for d in range(len(x.shape)) if d not in given]
        x, given = use.path(permuted(use, x, given + rest)), list(range(len(given)))
    sizes = lengths(use, x, given)
    tensors = torch.broadcast_tensors(*(_integers(r.tensor) for r in refs))
    flat = flat_index(tensors, sizes)
    merged = use.path(reshaped(use, x, (*x.shape[: given[0]], math.prod(sizes), *x.shape[given[-1] + 1 :])))
    return take(use, merged, given[0], Known(flat, tuple(flat.shape)))


def lengths(use: Use, x: Path, dims: Sequence[int]) -> list[int]:
    """The sizes of dimensions that are not the batch."""
    sizes = [x.shape[d] for d in dims]
    if any(isinstance(s, Batch) for s in sizes):
        raise use.unsupported("it indexes the batch")
    return [int(s) for s in sizes if not isinstance(s, Batch)]


def flat_index(tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """Indices into several dimensions as one into their product; negative ones count from the end."""
    flat = torch.zeros_like(tensors[0])
    for tensor, size in zip(tensors, sizes, strict=True):
        flat = flat * size + torch.where(tensor < 0, tensor + size, tensor)
    return flat


def _integers(index: torch.Tensor) -> torch.Tensor:
    return index.nonzero().squeeze(-1) if index.dtype == torch.bool else index.to(torch.int64)


@path_op("aten.gather.default")
def gather(use: Use) -> Ref:
    """Entries along one dimension by a constant index that is the same for every sample."""
    x, rows = use.path(use["self"]), use["index"]
    if not isinstance(rows, Known):
        raise use.unsupported("its indices depend on the data")
    dim = use["dim"] % len(x.shape)
    sizes = lengths(use, x, range(1, len(x.shape)))
    if dim == 0 or rows.shape[0] != x.shape[0]:
        raise use.unsupported("it indexes the batch")
    index = _integers(rows.tensor[0])
    grid = list(torch.meshgrid(*(torch.arange(n) for n in index.shape), indexing="ij"))
    grid[dim - 1] = index
    flat = flat_index(grid, sizes)
    merged = use.path(reshaped(use, x, (x.shape[0], math.prod(sizes))))
    return take(use, merged, 1, Known(flat, tuple(flat.shape)))


@path_op("aten.slice_scatter.default")
def slice_scatter(use: Use) -> Ref:
    """``x[start:end] = source``: what is before, the source, what is after."""
    x, source = use.path(use["self"]), use.path(use["src"])
    dim = use["dim"] % len(x.shape)
    if tuple(x.shape) == tuple(source.shape):
        return source
    (size,) = lengths(use, x, [dim])
    start, end = bounds(use.get("start", 0), use["end"], size)
    if use["step"] != 1:
        raise use.unsupported("it writes with a step")
    around = [(0, start), (end, size)]
    before, after = (
        [sliced(use, x, dim, a, b, shape=(*x.shape[:dim], b - a, *x.shape[dim + 1 :]))] if b > a else [] for a, b in around
    )
    parts = [*before, source, *after]
    return source if len(parts) == 1 else use.emit(Reindex("cat", (("dim", dim),)), *parts)


def bounds(start: int, end: int | None, size: int) -> tuple[int, int]:
    """Start and end of a slice of ``size`` entries, negative ones counted from the end."""
    first = max(start + size, 0) if start < 0 else min(start, size)
    last = size if end is None else max(end + size, 0) if end < 0 else min(end, size)
    return first, last
