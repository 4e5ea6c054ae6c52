"""Pools and resampling: averages are fixed linear maps, maxima are windows."""

from __future__ import annotations

from typing import Any

from pkcompiler.ir.maps import Constant, Literal, Reindex, Resample, Window
from pkcompiler.ops.linear import tuple_of
from pkcompiler.ops.table import Path, Ref, Use, path_op


def reduce_sum(use: Use, x: Path, dims: list[int], keepdim: bool) -> Path:
    """The sum over ``dims`` (the whole shape when empty)."""
    rank = len(x.shape)
    axes = tuple(sorted(d % rank for d in dims)) if dims else tuple(range(rank))
    if 0 in axes and not isinstance(x.shape[0], int):
        raise use.unsupported("it sums over the batch")
    return use.emit(Reindex("sum", (("dims", axes), ("keepdim", keepdim))), x)


def reduce_mean(use: Use, x: Path, dims: list[int], keepdim: bool) -> Path:
    rank = len(x.shape)
    count = 1
    for d in dims or range(rank):
        count *= int(x.shape[d % rank])
    return use.emit(Constant(Literal(1 / count)), reduce_sum(use, x, dims, keepdim))


@path_op("aten.sum.default", "aten.sum.dim_IntList")
def sum_(use: Use) -> Ref:
    dims = use["dim"] if "dim" in use else []
    return reduce_sum(use, use.path(use["self"]), dims or [], use["keepdim"] if "keepdim" in use else False)


@path_op("aten.mean.default", "aten.mean.dim")
def mean(use: Use) -> Ref:
    dims = use["dim"] if "dim" in use else []
    return reduce_mean(use, use.path(use["self"]), dims or [], use["keepdim"] if "keepdim" in use else False)


def average(rank: int) -> Any:
    def entry(use: Use) -> Ref:
        x = use.path(use["self"])
        kernel = tuple_of(use["kernel_size"], rank)
        stride = tuple_of(use["stride"], rank) if use["stride"] else kernel
        padding = tuple_of(use["padding"], rank)
        size = tuple(int(d) for d in use.shape[-rank:])
        divisor = use["divisor_override"] if "divisor_override" in use else None
        map = Resample("average", size, kernel, stride, padding, use["ceil_mode"], use["count_include_pad"])
        if divisor is None:
            return use.emit(map, x)
        volume = 1
        for k in kernel:
            volume *= k
        if use["ceil_mode"] or not use["count_include_pad"]:
            raise use.unsupported("divisor_override together with ceil_mode or without count_include_pad")
        return use.emit(Constant(Literal(volume / divisor)), use.emit(map, x))

    return entry


def adaptive_average(rank: int) -> Any:
    def entry(use: Use) -> Ref:
        x = use.path(use["self"])
        size = tuple(int(d) for d in use.shape[-rank:])
        if set(size) == {1}:
            return reduce_mean(use, x, list(range(-rank, 0)), True)
        return use.emit(Resample("adaptive_average", size), x)

    return entry


def maximum(rank: int) -> Any:
    def entry(use: Use) -> Ref:
        kernel = tuple_of(use["kernel_size"], rank)
        stride = tuple_of(use["stride"], rank) if use["stride"] else kernel
        map = Window(kernel, stride, tuple_of(use["padding"], rank), tuple_of(use["dilation"], rank), use["ceil_mode"])
        return use.record("window", use.emit(map, use["self"]))

    return entry


def adaptive_maximum(rank: int) -> Any:
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
    return [use.record("window", use.emit(map, use["self"], shape=use.shape[0]))]  # type: ignore[arg-type]


@path_op("aten.amax.default")
def amax(use: Use) -> Ref:
    rank = len(use["self"].shape)
    dims = tuple(sorted(d % rank for d in use["dim"])) or tuple(range(rank))
    return use.record("window", use.emit(Window((), dims=dims, keepdim=use["keepdim"]), use["self"]))


def upsample(kind: str, rank: int) -> Any:
    def entry(use: Use) -> Ref:
        size = tuple(int(d) for d in use.shape[-rank:])
        scales = tuple(float(s) for s in use["scale_factors"]) if use["scale_factors"] else ()
        corners = bool(use["align_corners"]) if "align_corners" in use else False
        return use.emit(Resample(kind, size, align_corners=corners, scale=scales), use.path(use["input"]))  # type: ignore[arg-type]

    return entry


for _rank in (1, 2, 3):
    path_op(f"aten.upsample_nearest{_rank}d.vec")(upsample("nearest", _rank))
    path_op(f"aten._upsample_nearest_exact{_rank}d.vec")(upsample("nearest_exact", _rank))
path_op("aten.upsample_linear1d.vec")(upsample("linear", 1))
path_op("aten.upsample_bilinear2d.vec")(upsample("linear", 2))
path_op("aten.upsample_trilinear3d.vec")(upsample("linear", 3))
path_op("aten.upsample_bicubic2d.vec")(upsample("cubic", 2))
