"""Tensors with a carried exponent (docs/theory.md, section 6): value = tensor * 2**exponent.

Scaling by a power of two is exact, so wherever nothing would have overflowed or vanished the numbers are those of the plain
computation to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WINDOW = 16
"""A tensor whose largest entry lies outside 2**-16 .. 2**16 is rescaled to about 1."""

_SMALLEST = -1074


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """``tensor * 2**exponent``."""

    tensor: Tensor
    exponent: int = 0

    def settled(self, *, nonnegative: bool = False) -> Scaled:
        """The same value with its largest entry back near 1, if it has left the window."""
        peak = largest(self.tensor, nonnegative)
        if peak == 0 or not math.isfinite(peak):
            return self
        shift = math.frexp(peak)[1]
        if -WINDOW <= shift <= WINDOW:
            return self
        return Scaled(times_power(self.tensor, -shift), self.exponent + shift)

    def at(self, exponent: int) -> Tensor:
        """The tensor as if the exponent were ``exponent``."""
        return self.tensor if exponent == self.exponent else times_power(self.tensor, self.exponent - exponent)


def largest(tensor: Tensor, nonnegative: bool = False) -> float:
    """The largest absolute entry (0 for an empty tensor)."""
    if tensor.numel() == 0:
        return 0.0
    detached = tensor.detach()
    if nonnegative:
        return float(detached.max())
    low, high = torch.aminmax(detached)
    return max(-float(low), float(high))


def numbers(tensors: Iterable[Tensor]) -> list[Any]:
    """Tensors of one entry and one dtype as plain numbers, by one transfer (each is a wait for the device)."""
    found = [t.detach() for t in tensors]
    return torch.stack(found).tolist() if found else []


def times_power(tensor: Tensor, power: int) -> Tensor:
    """``tensor * 2**power``, in two steps where the factor alone would not be representable."""
    if power == 0:
        return tensor
    if -1000 <= power <= 1000 and (tensor.dtype == torch.float64 or abs(power) <= 120):
        return tensor * 2.0**power
    half = 500 if tensor.dtype == torch.float64 else 100
    if power < 8 * _SMALLEST:
        return tensor * 0.0
    power = min(power, -8 * _SMALLEST)  # by so much everything but 0 is infinite
    step = max(-half, min(half, power))
    return times_power(tensor * 2.0**step, power - step)


def common_exponent(values: Sequence[Scaled]) -> int:
    """The largest exponent among the values that are not zero throughout (0 when all are)."""
    live = [v.exponent for v in values if largest(v.tensor) > 0]
    return max(live) if live else max((v.exponent for v in values), default=0)


def aligned(values: Sequence[Scaled]) -> tuple[list[Tensor], int]:
    """The tensors of all values at one common exponent."""
    if all(v.exponent == values[0].exponent for v in values):
        return [v.tensor for v in values], values[0].exponent
    exponent = common_exponent(values)
    return [lowered(v, exponent) for v in values], exponent


def lowered(value: Scaled, exponent: int) -> Tensor:
    """``value`` at ``exponent``; a zero tensor is not multiplied up (its gradient's factor is capped at the largest float)."""
    power = value.exponent - exponent
    limit = 1000 if value.tensor.dtype == torch.float64 else 120
    return times_power(value.tensor, min(power, limit))
