"""Reshapes that take units apart or join them, and the readings that they leave open.

A dimension of 12 x 64 that is split into heads loses, so that a tensor remains, either whole heads or the same entry of every head;
whole heads are tried first (the outermost factor), and where none can go, the next factor. The same holds for the groups of a
convolution and of a GroupNorm, and where two dimensions that both have units are flattened into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pkcompiler.ir.maps import Conv
from pkcompiler.ir.weights import side
from pkcompiler.structure.labels import Axes, Classes, Ints, Labels

Key = tuple[str, str]
"""The operation, and which of its readings."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """``taken`` of ``options`` readings; ``labels``: the units that it leaves. ``like``: equal for equal layers of a network."""

    key: Key
    like: tuple[object, ...]
    taken: int
    options: int
    labels: Ints


@dataclass(slots=True, eq=False)
class Choices:
    """The readings taken so far, over the walks of one graph; what is not yet in ``taken`` is read in the first way."""

    taken: dict[Key, int] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def reading(self, key: Key) -> int:
        """Which reading of a reshape is to be taken, counted from 0."""
        return self.taken.get(key, 0)

    def note(self, key: Key, like: tuple[object, ...], options: int, labels: Ints) -> None:
        """Take down a decision of this walk, and the labels that its reading leaves."""
        self.decisions.append(Decision(key, like, self.reading(key), options, labels))

    def revise(self, classes: Classes, stored: np.ndarray) -> bool:
        """Take the next reading where one leaves no unit; whether there was such a one. ``stored`` [classes]: has a parameter.

        The first that fails by itself goes first, together with those of equal layers: others may fail only because of it.
        """
        failing = [d for d in self.decisions if d.taken < d.options and _fails(d, classes, stored)]
        self.decisions = []
        if not failing:
            return False
        first = next((d for d in failing if _alone(d, classes, stored)), failing[0])
        for decision in failing:
            if (decision.like, decision.taken) == (first.like, first.taken):
                self.taken[decision.key] = decision.taken + 1
        return True


def _fails(decision: Decision, classes: Classes, stored: np.ndarray) -> bool:
    found = np.unique(classes.of(decision.labels))
    free = found[found >= 0]
    return free.size == 0 or found.size == 1 or not stored[free].any()


def _alone(decision: Decision, classes: Classes, stored: np.ndarray) -> bool:
    found = classes.of(decision.labels)
    return bool((found >= 0).any()) or classes.is_firm(decision.labels)


class Reshaping:
    """What a reshape does to labels, with the readings of ``choices``."""

    def __init__(self, labels: Labels, choices: Choices) -> None:
        self.labels, self.choices = labels, choices

    def reshaped(self, key: str, axes: Axes, shape: Sequence[int]) -> Axes:
        """The axes of a tensor after a reshape: equal dimensions pass, others are joined or split."""
        if 0 in shape:
            return tuple(self.labels.fixed(n, "nothing is there") for n in shape)
        found: list[Ints] = [self.labels.fixed(1, "a dimension of size 1")] * len(shape)
        for number, (inner, outer) in enumerate(segments([a.size for a in axes], shape)):
            flat = self.joined((key, f"join {number}"), [axes[i] for i in inner])
            for place, part in zip(outer, self.split((key, f"split {number}"), flat, [shape[i] for i in outer]), strict=True):
                found[place] = part
        return tuple(found)

    def joined(self, key: Key, axes: Sequence[Ints]) -> Ints:
        """The axis that dimensions make when flattened: an entry goes with the unit of one of them."""
        if len(axes) == 1:
            return axes[0]
        sizes = [a.size for a in axes]
        having = [i for i, a in enumerate(axes) if (a >= 0).any()]
        chosen = having[0] if having else 0
        if len(having) > 1:
            reading = self.choices.reading(key)
            chosen = having[min(reading, len(having) - 1)]
            self.choices.note(key, ("join", *sizes), len(having), axes[chosen])
            for i in having:
                if i != chosen or reading == len(having):
                    self.labels.pin(axes[i], f"%{key[0]} flattens it together with other units", soft=True)
        spread = axes[chosen].reshape([-1 if i == chosen else 1 for i in range(len(axes))])
        return np.broadcast_to(spread, sizes).ravel()

    def split(self, key: Key, flat: Ints, sizes: Sequence[int]) -> list[Ints]:
        """The axes of one dimension after it is taken apart: the units lie along one of them, the others stay."""
        if len(sizes) == 1:
            return [flat]
        reading = self.choices.reading(key)
        if reading >= len(sizes) or not (flat >= 0).any():
            self.labels.pin(flat, f"%{key[0]} splits it across its units")
            return [self.labels.fixed(n, _inside(key)) for n in sizes]
        grid = np.moveaxis(flat.reshape(sizes), reading, 0).reshape(sizes[reading], -1)
        self.labels.unite(grid, grid[:, :1])
        self.choices.note(key, ("split", *sizes), len(sizes), grid[:, 0])
        return [grid[:, 0] if i == reading else self.labels.fixed(n, _inside(key), soft=True) for i, n in enumerate(sizes)]

    def grouped(self, name: str, map: Conv, x: Ints, first: Ints, second: Ints) -> Ints:
        """The units that a convolution ``name`` in groups makes of the channels ``x``: whole groups go, with what they read and
        make; else the same channel of every group. ``first``, ``second``: the dimensions of its weight."""
        key, groups = (name, "groups"), map.groups
        read = x.reshape(groups, -1)
        turned = side(map).turned
        inner = second if turned else first.reshape(groups, -1)
        options = 2 if read.shape[1] > 1 else 1
        reading = self.choices.reading(key)
        self.choices.note(key, ("groups", groups, *read.shape), options, x)
        if turned:
            self.labels.unite(first, x)
        if reading == 0:
            self.labels.unite(read, read[:, :1])
            self.labels.pin(second, f"a channel within every group of %{name}")
            if turned:
                return np.repeat(read[:, 0], second.size)
            self.labels.unite(inner, read[:, :1])
            return first
        self.labels.unite(read, read[:1])
        if turned:
            units = np.tile(second, groups)
        else:
            self.labels.unite(read[0], second)
            self.labels.unite(inner, inner[:1])
            units = first
        if reading == options:
            for axis in (x, first, second):
                self.labels.pin(axis, f"the groups of %{name} mix it with other units")
        return units

    def normalised(self, name: str, groups: int, x: Ints) -> bool:
        """Whether a GroupNorm ``name`` takes statistics over units of ``x`` of which some can go and others stay."""
        if 1 < groups < x.size:
            self.split((name, "groups"), x, (groups, x.size // groups))
        return groups == 1 or self.choices.reading((name, "groups")) > 0


def _inside(key: Key) -> str:
    return f"a part of the units that %{key[0]} splits"


def segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The least runs of dimensions whose products are equal, in order; dimensions of size 1 belong to none."""
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    found = []
    while left and right:
        inner, outer = [left.pop(0)], [right.pop(0)]
        had, has = before[inner[0]], after[outer[0]]
        while had != has:
            if had < has:
                inner.append(left.pop(0))
                had *= before[inner[-1]]
            else:
                outer.append(right.pop(0))
                has *= after[outer[-1]]
        found.append((inner, outer))
    return found
