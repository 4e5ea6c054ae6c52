"""Fixed maps of arrays of Python numbers: windows, resampling, reindexing, as sums along one dimension after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from pkcompiler.ir.maps import Conv, Reindex, Resample, Window
from pkcompiler.paths.reindex import concrete, resample_matrix
from pkcompiler.symbolic.widths import pads

Array = Any
"""A numpy array of Python numbers (or of float64)."""


def strided(x: Array, axis: int, kernel: int, *, stride: int, padding: int, dilation: int, out: int) -> Array:
    """Sums over windows along one dimension, zeros beyond its ends; ``out`` of them."""
    reach = (out - 1) * stride + dilation * (kernel - 1) + 1
    after = max(0, reach - x.shape[axis] - padding)
    wide = padded(x, axis, padding, after)
    last = (out - 1) * stride + 1
    return sum(
        (_span(wide, axis, k * dilation, k * dilation + last, stride) for k in range(1, kernel)), _span(wide, axis, 0, last, stride)
    )


def spread(x: Array, axis: int, kernel: int, *, stride: int, padding: int, dilation: int, out: int) -> Array:
    """The transposed map of :func:`strided`."""
    n = x.shape[axis]
    shape = list(x.shape)
    shape[axis] = max((n - 1) * stride + dilation * (kernel - 1) + 1, padding + out)
    wide = np.zeros(shape, dtype=x.dtype)
    for k in range(kernel):
        view = _span(wide, axis, k * dilation, k * dilation + (n - 1) * stride + 1, stride)
        view += x
    return _span(wide, axis, padding, padding + out, 1)


def padded(x: Array, axis: int, before: int, after: int) -> Array:
    """Zeros before and after."""
    if before == after == 0:
        return x
    shape = list(x.shape)
    shape[axis] += before + after
    wide = np.zeros(shape, dtype=x.dtype)
    _span(wide, axis, before, before + x.shape[axis], 1)[...] = x
    return wide


def _span(x: Array, axis: int, start: int, end: int, step: int) -> Array:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]


def conv_sum(map: Conv, kernel: Sequence[int], x: Array, out: Sequence[int]) -> Array:
    """A convolution by a kernel of ones over the last dimensions."""
    function = spread if map.transposed else strided
    for i, n in enumerate(out):
        steps = {"stride": map.stride[i], "padding": map.padding[i], "dilation": map.dilation[i]}
        x = function(x, i - len(out), kernel[i], **steps, out=n)
    return x


def pool_sum(map: Window, x: Array, out: Sequence[int]) -> Array:
    """Sums over the windows of a pool."""
    stride, padding, dilation = map.stride or map.kernel, map.padding or (0,) * len(out), map.dilation or (1,) * len(out)
    for i, n in enumerate(out):
        x = strided(x, i - len(out), map.kernel[i], stride=stride[i], padding=padding[i], dilation=dilation[i], out=n)
    return x


def resample_matrices(map: Resample, lengths: Sequence[int], power: int) -> list[Array]:
    """One matrix [out, in] of exact numbers for each of the last dimensions, its entries raised to ``power``."""
    found = []
    for axis, n in enumerate(lengths):
        matrix = resample_matrix(map, axis, n)
        exact = np.empty(tuple(matrix.shape), dtype=object)
        exact[...] = 0
        for i, j in torch.nonzero(matrix).tolist():
            exact[i, j] = powered(float(matrix[i, j]), power)
        found.append(exact)
    return found


def resampled(x: Array, matrices: Sequence[Array]) -> Array:
    """A matrix along each of the last dimensions; zeros are not multiplied."""
    for i, matrix in enumerate(matrices):
        axis = i - len(matrices)
        columns = np.moveaxis(x, axis, -1)
        rows = [sum((columns[..., j] * row[j] for j in np.flatnonzero(row)), 0 * columns[..., 0]) for row in matrix]
        x = np.moveaxis(np.stack(rows, -1), -1, axis)
    return x


def powered(value: float, power: int) -> Fraction:
    """|value|^power exactly; a double that a short fraction (or, squared, its root) rounds to is read as that fraction."""
    if power == 0 or value == 0:
        return Fraction(int(value != 0))
    exact = Fraction(abs(value)) ** power
    short = exact.limit_denominator(10**6)
    root = float(short) if power == 1 else math.sqrt(short)
    if short and root == abs(value):
        return short
    first = Fraction(abs(value)).limit_denominator(10**6)
    return first**power if float(first) == abs(value) else exact


def reindexed(map: Reindex, x: Array, shape: tuple[int, ...], index: Sequence[int] | None) -> Array:
    """The reindexings that read whole numbers of positions (``shape``: of the result; ``index``: the rows of an index)."""
    args: dict[str, Any] = dict(map.args)
    match map.fn:
        case "reshape":
            return x.reshape(shape)
        case "permute":
            return x.transpose(args["dims"])
        case "expand":
            return np.broadcast_to(x, shape)
        case "repeat":
            repeats = concrete(args["repeats"], 1)
            return np.tile(x.reshape((1,) * (len(repeats) - x.ndim) + x.shape), repeats)
        case "roll":
            shifts, dims = args["shifts"], args["dims"]
            return np.roll(x, shifts, dims) if dims else np.roll(x.reshape(-1), shifts[0]).reshape(x.shape)
        case "flip":
            return np.flip(x, args["dims"])
        case "index":
            return np.take(x, index or (), args["dim"])
        case "select":
            return np.take(x, args["index"], args["dim"])
        case "slice":
            return x[(slice(None),) * (args["dim"] % x.ndim) + (slice(args["start"], args["end"], args["step"]),)]
        case "unfold":
            dim = args["dim"] % x.ndim
            windows = np.lib.stride_tricks.sliding_window_view(x, args["size"], dim)
            return windows[(slice(None),) * dim + (slice(None, None, args["step"]),)]
        case "diagonal":
            return x.diagonal(args["offset"], args["dim1"], args["dim2"])
        case "cumsum":
            return np.cumsum(x, args["dim"])
        case "pad":
            modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
            sides = pads(args["pad"], x.ndim)
            inner = x[tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(sides, x.shape, strict=True))]
            outer = [(max(0, a), max(0, b)) for a, b in sides]
            if args["mode"] in modes:
                return np.pad(inner, outer, mode=modes[args["mode"]])  # type: ignore[call-overload]
            for axis, (before, after) in enumerate(outer):
                inner = padded(inner, axis, before, after)
            return inner
    raise AssertionError(f"unverified reindexing {map.fn}")
