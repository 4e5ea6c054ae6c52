"""Whether two results are equal bit for bit, or up to rounding, through whatever holds the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def same(one: Any, other: Any) -> bool:
    """Equal in every number and in type; tensors may lie on two devices, and inference tensors are none of ours."""
    return _alike(one, other, _equal, lambda a, b: bool(a == b) or (a != a and b != b))


def close(one: Any, other: Any) -> bool:
    """Of the same types and shapes, with numbers that agree to about four digits. Masks are not compared: equal scores may part."""
    return _alike(one, other, _near, _near_numbers)


def _alike(one: Any, other: Any, tensors: Callable[[Tensor, Tensor], bool], plain: Callable[[Any, Any], bool]) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and not one.is_inference() and tensors(one, other)
    if hasattr(one, "keys") and hasattr(one, "__getitem__"):
        return list(one) == list(other) and all(_alike(one[k], other[k], tensors, plain) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(a, b, tensors, plain) for a, b in zip(one, other, strict=True))
    if hasattr(one, "__slots__") or hasattr(one, "__dataclass_fields__"):
        names = getattr(one, "__dataclass_fields__", ())
        return type(one) is type(other) and all(_alike(getattr(one, n), getattr(other, n), tensors, plain) for n in names)
    return plain(one, other)


def _equal(one: Tensor, other: Tensor) -> bool:
    a, b = one.detach().cpu(), other.detach().cpu()
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _near(one: Tensor, other: Tensor) -> bool:
    a, b = one.detach().cpu(), other.detach().cpu()
    return not a.is_floating_point() or torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


def _near_numbers(one: Any, other: Any) -> bool:
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or (one != one and other != other)
    return bool(one == other)
