"""Hops across products of activations: elementwise (a gate, an excitation) and of matrices (attention)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pkcompiler.scoring.functions.orders.walks.draw import Bits, Floats, Groups, Ints, Random, pick
from pkcompiler.scoring.functions.orders.walks.live import Stored

LISTED = 1 << 22
"""Entries of a list at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One factor: its shape, what an input reaches of it, what is never 0; where it is a parameter, its indices and the weights
    that each of its entries is the sum of [entries, most]."""

    shape: tuple[int, ...]
    fed: Bits
    free: Bits
    stored: Stored | None
    parts: Floats | None

    def weights(self, entries: Ints) -> Floats:
        """What a hop across the other factor is worth with these entries here."""
        present = self.fed[entries] | self.free[entries]
        return present.astype(np.float64) if self.parts is None else self.parts[entries].sum(-1)

    def visited(self, entries: Ints, random: Random) -> Ints:
        """The weight that a walk across each of these entries visits: of a sum, one in proportion to its size."""
        assert self.stored is not None and self.parts is not None
        index = self.stored.index[entries]
        if index.shape[1] == 1:
            return np.asarray(index[:, 0])
        return np.asarray(index[np.arange(len(index)), pick(self.parts[entries], random)])


class Elementwise:
    """left * right with broadcasting."""

    def __init__(self, factors: Sequence[Factor], shape: tuple[int, ...], ends: Bits) -> None:
        self.factors = tuple(factors)
        size = math.prod(shape)
        self.source = [np.broadcast_to(np.arange(math.prod(f.shape)).reshape(f.shape), shape).reshape(-1) for f in factors]
        self.ahead = []
        for own in (0, 1):
            other = factors[1 - own]
            alive = np.flatnonzero(ends & (other.weights(self.source[1 - own]) > 0))
            self.ahead.append(Groups(self.source[own][alive], np.arange(size)[alive], math.prod(factors[own].shape)))

    def forward(self, position: int, entries: Ints, random: Random) -> tuple[Ints, Ints]:
        """Entries of the product, and of the other factor there."""
        to = self.ahead[position].draw(entries, random)
        return to, np.asarray(self.source[1 - position][to])

    def backward(self, entries: Ints, random: Random) -> tuple[Ints, Ints]:
        """The entries of both factors."""
        return np.asarray(self.source[0][entries]), np.asarray(self.source[1][entries])


class Contraction:
    """left [..., i, k] times right [..., k, j], the leading dimensions broadcast."""

    def __init__(self, factors: Sequence[Factor], shape: tuple[int, ...], ends: Bits) -> None:
        self.factors, self.ends = tuple(factors), ends
        (self.rows, self.inner), self.columns = factors[0].shape[-2:], factors[1].shape[-1]
        lead = shape[:-2]
        self.leads = [np.broadcast_to(np.arange(math.prod(f.shape[:-2])).reshape(f.shape[:-2]), lead).reshape(-1) for f in factors]
        count = math.prod(lead)
        self.where = [np.argsort(own, kind="stable").reshape(-1, count // max(1, int(own.max()) + 1)) for own in self.leads]

    def _entry(self, position: int, lead: Ints, row: Ints, inner: Ints, column: Ints) -> Ints:
        if position == 0:
            return np.asarray((self.leads[0][lead] * self.rows + row) * self.inner + inner)
        return np.asarray((self.leads[1][lead] * self.inner + inner) * self.columns + column)

    def _chunks(self, count: int, width: int) -> list[slice]:
        step = max(1, LISTED // max(1, width))
        return [slice(i, i + step) for i in range(0, count, step)]

    def forward(self, position: int, entries: Ints, random: Random) -> tuple[Ints, Ints]:
        """Entries of the product, and of the other factor there."""
        to, others = np.empty_like(entries), np.empty_like(entries)
        free = self.columns if position == 0 else self.rows
        for part in self._chunks(entries.size, free * self.where[position].shape[1]):
            target, other, weights = self.ahead(position, entries[part])
            column = pick(weights, random)
            at = np.arange(len(column))
            to[part], others[part] = target[at, column], other[at, column]
        return to, others

    def ahead(self, position: int, entries: Ints) -> tuple[Ints, Ints, Floats]:
        """All ways on: entries of the product and of the other factor, and their weights, each [walkers, ways]."""
        width = self.inner if position == 0 else self.columns
        rest, last = np.divmod(entries, width)
        own, middle = np.divmod(rest, self.rows if position == 0 else self.inner)
        lead = self.where[position][own][:, :, None]
        at_row, at_inner = (middle, last) if position == 0 else (None, middle)
        if at_row is not None:
            row, inner, column = at_row[:, None, None], at_inner[:, None, None], np.arange(self.columns)
        else:
            row, inner, column = np.arange(self.rows), at_inner[:, None, None], last[:, None, None]
        target = (lead * self.rows + row) * self.columns + column
        other = self._entry(1 - position, lead, row, inner, column) + 0 * target
        weights = self.factors[1 - position].weights(other) * self.ends[target]
        n = entries.size
        return target.reshape(n, -1), other.reshape(n, -1), weights.reshape(n, -1)

    def backward(self, entries: Ints, random: Random) -> tuple[Ints, Ints]:
        """The entries of both factors."""
        left, right = np.empty_like(entries), np.empty_like(entries)
        for part in self._chunks(entries.size, self.inner):
            lefts, rights, weights = self.back(entries[part])
            column = pick(weights, random)
            at = np.arange(len(column))
            left[part], right[part] = lefts[at, column], rights[at, column]
        return left, right

    def back(self, entries: Ints) -> tuple[Ints, Ints, Floats]:
        """All ways back: entries of both factors and their weights, each [walkers, inner]."""
        rest, column = np.divmod(entries, self.columns)
        lead, row = np.divmod(rest, self.rows)
        inner = np.arange(self.inner)[None, :]
        left = self._entry(0, lead[:, None], row[:, None], inner, column[:, None])
        right = self._entry(1, lead[:, None], row[:, None], inner, column[:, None])
        one, other = self.factors
        fed = one.fed[left] | other.fed[right]
        return left, right, one.weights(left) * other.weights(right) * fed
