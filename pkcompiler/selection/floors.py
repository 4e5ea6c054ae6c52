"""Floors in whole blocks: a floor is rounded up to the fewest entries, at least so many, that some of the blocks make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from pkcompiler.ir.weights import Sides
from pkcompiler.selection.structures import Block, groups_of

Ints = np.ndarray


def in_blocks(
    floors: Mapping[str, int], structure: Block, shapes: Mapping[str, tuple[int, ...]], sides: Mapping[str, Sides]
) -> dict[str, int]:
    """The floors of some parameters, each rounded up to what whole blocks can make."""
    return {n: sum(fewest(block_sizes(structure, shapes[n], sides[n]), k).elements()) if k else 0 for n, k in floors.items()}


def block_sizes(structure: Block, shape: tuple[int, ...], sides: Sides) -> Ints:
    """The entries of every block of a parameter, those at the edges smaller."""
    groups, count = groups_of(structure, shape, sides)
    return np.bincount(groups, minlength=count)


def fewest(sizes: Ints, least: int) -> Counter[int]:
    """How many blocks of each size make the smallest sum that is at least ``least``; all of them, where even they do not.

    Exact: which sums can be made is found size by size, each as often as it is there (in powers of two).
    """
    values, counts = np.unique(sizes, return_counts=True)
    if least >= int(sizes.sum()):
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    unit = int(np.gcd.reduce(values))
    items = [(int(v) // unit, n, int(v)) for v, c in zip(values, counts, strict=True) for n in _powers(int(c))]
    goal = -(-least // unit)
    first = np.full(goal + int(values.max()) // unit, -1, dtype=np.int32)
    first[0] = 0
    for i, (size, number, _) in enumerate(items, 1):
        step = size * number
        if step < first.size:
            first[np.flatnonzero((first[:-step] >= 0) & (first[step:] < 0)) + step] = i
    left = goal + int(np.flatnonzero(first[goal:] >= 0)[0])
    found: Counter[int] = Counter()
    while left:
        size, number, value = items[first[left] - 1]
        found[value] += number
        left -= size * number
    return found


def _powers(count: int) -> list[int]:
    """Numbers whose sums are 0, 1, ..., count."""
    out = []
    while count > 0:
        out.append((count + 1) // 2)
        count //= 2
    return out


def served(sizes: Ints, order: Ints, least: int, *, sparing: bool) -> Ints:
    """The blocks that serve a floor, as places in ``order`` (the best first).

    The best ones, without those that the others can do without; ``sparing``: those that make the smallest sum, of each size the
    best.
    """
    if sparing:
        wanted = fewest(sizes[order], least)
        return np.concatenate([np.empty(0, np.int64), *(order[sizes[order] == v][:n] for v, n in wanted.items())])
    enough = int(np.searchsorted(np.cumsum(sizes[order]), least)) + 1
    chosen = order[:enough]
    surplus = int(sizes[chosen].sum()) - least
    if surplus < int(sizes[chosen].min(initial=surplus + 1)):
        return chosen
    stays = np.ones(chosen.size, dtype=bool)
    for place in range(chosen.size - 1, -1, -1):
        size = int(sizes[chosen[place]])
        if size <= surplus:
            stays[place] = False
            surplus -= size
    return chosen[stays]
