"""The operators of a program, made from the numbers that an operation holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pkcompiler.ir.maps import Conv
from pkcompiler.symbolic.positions import conv_sum, powered
from pkcompiler.symbolic.program import Operator


def reshaping(shape: tuple[int, ...]) -> Operator:
    """The identity in another shape."""
    return Operator("reshape", lambda x: x.reshape(shape))


def exact_array(tensor: Tensor, power: int) -> np.ndarray:
    """A tensor's entries as exact numbers, raised to a power."""
    return exact_values(tensor.detach().double().cpu().numpy(), power)


def exact_values(values: np.ndarray, power: int) -> np.ndarray:
    """Numbers as exact ones (objects, of the same shape), raised to a power."""
    found = np.empty(values.shape, dtype=object)
    found.reshape(-1)[:] = [powered(float(v), power) for v in values.reshape(-1)]
    return found


def texts(numbers: Sequence[Any]) -> list[str]:
    """Numbers as texts, one by one."""
    return [str(n) for n in numbers]


def picker(dims: Sequence[int], indices: Sequence[np.ndarray], keepdim: bool) -> Callable[[Any], Any]:
    """The sum over ``dims`` of the entries that ``indices`` gives for each; x itself for no dims."""

    def apply(x: Any) -> Any:
        for dim, chosen in zip(dims, indices, strict=True):
            x = np.take(x, chosen, dim) if len(chosen) != x.shape[dim] else x
        return x.sum(axis=tuple(dims), keepdims=keepdim) if dims else x

    return apply


def row_sum(indices: np.ndarray, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """The sum of those entries of the last dimension, at every entry of ``shape``."""
    return lambda x: np.broadcast_to(x[..., indices].sum(-1, keepdims=True), shape)


def conv_sum_of(map: Conv, kernel: list[int], kept: int, indices: np.ndarray, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """The sum under a kernel over those input channels of each of ``kept`` groups, at every channel of ``shape``."""
    batch, channels, *out = shape

    def apply(x: Any) -> Any:
        grouped = x.reshape(batch, kept, -1, *x.shape[2:])
        summed = conv_sum(map, kernel, grouped[:, :, indices].sum(2, keepdims=True), out)
        return np.broadcast_to(summed, (batch, kept, channels // kept, *out)).reshape(shape)

    return apply


def matmul_over(indices: np.ndarray) -> Callable[[Any, Any], Any]:
    """The matrix product over those entries alone of the dimension that is summed."""
    return lambda a, b: np.matmul(a[..., indices], b[..., indices, :])


def placer(dim: int, offset: int, n: int, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Zeros of ``shape``, with x at ``offset`` to ``offset + n`` of a dimension."""
    window = (slice(None),) * dim + (slice(offset, offset + n),)

    def apply(x: Any) -> Any:
        found = np.zeros(shape, dtype=x.dtype)
        found[window] = x
        return found

    return apply
