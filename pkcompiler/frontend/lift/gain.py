"""The gain of a gate: the supremum of abs(slope), slope = (phi(z) - phi(0)) / z (docs/theory.md, section 1), found from phi itself.

Where phi comes from does not matter: what counts are its one-sided derivatives at 0 (by autograd), its limits at infinity, and the
largest slope between, by a grid and its refinement. No difference of nearly equal numbers is divided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Phi = Callable[[Tensor], Tensor]

NEXT_TO_ZERO = 1e-200
"""A number so small that phi' there is the one-sided derivative at 0."""
INSIDE = 2.0**-30
"""A number next to 0 which 1 is not so large beside that it is lost."""
FAR = 60
"""Limits are read at 2**FAR: powers of two keep a factor's digits, and bounded terms have vanished beside z."""
WINDOW = 8
"""Octaves whose largest slopes are compared, so that what oscillates does not pass for growth."""
GROWS = 1.5
"""A slope has no bound where it is that many times larger around 2**FAR than around 2**(FAR / 2): the least, log z, doubles."""
SETTLED = 1e-9
"""Relative change between neighbours of what has reached its limit."""
FINE = -20
"""The grid begins at 2**FINE; closer to 0 a slope is the derivative there, and a difference would lose its digits."""
PER_OCTAVE = 32
ZOOM, STEPS = 65, 12
"""Points of a refinement, and how often it is refined: a step of the grid becomes less than the resolution of float64."""
CLEAR = 1e-8
"""How much more (relatively) a slope inside must be than those at 0 and infinity, to count as one that is reached inside."""
POLE = 1e3
"""A slope that grows that much under refinement grows without end."""


@dataclass(frozen=True, slots=True)
class Gain:
    """``value``: the supremum; where it is infinite that over abs(z) <= 1. ``exact``: reached at 0 or infinity, else to 1e-9.

    ``bounded``: whether phi's own values stay between two numbers.
    """

    value: float
    exact: bool
    bounded: bool


def gain_of(phi: Phi, zero: float) -> Gain:
    """The gain of an elementwise function of float64 tensors with phi(0) = ``zero``; 0 for a constant one."""
    slope = _Slope(phi, zero)
    bounded = slope.is_bounded()
    ends = [*slope.beside_zero(), *slope.at_infinity()]
    if all(map(math.isfinite, ends)):
        inside, edge = slope.largest(FAR), max(ends)
        bounded = bounded and math.isfinite(inside)
        if inside <= edge * (1 + CLEAR):
            return Gain(edge, True, bounded)
        if math.isfinite(inside):
            return Gain(inside, False, bounded)
    return Gain(slope.near(), False, bounded)


@dataclass(frozen=True, slots=True)
class _Slope:
    phi: Phi
    zero: float

    def beside_zero(self) -> list[float]:
        """abs(phi') on both sides of 0; infinite where phi jumps there."""
        return [self._beside(side) for side in (-1.0, 1.0)]

    def _beside(self, side: float) -> float:
        value, derivative = (float(t) for t in self._derivative(torch.tensor([side * NEXT_TO_ZERO], dtype=torch.float64)))
        if not math.isfinite(derivative) or abs(value - self.zero) > CLEAR * max(1.0, abs(self.zero)):
            return math.inf
        near = self._at(side * torch.tensor([0.25, 0.125, 0.0625], dtype=torch.float64))
        straight = float(near.max() - near.min()) <= 1e-12 * float(near.max()) and float(near.max()) > 0.01 * max(
            1.0, abs(self.zero)
        )
        if (inside := self._inside(side)) is not None and abs(inside - abs(derivative)) > CLEAR * inside:
            return inside
        rounded = straight and math.isclose(near[0], abs(derivative), rel_tol=1e-6)  # torch has some derivatives in float32
        return float(near[0]) if rounded else abs(derivative)

    def _inside(self, side: float) -> float | None:
        """abs(phi') a little further on, where the slope to there is the same: NEXT_TO_ZERO may round to a kink of phi at 0."""
        derivative = abs(float(self._derivative(torch.tensor([side * INSIDE], dtype=torch.float64))[1]))
        slope = float(self._at(torch.tensor([side * 2.0**FINE], dtype=torch.float64)))
        return derivative if math.isclose(slope, derivative, rel_tol=1e-9) else None

    def _derivative(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.requires_grad_()
            value = self.phi(z)
            found = torch.autograd.grad(value.sum(), z, allow_unused=True)[0] if value.requires_grad else None
        return value.detach(), torch.zeros_like(z) if found is None else found

    def at_infinity(self) -> list[float]:
        """The limits of abs(slope) on both sides: infinite where it grows without end, 0 where it has none (it oscillates)."""
        return [self._limit(side * _powers(FAR)) for side in (-1.0, 1.0)]

    def _limit(self, z: Tensor) -> float:
        slopes = self._at(z)
        finite = int(torch.isfinite(slopes).long().cumprod(0).sum())
        if finite < len(z):
            return self._limit_before_overflow(z[:finite])
        far, half = (float(slopes[end - WINDOW : end].max()) for end in (len(z), len(z) // 2))
        if far > GROWS * half:
            return math.inf
        last, before = float(slopes[-1]), float(slopes[-2])
        return last if abs(last - before) <= SETTLED * last else 0.0

    def _limit_before_overflow(self, z: Tensor) -> float:
        """A formula that overflows (log(1 + exp(z))) has the limit of phi', if that has settled where it is still finite."""
        if len(z) < 2:
            return math.inf
        before, last = self._derivative(z[-2:].clone())[1].abs().tolist()
        return last if math.isfinite(last) and abs(last - before) <= SETTLED * abs(before) else math.inf

    def _at(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return ((self.phi(z) - self.zero) / z).abs()

    def is_bounded(self) -> bool:
        """Whether abs(phi) stays finite, and no larger at 2**FAR than twice its size before."""
        with torch.no_grad():
            sizes = torch.stack([self.phi(side * _powers(FAR)).abs() for side in (-1.0, 1.0)])
        half = sizes[:, : FAR // 2].max()
        return bool(torch.isfinite(sizes).all()) and float(sizes.max()) <= 2 * float(half) + NEXT_TO_ZERO

    def largest(self, reach: int) -> float:
        """The largest abs(slope) over 2**FINE <= abs(z) <= 2**reach, refined; infinite at a pole."""
        grid = _grid(reach)
        (found, place), side = max((self._surest(side * grid), side) for side in (-1.0, 1.0))
        low, high = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
        return self._refined(side * low, side * high, found) if found > 0 else 0.0

    def _surest(self, z: Tensor) -> tuple[float, int]:
        """The largest abs(slope) less what rounding may have added to it, and its place."""
        with torch.no_grad():
            value = self.phi(z)
        noise = 16 * torch.finfo(torch.float64).eps * value.abs().clamp(min=max(1.0, abs(self.zero))) / z.abs()
        slopes = (value - self.zero).div(z).abs().sub(noise).nan_to_num(nan=0.0, posinf=0.0)
        place = int(slopes.argmax())
        return float(slopes[place]), place

    def _refined(self, low: Tensor, high: Tensor, found: float) -> float:
        best = found
        for _ in range(STEPS):
            z = low + (high - low) * torch.linspace(0, 1, ZOOM, dtype=torch.float64)
            slopes = self._at(z).nan_to_num(nan=0.0, posinf=0.0)
            place = int(slopes.argmax())
            best = max(best, float(slopes[place]))
            low, high = z[max(place - 1, 0)], z[min(place + 1, ZOOM - 1)]
        return best if best <= POLE * found else math.inf

    def near(self) -> float:
        """The supremum over abs(z) <= 1; at a jump at 0 or a pole the largest slope at abs(z) = 1, or if that is 0, over
        1/2 <= abs(z) <= 1. Where all that is 0, over the next power of two: only a constant function has none.
        """
        ends = self.beside_zero()
        for reach in range(FAR + 1):
            rim = self._at(torch.tensor([-(2.0**reach), 2.0**reach], dtype=torch.float64)).nan_to_num(nan=0.0, posinf=0.0)
            found = max(*ends, self.largest(reach), float(rim.max()))
            if not math.isfinite(found):
                outer = _grid(reach)[_grid(reach) >= 2.0 ** (reach - 1)]
                found = float(rim.max()) or max(self._surest(side * outer)[0] for side in (-1.0, 1.0))
            if found > 0:
                return found
        return 0.0


@cache
def _powers(most: int) -> Tensor:
    return torch.logspace(0, most, most + 1, base=2.0, dtype=torch.float64)


@cache
def _grid(reach: int) -> Tensor:
    """2**FINE to 2**reach: PER_OCTAVE points an octave, up to 32 a step of 1/512, and up to 256 one of 1/128."""
    octaves = torch.logspace(FINE, reach, (reach - FINE) * PER_OCTAVE + 1, base=2.0, dtype=torch.float64)
    even = torch.cat([torch.arange(1, 32 * 512) / 512.0, torch.arange(32 * 128, 256 * 128) / 128.0]).double()
    return torch.cat([octaves, even[even <= 2.0**reach]]).unique()
