"""Labels of scales: which entries of which values must be multiplied by the same factor. A union-find over integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

ZERO = 0
"""The label of an entry that is always 0, and may be multiplied by anything. It is no class, and is never joined with one."""


@dataclass(frozen=True, slots=True)
class Block:
    """The labels ``start`` to ``stop`` (excluded), made for the entries of one value: its name, and its shape without repeats."""

    value: str
    start: int
    stop: int


class Labels:
    """Classes of labels. A label stands for one unknown scale; classes that are pinned have scale 1, and a reason.

    Values are described by integer tensors of labels with their own shapes, one per entry. All tensors are int64 on the CPU.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.reasons: dict[int, str] = {}
        self.known = 1
        self._parent = torch.zeros(1024, dtype=torch.int64)

    # making -----------------------------------------------------------------------------------------------------------

    def fresh(self, count: int, value: str = "") -> Tensor:
        """``count`` new labels [count]; those of a named value become a block."""
        start, self.known = self.known, self.known + count
        if self.known > self._parent.numel():
            room = torch.zeros(max(self.known, 2 * self._parent.numel()), dtype=torch.int64)
            room[:start] = self._parent[:start]
            self._parent = room
        new = torch.arange(start, self.known)
        self._parent[start : self.known] = new
        if value:
            self.blocks.append(Block(value, start, self.known))
        return new

    def pinned(self, reason: str, value: str = "") -> Tensor:
        """One new label [] whose scale is 1."""
        label = self.fresh(1, value)
        self.pin(label, reason)
        return label[0]

    # joining ----------------------------------------------------------------------------------------------------------

    def find(self, labels: Tensor) -> Tensor:
        """The representative of the class of every label."""
        return self._parent[labels]

    def pin(self, labels: Tensor, reason: str) -> None:
        """Scale 1 for these classes; a class that is pinned already keeps its first reason."""
        met = torch.zeros(self.known, dtype=torch.bool)
        met[self.find(labels)] = True
        for root in met.nonzero().flatten().tolist():
            self.reasons.setdefault(root, reason)

    def merge(self, left: Tensor, right: Tensor) -> None:
        """Join the classes of the entries of two tensors that broadcast (none of them :data:`ZERO`)."""
        left, right = torch.broadcast_tensors(self.find(left), self.find(right))
        differ = left != right
        if not bool(differ.any()):
            return
        self._join(torch.minimum(left[differ], right[differ]), torch.maximum(left[differ], right[differ]))

    def _join(self, low: Tensor, high: Tensor) -> None:
        """Classes by their representatives [n], in pairs; the smallest label of a class represents it."""
        ones = np.ones(low.numel())
        pairs = coo_array((ones, (low.numpy(), high.numpy())), shape=(self.known, self.known))
        _, component = connected_components(pairs, directed=False)
        _, smallest = np.unique(component, return_index=True)
        known = self._parent[: self.known]
        known.copy_(torch.from_numpy(smallest[component[known.numpy()]]))
        reasons: dict[int, str] = {}
        for root, reason in self.reasons.items():
            reasons.setdefault(int(known[root]), reason)
        self.reasons = reasons

    def joined(self, x: Tensor, dims: Sequence[int]) -> Tensor:
        """The labels of ``x`` with the entries along ``dims`` joined; those dimensions have size 1 in the result."""
        first = x
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        self.merge(x, first)
        return self.find(first)

    def alike(self, x: Tensor, dims: Sequence[int]) -> bool:
        """Whether the entries along ``dims`` have one scale already: they are of one class, or all pinned."""
        found = torch.where(self.is_pinned(x), ZERO, self.find(x))
        first = found
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        return bool((found == first).all())

    # reading ----------------------------------------------------------------------------------------------------------

    def is_pinned(self, labels: Tensor) -> Tensor:
        """Which labels have scale 1 (entries that are always 0 included)."""
        fixed = torch.zeros(self.known, dtype=torch.bool)
        fixed[[ZERO, *self.reasons]] = True
        return fixed[self.find(labels)]

    def reason(self, label: int) -> str:
        """Why the class of a label is pinned; empty where it is not."""
        return self.reasons.get(int(self._parent[label]), "")
