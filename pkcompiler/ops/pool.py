"""Pools and resampling: averages are fixed linear maps, maxima are windows."""

from __future__ import annotations

import math
from typing import Any
from typing import Literal as Lit

from pkcompiler.ir.maps import Constant, Literal, Reindex, Resample, Window
from pkcompiler.ops.linear import scaled, tuple_of
from pkcompiler.ops.table import Path, Ref, Use, path_op


def reduce_sum(use: Use, x: Path, dims: list[int], keepdim: bool) -> Path:
    """The sum over ``dims`` (the whole shape when empty)."""
    rank = len(x.shape)
    axes = tuple(sorted(d % rank for d in dims)) if dims else tuple(range(rank))
    if 0 in axes and not isinstance(x.shape[0], int):
        raise use.unsupported("it sums over the batch")
    return use.emit(Reindex("sum", (("dims", axes), ("keepdim", keepdim))), x)


def reduce_mean(use: Use, x: Path, dims: list[int], keepdim: bool) -> Path:
    """The mean over ``dims``, over all where there are none: the sum times a constant."""
    total = reduce_sum(use, x, dims, keepdim)
    count = math.prod(x.shape[d] for d in dims or range(len(x.shape)))
    return use.emit(Constant(Literal(1 / count)), total)


@path_op("aten.sum.default", "aten.sum.dim_IntList")
def sum_(use: Use) -> Ref:
    return reduce_sum(use, use.path(use["self"]), use.get("dim", []), use.get("keepdim", False))


@path_op("aten.mean.default", "aten.mean.dim")
def mean(use: Use) -> Ref:
    return reduce_mean(use, use.path(use["self"]), use.get("dim", []), use.get("keepdim", False))


def average(rank: int) -> Any:
    """The entry of an average pool over the last ``rank`` dimensions."""

    def entry(use: Use) -> Ref:
        x = use.path(use["self"])
        kernel = tuple_of(use["kernel_size"], rank)
        stride = tuple_of(use["stride"], rank) if use["stride"] else kernel
        padding = tuple_of(use["padding"], rank)
        size = tuple(int(d) for d in use.shape[-rank:])
        divisor = use.get("divisor_override")
        if divisor is not None:
            return average_over(use, x, kernel, stride, padding, divisor)
        return use.emit(Resample("average", size, kernel, stride, padding, use["ceil_mode"], use["count_include_pad"]), x)

    return entry


def average_over(
    use: Use, x: Path, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], divisor: int
) -> Path:
    """The sum of each window over ``divisor``: the border is padded as far as the last window reaches."""
    rank = len(kernel)
    size = tuple(int(d) for d in use.shape[-rank:])
    pads: list[int] = []
    for i in reversed(range(rank)):
        reach = (size[i] - 1) * stride[i] + kernel[i] - padding[i]
        pads += [padding[i], max(reach - int(x.shape[i - rank]), 0)]
    shape = (*x.shape[:-rank], *(int(x.shape[i - rank]) + pads[-2 * i - 2] + pads[-2 * i - 1] for i in range(rank)))
    wide = use.emit(Reindex("pad", (("pad", tuple(pads)), ("mode", "constant"))), x, shape=shape)
    mean = use.emit(Resample("average", size, kernel, stride, (0,) * rank), wide)
    return use.emit(Constant(Literal(math.prod(kernel) / divisor)), mean)


def adaptive_average(rank: int) -> Any:
    """The entry of an average pool to a given size of the last ``rank`` dimensions; to size 1 it is their mean."""

    def entry(use: Use) -> Ref:
        x = use.path(use["self"])
        size = tuple(int(d) for d in use.shape[-rank:])
        if set(size) == {1}:
            return reduce_mean(use, x, list(range(-rank, 0)), True)
        return use.emit(Resample("adaptive_average", size), x)

    return entry


def maximum(rank: int) -> Any:
    """The entry of a maximum pool over the last ``rank`` dimensions, its winners observed at the data."""

    def entry(use: Use) -> Ref:
        kernel = tuple_of(use["kernel_size"], rank)
        stride = tuple_of(use["stride"], rank) if use["stride"] else kernel
        map = Window(kernel, stride, tuple_of(use["padding"], rank), tuple_of(use["dilation"], rank), use["ceil_mode"])
        return use.record("window", use.emit(map, use["self"]))

    return entry


def adaptive_maximum(rank: int) -> Any:
    """The entry of a maximum pool to a given size of the last ``rank`` dimensions; refuses windows of different sizes."""

    def entry(use: Use) -> list[Ref]:
        size = [int(d) for d in use["self"].shape[-rank:]]
        out = [int(d) for d in use["output_size"]]
        if any(n % o for n, o in zip(size, out, strict=True)):
            raise use.unsupported("its windows have different sizes")
        kernel = tuple(n // o for n, o in zip(size, out, strict=True))
        shape = (*use["self"].shape[:-rank], *out)
        result = use.emit(Window(kernel, kernel, (0,) * rank, (1,) * rank), use["self"], shape=shape)
        return [use.record("window", result)]

    return entry


for _rank in (1, 2, 3):
    path_op(f"aten.avg_pool{_rank}d.default")(average(_rank))
    path_op(f"aten.adaptive_avg_pool{_rank}d.default")(adaptive_average(_rank))
    path_op(f"aten.max_pool{_rank}d.default")(maximum(_rank))
    path_op(f"aten.adaptive_max_pool{_rank}d.default")(adaptive_maximum(_rank))


@path_op("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def max_with_indices(use: Use) -> list[Ref]:
    rank = len(use["self"].shape) - 2
    kernel = tuple_of(use["kernel_size"], rank)
    stride = tuple_of(use["stride"], rank) if use["stride"] else kernel
    map = Window(kernel, stride, tuple_of(use["padding"], rank), tuple_of(use["dilation"], rank), use["ceil_mode"])
    return [use.record("window", use.emit(map, use["self"], shape=use.shape[0]))]


@path_op("aten.amax.default")
def amax(use: Use) -> Ref:
    rank = len(use["self"].shape)
    dims = tuple(sorted(d % rank for d in use["dim"])) or tuple(range(rank))
    return use.record("window", use.emit(Window((), dims=dims, keepdim=use["keepdim"]), use["self"]))


@path_op("aten.max.dim")
def max_along(use: Use) -> list[Ref]:
    dim = use["dim"] % len(use["self"].shape)
    map = Window((), dims=(dim,), keepdim=use["keepdim"])
    return [use.record("window", use.emit(map, use["self"], shape=use.shape[0]))]


def larger_of_two(sign: int) -> Any:
    """The larger (sign 1) or smaller (-1) of two tensors: a window over both. Of one tensor alone it is a gate."""

    def entry(use: Use) -> Ref:
        sides = [scaled(use, spread(use, use[argument]), sign) for argument in ("self", "other")]
        shape = (1, *use.shape)
        pair = [use.emit(Reindex("reshape", (("shape", shape),)), side, shape=shape) for side in sides]
        both = use.emit(Reindex("cat", (("dim", 0),)), *pair, shape=(2, *use.shape))
        return scaled(use, use.record_pair(use.emit(Window((), dims=(0,)), both), sign), sign)

    return entry


def spread(use: Use, ref: Ref) -> Path:
    """``ref`` as a path value of the result's shape."""
    x = use.path(ref)
    whole = tuple(x.shape) == tuple(use.shape)
    return x if whole else use.emit(Reindex("expand", (("shape", use.shape),)), x, shape=use.shape)


path_op("aten.maximum.default", "aten.fmax.default", "aten.max.other")(larger_of_two(1))
path_op("aten.minimum.default", "aten.fmin.default", "aten.min.other")(larger_of_two(-1))


Kind = Lit["nearest", "nearest_exact", "linear", "cubic"]


def upsample(kind: Kind, rank: int) -> Any:
    """The entry of an upsampling of the last ``rank`` dimensions."""

    def entry(use: Use) -> Ref:
        size = tuple(int(d) for d in use.shape[-rank:])
        scales = tuple(float(s) for s in use["scale_factors"]) if use["scale_factors"] else ()
        corners = bool(use.get("align_corners", False))
        return use.emit(Resample(kind, size, align_corners=corners, scale=scales), use.path(use["input"]))

    return entry


for _rank in (1, 2, 3):
    path_op(f"aten.upsample_nearest{_rank}d.vec")(upsample("nearest", _rank))
    path_op(f"aten._upsample_nearest_exact{_rank}d.vec")(upsample("nearest_exact", _rank))
path_op("aten.upsample_linear1d.vec")(upsample("linear", 1))
path_op("aten.upsample_bilinear2d.vec")(upsample("linear", 2))
path_op("aten.upsample_trilinear3d.vec")(upsample("linear", 3))
path_op("aten.upsample_bicubic2d.vec")(upsample("cubic", 2))
