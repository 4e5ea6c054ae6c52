"""Quotients that a mask makes 0/0 in a weight that is computed from parameters: they are 0 (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def singular(op: str, arguments: Sequence[Any]) -> Any:
    """A quotient, root or negative power, 0 where it has no value or no derivative; None for any other operator.

    ``op``: an overload without its namespace (``reciprocal.default``).
    """
    match op, *arguments:
        case "reciprocal.default", Tensor() as x:
            return guarded(torch.reciprocal, x)
        case "rsqrt.default", Tensor() as x:
            return guarded(torch.rsqrt, x)
        case "sqrt.default", Tensor() as x:
            return guarded(torch.sqrt, x)
        case "pow.Tensor_Scalar", Tensor() as x, power if power < 1 and power != 0:
            return guarded(lambda z: z**power, x)
        case "div.Tensor", x, Tensor() as y if y.is_floating_point():
            return x * guarded(torch.reciprocal, y)
    return None


def guarded(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of x, and 0 with derivative 0 where x is 0."""
    zero = x == 0
    return torch.where(zero, 0.0, function(torch.where(zero, 1.0, x)))


QUOTIENTS = frozenset(
    [torch.div, torch.true_divide, torch.divide, Tensor.div, Tensor.true_divide, Tensor.divide, Tensor.__truediv__]
)


class ZeroRows(TorchFunctionMode):
    """Inside, 0/0 is 0, and a row of ``torch._weight_norm`` without any kept weight is 0; all else is as it is, to the bit.

    For runs of a module at masked weights, some of which it divides by their own size.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if function in QUOTIENTS and not given and len(args) == 2 and all(isinstance(a, Tensor) for a in args):
            x, y = args
            none = (y == 0) & (x == 0)
            return torch.where(none, 0, function(x, torch.where(none, 1, y))) if y.is_floating_point() else function(x, y)
        if function is torch._weight_norm:
            return _weight_norm(*args, **given)
        return function(*args, **given)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    none = torch.norm_except_dim(v.detach(), 2, dim) == 0
    return torch.where(none, 0, torch._weight_norm(torch.where(none, 1, v), g, dim))
