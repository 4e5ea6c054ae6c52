"""Labels of units: a union-find over integers whose unions are all made at once. Entries of axes that share a class go together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Axes = tuple[Ints, ...]
"""One vector of labels per dimension of a tensor."""


@dataclass(slots=True, eq=False)
class Labels:
    """Labels >= 0 stand for units, negative ones for what no unit is, each with its reason.

    ``rewritten``: whether what the model's code makes (constants, paddings) can be made in another size. ``soft``: reasons that
    hold only because of how a reshape was read (see :mod:`pkcompiler.structure.choices`).
    """

    rewritten: bool = False
    known: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    soft: set[int] = field(default_factory=set)
    _pairs: list[tuple[Ints, Ints]] = field(default_factory=list)

    def fresh(self, count: int) -> Ints:
        """``count`` new units."""
        start, self.known = self.known, self.known + count
        return np.arange(start, self.known, dtype=np.int64)

    def fixed(self, count: int, reason: str, soft: bool = False) -> Ints:
        """``count`` entries that cannot be removed."""
        label = -1 - self.reasons.setdefault(reason, len(self.reasons))
        if soft:
            self.soft.add(label)
        return np.full(count, label, dtype=np.int64)

    def made(self, count: int, reason: str) -> Ints:
        """``count`` entries that the model's code makes."""
        return self.fresh(count) if self.rewritten else self.fixed(count, reason)

    def unite(self, left: Ints, right: Ints) -> None:
        """Entries that go together, in pairs (vectors that broadcast)."""
        left, right = np.broadcast_arrays(left, right)
        self._pairs.append((left.ravel(), right.ravel()))

    def pin(self, labels: Ints, reason: str, soft: bool = False) -> None:
        """Entries that cannot be removed after all."""
        if labels.size:
            self.unite(labels, self.fixed(1, reason, soft))

    def solve(self) -> Classes:
        """The classes that all unions make."""
        left = np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in self._pairs)])
        right = np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in self._pairs)])
        low, high = np.minimum(left, right), np.maximum(left, right)
        inner = low >= 0
        shape = (self.known, self.known)
        matrix = coo_array((np.ones(int(inner.sum()), dtype=np.int8), (low[inner], high[inner])), shape=shape)
        count, root = connected_components(matrix, directed=False) if self.known else (0, np.empty(0, np.int32))
        held = (low < 0) & (high >= 0)
        reason = np.full(count, len(self.reasons), dtype=np.int64)
        np.minimum.at(reason, root[high[held]], -1 - low[held])
        firm = np.zeros(count, dtype=bool)
        hard = held & ~np.isin(low, list(self.soft))
        firm[root[high[hard]]] = True
        return Classes(root.astype(np.int64), reason, firm, tuple(self.reasons))


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """``root`` [labels]: the class of a label; ``reason`` [classes]: which of ``reasons`` holds it (their number: none does);
    ``firm`` [classes]: whether a reason holds it that is not soft."""

    root: Ints
    reason: Ints
    firm: NDArray[np.bool_]
    reasons: tuple[str, ...]

    def of(self, labels: Ints) -> Ints:
        """The class of every label; -1 - i where reason i holds it."""
        found = labels.copy()
        units = labels >= 0
        roots = self.root[labels[units]]
        held = self.reason[roots]
        found[units] = np.where(held < len(self.reasons), -1 - held, roots)
        return found

    def is_firm(self, labels: Ints) -> bool:
        """Whether every entry is held by a reason that is not soft (a label that never was a unit counts as held)."""
        units = labels[labels >= 0]
        return bool(self.firm[self.root[units]].all())
