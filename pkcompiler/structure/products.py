"""Reshapes that take units apart or join them, as constraints: of 4 x 16 there stay some of the 4 times some of the 16.

So whole heads leave, and so do entries that are dead in all heads, without a choice between the two (compare
:mod:`pkcompiler.structure.choices`). The same holds for the groups of a convolution and of a GroupNorm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pkcompiler.ir.maps import Conv
from pkcompiler.ir.weights import side
from pkcompiler.structure.choices import segments
from pkcompiler.structure.labels import Axes, Ints, Labels

STATISTICS = "a norm takes its statistics over it"


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """Entry (i, j, ..) of ``whole`` stays exactly where entry i, entry j, .. of all ``parts`` do."""

    where: str
    whole: Ints
    parts: tuple[Ints, ...]


@dataclass(slots=True, eq=False)
class Products:
    """What views do to labels: parts get labels of their own, and what they make up is in ``rectangles``."""

    labels: Labels
    rectangles: list[Rectangle] = field(default_factory=list)

    def reshaped(self, key: str, axes: Axes, shape: Sequence[int]) -> Axes:
        """The axes of a tensor after a reshape: the factors that both shapes are made of are taken apart, then joined."""
        if 0 in shape:
            return tuple(self.labels.fixed(n, "nothing is there") for n in shape)
        found: list[Ints] = [self.labels.fixed(1, "a dimension of size 1")] * len(shape)
        for inner, outer in segments([a.size for a in axes], shape):
            made = self._regrouped(f"%{key}", [axes[i] for i in inner], [shape[i] for i in outer])
            for place, axis in zip(outer, made, strict=True):
                found[place] = axis
        return tuple(found)

    def _regrouped(self, where: str, axes: Sequence[Ints], sizes: Sequence[int]) -> list[Ints]:
        common = _refined([a.size for a in axes], sizes)
        if common is None:
            reason = f"{where} divides it across its units"
            for axis in axes:
                self.labels.pin(axis, reason)
            return [self.labels.fixed(n, reason) for n in sizes]
        inside, outside = common
        parts = [part for axis, ns in zip(axes, inside, strict=True) for part in self.split(where, axis, ns)]
        made = []
        for ns in outside:
            made.append(self.joined(where, parts[: len(ns)]))
            parts = parts[len(ns) :]
        return made

    def split(self, where: str, whole: Ints, sizes: Sequence[int]) -> list[Ints]:
        """The axes of one dimension that is taken apart."""
        if len(sizes) == 1:
            return [whole]
        if (whole < 0).all():
            return [np.full(n, whole[0]) for n in sizes]
        parts = [self.labels.fresh(n) if n > 1 else self.labels.fixed(1, "a dimension of size 1") for n in sizes]
        self.rectangles.append(Rectangle(where, whole, tuple(parts)))
        return parts

    def joined(self, where: str, parts: Sequence[Ints]) -> Ints:
        """The axis that dimensions make when flattened."""
        if len(parts) == 1:
            return parts[0]
        size = math.prod(part.size for part in parts)
        if all((part < 0).all() for part in parts):
            return np.full(size, parts[0][0])
        whole = self.labels.fresh(size)
        self.rectangles.append(Rectangle(where, whole, tuple(parts)))
        return whole

    def grouped(self, name: str, map: Conv, x: Ints, first: Ints, second: Ints) -> Ints:
        """The units that a convolution ``name`` in groups makes of the channels ``x`` = groups x channels of one."""
        group, own = self.split(f"%{name}", x, (map.groups, x.size // map.groups))
        if side(map).turned:
            self.labels.unite(first, x)
            return self.joined(f"%{name}", (group, second))
        self.labels.unite(second, own)
        self.rectangles.append(Rectangle(f"%{name}", first, (group, *self._within(first.size // map.groups))))
        return first

    def _within(self, count: int) -> tuple[Ints, ...]:
        return (self.labels.fresh(count),) if count > 1 else ()

    def normalised(self, name: str, groups: int, x: Ints) -> bool:
        """A GroupNorm of several groups loses whole groups."""
        if groups > 1:
            _, own = self.split(f"%{name}", x, (groups, x.size // groups))
            if own.size > 1:
                self.labels.pin(own, STATISTICS)
        return groups == 1


def _refined(before: Sequence[int], after: Sequence[int]) -> tuple[list[list[int]], list[list[int]]] | None:
    """The factors that make up the dimensions of each shape, the same of both in order; None where there are none."""
    ends = [sorted({math.prod(sizes[:i]) for i in range(1, len(sizes) + 1)}) for sizes in (before, after)]
    cuts = sorted({1, *ends[0], *ends[1]})
    if any(high % low for low, high in pairwise(cuts)):
        return None
    factors = [high // low for low, high in pairwise(cuts)]
    return _grouped(factors, before), _grouped(factors, after)


def _grouped(factors: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    left, found = list(factors), []
    for size in sizes:
        own = [left.pop(0)]
        while math.prod(own) < size:
            own.append(left.pop(0))
        found.append(own)
    return found
