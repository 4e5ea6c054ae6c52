"""The result type of a path map, from the types of its inputs and slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from pkcompiler.ir import maps
from pkcompiler.ir.dims import Shape, ShapeError, axis, broadcast, count, show, sizes, window
from pkcompiler.ir.infer_reindex import reindexed
from pkcompiler.ir.maps import Dim, Fixed, InvSqrt, Literal, Named, PathMap
from pkcompiler.ir.types import Slot, TensorType
from pkcompiler.ir.weights import side

Slots = Mapping[str, Slot]
_FLOATING = frozenset({"f64", "f32", "f16", "bf16"})


def infer(map: PathMap, inputs: tuple[TensorType, ...], slots: Slots) -> TensorType | None:
    """The type of ``map(inputs)``; None where element type or shape has no exact answer.

    The map must be well formed: its slots exist in ``slots``, its attributes are of their kinds, it has as many inputs as it takes.

    :raises ShapeError: no execution can have these shapes
    """
    shape = infer_shape(map, tuple(t.shape for t in inputs), slots)
    dtype = infer_dtype(map, inputs, slots)
    return None if shape is None or dtype is None else TensorType(dtype, shape)


def infer_dtype(map: PathMap, inputs: tuple[TensorType, ...], slots: Slots) -> str | None:
    """The element type where every floating operand has the same, else None. Gates and frozen factors may convert: None."""
    match map:
        case maps.Gate() | maps.Frozen() | maps.Source(Literal() | InvSqrt()):
            return None
        case maps.Source(Named(slot)):
            return slots[slot].type.dtype
        case maps.Embed(weight):
            return slots[weight].type.dtype
        case maps.Reindex() if map.fn in ("sum", "cumsum") and inputs[0].dtype not in _FLOATING:
            return None
    found = {t.dtype for t in inputs} | {slots[name].type.dtype for name in _weights(map)}
    return found.pop() if len(found) == 1 else None


def _weights(map: PathMap) -> tuple[str, ...]:
    match map:
        case (
            maps.Dense(weight, bias) | maps.Conv(weight, bias) | maps.Scale(weight, bias) | maps.Normalise(weight=weight, bias=bias)
        ):
            return tuple(name for name in (weight, bias) if name is not None)
        case maps.Constant(Named(name)):
            return (name,)
    return ()


def infer_shape(map: PathMap, shapes: tuple[Shape, ...], slots: Slots) -> Shape | None:
    """The shape of ``map(inputs)``; None where it is not determined (see :func:`infer`)."""
    match map:
        case maps.Dense():
            return _dense(map, shapes[0], slots)
        case maps.Conv():
            return _conv(map, shapes[0], slots[map.weight].type.shape, _stored(map.bias, slots))
        case maps.Scale():
            return _scale(map, shapes[0], slots)
        case maps.Embed(weight):
            return (*shapes[0], *_rank(slots[weight].type.shape, 2, "an embedding")[1:])
        case maps.Source(value):
            return _fixed(value, slots)
        case maps.Constant(factor):
            return broadcast(shapes[0], _fixed(factor, slots) or ())
        case maps.Reindex():
            return reindexed(map, shapes, slots)
        case maps.Resample():
            return _resample(map, shapes[0])
        case maps.Gate():
            return shapes[0]
        case maps.Window():
            return _window(map, shapes[0])
        case maps.Normalise():
            return _normalise(map, shapes[0], slots)
        case maps.Softmax():
            return _softmax(map, shapes[0], slots)
        case maps.Product():
            return _product(map, shapes[0], shapes[1])
        case maps.Merge():
            return broadcast(*shapes)
        case maps.Frozen():
            return None
        case _ as unreachable:
            assert_never(unreachable)


def _stored(name: str | None, slots: Slots) -> Shape | None:
    return None if name is None else slots[name].type.shape


def _fixed(value: Fixed, slots: Slots) -> Shape | None:
    return None if isinstance(value, Literal) else slots[value.slot].type.shape


def _rank(shape: Shape, rank: int, what: str) -> Shape:
    if len(shape) != rank:
        raise ShapeError(f"{what} needs {rank} dimensions, not {show(shape)}")
    return shape


def _same(found: Shape | None, expected: Shape, what: str) -> None:
    if found is not None and found != expected:
        raise ShapeError(f"{what} is {show(found)}, expected {show(expected)}")


def _dense(map: maps.Dense, x: Shape, slots: Slots) -> Shape:
    stored = _rank(slots[map.weight].type.shape, 2, "the weight")
    out, into = side(map).ordered(*stored)
    _same(x[-1:], (into,), "the last dimension of the input")
    _same(_stored(map.bias, slots), (out,), "the bias")
    return (*x[:-1], out)


def _conv(map: maps.Conv, x: Shape, weight: Shape, bias: Shape | None) -> Shape | None:
    n = len(map.stride)
    _rank(x, n + 2, "the input")
    kernel = sizes(_rank(weight, n + 2, "the weight"))
    if kernel is None or map.groups < 1:
        return None
    out, into = side(map).ordered(kernel[0], kernel[1] * map.groups)
    _same(x[1:2], (into,), "the channels of the input")
    _same(bias, (out,), "the bias")
    spatial = sizes(x[2:])
    if spatial is None:
        return None
    return (x[0], out, *(_conv_length(map, i, spatial[i], kernel[i + 2]) for i in range(n)))


def _conv_length(map: maps.Conv, i: int, length: int, kernel: int) -> int:
    if not map.transposed:
        return window(length, kernel, map.stride[i], map.padding[i], map.dilation[i])
    extra = map.output_padding[i] if map.output_padding else 0
    found = (length - 1) * map.stride[i] - 2 * map.padding[i] + map.dilation[i] * (kernel - 1) + extra + 1
    if found < 0:
        raise ShapeError(f"the transposed convolution leaves {found} positions")
    return found


def _scale(map: maps.Scale, x: Shape, slots: Slots) -> Shape:
    factors = (("the factor", map.factor), ("the center", map.center))
    stored = [("the weight", _stored(map.weight, slots)), ("the bias", _stored(map.bias, slots))]
    stored += [(what, _fixed(value, slots)) for what, value in factors if value is not None]
    for what, shape in stored:
        if shape is not None and count(shape) != count(map.shape):
            raise ShapeError(f"{what} {show(shape)} does not reshape to {show(map.shape)}")
    return broadcast(x, map.shape)


def _resample(map: maps.Resample, x: Shape) -> Shape | None:
    n = len(map.kernel) if map.kind == "average" else len(map.size)
    if len(x) < n:
        raise ShapeError(f"{n} resampled dimensions in {show(x)}")
    if map.kind != "average":
        return (*x[: len(x) - n], *map.size)
    return _pooled(x, map.kernel, map.stride, map.padding, (1,) * n, map.ceil_mode)


def _window(map: maps.Window, x: Shape) -> Shape | None:
    if map.kernel:
        return _pooled(x, map.kernel, map.stride, map.padding, map.dilation, map.ceil_mode)
    dims = {axis(d, len(x)) for d in map.dims} or set(range(len(x)))
    kept: list[Dim] = [1 if i in dims else d for i, d in enumerate(x) if map.keepdim or i not in dims]
    return tuple(kept)


def _pooled(
    x: Shape, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], ceil_mode: bool
) -> Shape | None:
    n = len(kernel)
    if len(x) < n:
        raise ShapeError(f"a window of {n} dimensions in {show(x)}")
    spatial = sizes(x[len(x) - n :])
    if spatial is None:
        return None
    steps, pads, gaps = stride or kernel, padding or (0,) * n, dilation or (1,) * n
    found = (window(spatial[i], kernel[i], steps[i], pads[i], gaps[i], ceil_mode) for i in range(n))
    return (*x[: len(x) - n], *found)


def _normalise(map: maps.Normalise, x: Shape, slots: Slots) -> Shape:
    _same(_stored(map.weight, slots), map.shape, "the weight")
    _same(_stored(map.bias, slots), map.shape, "the bias")
    if map.kind != "group":
        _same(x[max(0, len(x) - len(map.shape)) :], map.shape, "what is normalised")
        return x
    _same(x[1:2], map.shape, "the channels of the input")
    if map.groups < 1 or map.shape[0] % map.groups:
        raise ShapeError(f"{map.shape[0]} channels in {map.groups} groups")
    return x


def _softmax(map: maps.Softmax, x: Shape, slots: Slots) -> Shape:
    axis(map.dim, len(x))
    if map.allowed == "causal" and len(x) < 2:
        raise ShapeError(f"a causal softmax over {show(x)}")
    if isinstance(map.allowed, Named):
        _same(broadcast(x, slots[map.allowed.slot].type.shape), x, "the softmax with its allowed positions")
    return x


def _product(map: maps.Product, a: Shape, b: Shape) -> Shape | None:
    if map.kind == "mul":
        return broadcast(a, b)
    if map.kind == "conv":
        return None if map.conv is None else _conv(map.conv, a, b, None)
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(f"a matrix product of {show(a)} and {show(b)}")
    if a[-1] != b[-2]:
        raise ShapeError(f"a matrix product of {show(a)} and {show(b)}: {show(a[-1:])} meets {show(b[-2:-1])}")
    return (*broadcast(a[:-2], b[:-2]), a[-2], b[-1])
