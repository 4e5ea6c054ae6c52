"""Selection where more than single weights of one cost compete: structures, and budgets in multiply-adds and bytes.

What competes are units: single entries, or blocks. A unit's score is the sum of the scores of its entries that are still kept, its
cost the sum of their costs. The best units stay while the budget holds: the longest beginning of their order, equal scores in order
of position. A block that alone does not fit does not compete. Of every N:M group only the N best entries compete; among those, so
many best ones are the best choice that N:M allows. What costs nothing stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pkcompiler.pruning.candidates import Candidates
from pkcompiler.pruning.floors import served
from pkcompiler.pruning.quantity import Quantity
from pkcompiler.pruning.shapes import Block, Ratio, Structure, groups_of

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
    kept = free | _floors(entries, found, units)
    fits = _fitting(entries, found, units, quantity, budget, np.flatnonzero(kept))
    if blocks and not fits(np.empty(0, np.int64)):
        kept = free | _floors(entries, found, units, sparing=True)
        fits = _fitting(entries, found, units, quantity, budget, np.flatnonzero(kept))
    return _entries(units, kept | _beginning(units, _single(units, ~kept, fits) if blocks else ~kept, fits))


def _share(units: Units, own: np.ndarray, share: int, floor: int, blocks: bool) -> np.ndarray:
    """The best units of one parameter that fit into its share, and those that its floor takes."""
    kept = _served(units, own, floor, sparing=False)
    if blocks and int(units.sizes[kept].sum()) > share:
        kept = _served(units, own, floor, sparing=True)
    fits = partial(_so_many, units, share - int(units.sizes[kept].sum()))
    rest = own & ~kept
    return kept | _beginning(units, _single(units, rest, fits) if blocks else rest, fits)


def _single(units: Units, among: np.ndarray, fits: Callable[[Ints], bool]) -> np.ndarray:
    """Those of some units that fit alone: it is asked once for each parameter and size."""
    places = np.flatnonzero(among)
    if not places.size:
        return among
    kinds = np.stack([units.owner[places], units.sizes[places]])
    _, first, of = np.unique(kinds, axis=1, return_index=True, return_inverse=True)
    alone = np.array([fits(places[i : i + 1]) for i in first], dtype=bool)
    out = np.zeros(units.count, dtype=bool)
    out[places] = alone[of.reshape(-1)]
    return out


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


def _beginning(units: Units, among: np.ndarray, fits: Callable[[Ints], bool]) -> np.ndarray:
    """The best units among some, as many as fit."""
    kept = np.zeros(units.count, dtype=bool)
    order = _order(units, among)
    kept[order[: most_that_fits(len(order), lambda n: fits(order[:n]))]] = True
    return kept


def _so_many(units: Units, most: int, chosen: Ints) -> bool:
    return int(units.sizes[chosen].sum()) <= most


def _fitting(
    entries: Entries, found: Candidates, units: Units, quantity: Quantity, budget: int, base: Ints
) -> Callable[[Ints], bool]:
    """Whether units, and those of ``base``, fit into the budget."""
    names = entries.names
    start = np.bincount(units.owner[base], weights=units.sizes[base], minlength=len(names))
    whole = found.protected_entries

    def fits(chosen: Ints) -> bool:
        more = np.bincount(units.owner[chosen], weights=units.sizes[chosen], minlength=len(names))
        kept = {n: int(a + b) for n, a, b in zip(names, start, more, strict=True)}
        return quantity.at({**whole, **kept}) <= budget

    return fits


def most_that_fits(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``count`` that fits (more never fits where fewer do not); 0 where none does."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
