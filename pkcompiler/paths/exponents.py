"""What happens to a value of a sweep after each operation: carried exponents, or saturation (remainders are in count)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pkcompiler.ir.maps import Window
from pkcompiler.paths.reindex import window_max, window_sum
from pkcompiler.paths.scaled import Scaled


class Arithmetic(Protocol):
    """What happens to a value after each operation: carried exponents, saturation, or remainders ."""

    def settle(self, value: Scaled) -> Scaled:
        """Bring a value back into range."""

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        """The largest entry of each window."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Real numbers with a carried exponent."""

    nonnegative: bool = False

    def settle(self, value: Scaled) -> Scaled:
        """The same value with its largest entry near 1, where that has left 2**-16 .. 2**16 (docs/theory.md, section 6)."""
        return value.settled(nonnegative=self.nonnegative)

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        """The largest entry of each window."""
        return window_max(map, x)


class _Saturate(torch.autograd.Function):
    """1 where positive, forward and backward: reachability."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return (grad > 0).to(grad.dtype)


@dataclass(frozen=True, slots=True)
class Boolean:
    """Reachability: or and and, as 0 and 1."""

    def settle(self, value: Scaled) -> Scaled:
        """1 where the value is positive, 0 elsewhere, of exponent 0."""
        result: Tensor = _Saturate.apply(value.tensor)
        return Scaled(result)

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        """The sum over each window: positive where any of its entries is."""
        return window_sum(map, x)
