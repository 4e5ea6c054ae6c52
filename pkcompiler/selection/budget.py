"""Selection where more than single weights of one cost compete: structures, and budgets in multiply-adds and bytes.

What competes are units: single entries, or blocks. A unit's score is the sum of the scores of its entries that are still kept, its
cost the sum of their costs. The best units stay while the budget holds, equal scores in order of position; where one does not fit
beside those before it, the next ones that do stay. Of every N:M group only the N best entries compete; among those, so many best
ones are the best choice that N:M allows. What costs nothing stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pkcompiler.selection.candidates import Candidates
from pkcompiler.selection.floors import served
from pkcompiler.selection.quantity import Quantity, weights
from pkcompiler.selection.structures import Block, Ratio, Structure, groups_of

Ints = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """The entries that compete: per parameter, its flat positions (None: all), and the scores of all end to end."""

    names: Sequence[str]
    positions: Sequence[Ints | None]
    counts: Sequence[int]
    scores: np.ndarray

    @property
    def owner(self) -> Ints:
        """The parameter of every entry, as its place in ``names``."""
        return np.repeat(np.arange(len(self.names)), self.counts)


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What stays or goes together. ``of``: the unit of every entry, -1 where it goes whatever happens."""

    of: Ints
    owner: Ints  # the parameter of every unit
    scores: np.ndarray
    sizes: Ints  # kept entries in every unit

    @property
    def count(self) -> int:
        """The number of units."""
        return len(self.scores)


def choose(
    entries: Entries,
    found: Candidates,
    structure: Structure | None,
    quantity: Quantity,
    budget: int,
    shares: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Which entries stay (one boolean each) at ``budget``, the amount of everything that is kept, protected parameters included.

    ``shares``: entries to keep of each parameter (``layer``, ``uniform`` and ``erk``), in place of the budget.
    """
    units = _units(entries, found, structure)
    blocks = isinstance(structure, Block)
    if shares is not None:
        kept = np.zeros(units.count, dtype=bool)
        for i, name in enumerate(entries.names):
            kept |= _share(units, units.owner == i, shares[name], found.floors.get(name, 0), blocks)
        return _entries(units, kept)
    free = np.array([quantity.costs[n] == 0 for n in entries.names])[units.owner]
    room = Room(entries.names, units.owner, units.sizes, quantity, budget, found.protected_entries)
    kept = free | _floors(entries, found, units)
    if blocks and not room.holds(np.flatnonzero(kept)):
        kept = free | _floors(entries, found, units, sparing=True)
    kept[room.fill(_order(units, ~kept), room.entries(np.flatnonzero(kept), units.sizes))] = True
    return _entries(units, kept)


def _share(units: Units, own: np.ndarray, share: int, floor: int, blocks: bool) -> np.ndarray:
    """The best units of one parameter that fit into its share, and those that its floor takes."""
    kept = _served(units, own, floor, sparing=False)
    if blocks and int(units.sizes[kept].sum()) > share:
        kept = _served(units, own, floor, sparing=True)
    room = Room(("",), np.zeros_like(units.owner), units.sizes, weights({"": int(units.sizes.sum())}), share)
    kept[room.fill(_order(units, own & ~kept), room.entries(np.flatnonzero(kept), units.sizes))] = True
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """What a budget has room for. ``owner``, ``sizes``: the parameter of every unit, as its place in ``names``, and the entries
    that it adds; ``whole``: entries of other parameters that count too."""

    names: Sequence[str]
    owner: Ints
    sizes: Ints
    quantity: Quantity
    budget: int
    whole: Mapping[str, int] = field(default_factory=dict)

    def entries(self, places: Ints, of: Ints) -> Ints:
        """So many entries (``of`` every unit) of each parameter."""
        return np.bincount(self.owner[places], weights=of[places], minlength=len(self.names)).astype(np.int64)

    def amount(self, entries: Ints) -> int:
        """The amount at so many kept entries of each parameter."""
        return self.quantity.at({**self.whole, **{n: int(k) for n, k in zip(self.names, entries, strict=True)}})

    def holds(self, places: Ints) -> bool:
        """Whether some units fit."""
        return self.amount(self.entries(places, self.sizes)) <= self.budget

    def fill(self, order: Ints, base: Ints) -> Ints:
        """The units, out of some in order, that fit beside the entries ``base`` of each parameter: each that fits beside those
        before it. All cost something.
        """
        costs = np.array([self.quantity.costs[n] for n in self.names])[self.owner] * self.sizes
        taken = [order[:0]]
        while order.size:
            left = self.budget - self.amount(base)
            order = order[costs[order] <= left]
            most = min(order.size, left // int(costs[order].min())) if order.size else 0
            count = most_that_fits(most, partial(self._fit, order, base))
            base = base + self.entries(order[:count], self.sizes)
            taken.append(order[:count])
            wrong, order = order[count : count + 1], order[count:]
            if count < most:  # nor do others of its parameter that are as large
                order = order[(self.owner[order] != self.owner[wrong]) | (self.sizes[order] < self.sizes[wrong])]
        return np.concatenate(taken)

    def _fit(self, order: Ints, base: Ints, count: int) -> bool:
        return self.amount(base + self.entries(order[:count], self.sizes)) <= self.budget


def _entries(units: Units, kept: np.ndarray) -> np.ndarray:
    """The choice among units as one among entries."""
    padded = np.append(kept, False)  # -1: what goes whatever happens
    chosen: np.ndarray = padded[units.of]
    return chosen


def _order(units: Units, among: np.ndarray) -> Ints:
    """The places of some units, the best first, equal ones in order of position."""
    places = np.flatnonzero(among)
    order: Ints = places[np.argsort(-units.scores[places], kind="stable")]
    return order


def _units(entries: Entries, found: Candidates, structure: Structure | None) -> Units:
    if isinstance(structure, Block):
        return _blocks(entries, found, structure)
    size = len(entries.scores)
    of = np.arange(size)
    owner = entries.owner
    if isinstance(structure, Ratio):
        alive = _best_of_groups(entries, found, structure)
        of = np.where(alive, np.cumsum(alive) - 1, -1)
        return Units(of, owner[alive], entries.scores[alive], np.ones(int(alive.sum()), dtype=np.int64))
    return Units(of, owner, entries.scores, np.ones(size, dtype=np.int64))


def _numbered(entries: Entries, found: Candidates, structure: Structure) -> tuple[Ints, list[int]]:
    """The group of every entry, numbered over all parameters, and how many groups each parameter has."""
    pieces, counts, start = [], [], 0
    for name, positions in zip(entries.names, entries.positions, strict=True):
        groups, count = groups_of(structure, found.shapes[name], found.sides[name])
        pieces.append((groups if positions is None else groups.take(positions)) + start)
        counts.append(count)
        start += count
    return np.concatenate(pieces), counts


def _blocks(entries: Entries, found: Candidates, structure: Block) -> Units:
    groups, counts = _numbered(entries, found, structure)
    total = sum(counts)
    sizes = np.bincount(groups, minlength=total)
    scores = np.bincount(groups, weights=entries.scores, minlength=total)
    there = sizes > 0
    number = np.cumsum(there) - 1
    owner = np.repeat(np.arange(len(counts)), counts)
    return Units(number[groups], owner[there], scores[there], sizes[there])


def _best_of_groups(entries: Entries, found: Candidates, structure: Ratio) -> np.ndarray:
    """Marks the N best entries of every group, equal ones in order of position."""
    groups, _ = _numbered(entries, found, structure)
    order = np.lexsort((np.arange(len(groups)), -entries.scores, groups))
    inside = groups[order]
    first = np.flatnonzero(np.append(True, inside[1:] != inside[:-1]))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    best = np.zeros(len(order), dtype=bool)
    best[order[rank < structure.kept]] = True
    return best


def _floors(entries: Entries, found: Candidates, units: Units, *, sparing: bool = False) -> np.ndarray:
    """The best units of every parameter that has a floor, as many as it takes; ``sparing``: those of the smallest sum."""
    kept = np.zeros(units.count, dtype=bool)
    for i, name in enumerate(entries.names):
        kept |= _served(units, units.owner == i, found.floors.get(name, 0), sparing=sparing)
    return kept


def _served(units: Units, own: np.ndarray, least: int, *, sparing: bool) -> np.ndarray:
    kept = np.zeros(units.count, dtype=bool)
    if least:
        kept[served(units.sizes, _order(units, own), least, sparing=sparing)] = True
    return kept


def most_that_fits(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` that fits (more never fits where fewer do not); 0 where none does."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
