"""Choices of many walkers at once."""

from __future__ import annotations

import numpy as np

Ints = np.ndarray
Floats = np.ndarray
Bits = np.ndarray
Random = np.random.Generator


def pick(weights: Floats, random: Random) -> Ints:
    """One column for each row of ``weights`` [rows, columns], with probability proportional to its weight (positive somewhere)."""
    sums = np.cumsum(weights, axis=1)
    last = sums[:, -1]
    at = np.minimum(random.random(len(sums)) * last, np.nextafter(last, 0))
    return np.asarray((sums <= at[:, None]).sum(1))


def choose(options: Bits, random: Random) -> Ints:
    """One row for each column of ``options`` [rows, columns], each true one equally likely (one is true in every column)."""
    if len(options) == 1:
        return np.zeros(options.shape[1], dtype=np.int64)
    ranks = np.cumsum(options, axis=0)
    at = np.floor(random.random(options.shape[1]) * ranks[-1])
    return np.asarray(np.argmax(ranks > at, axis=0))


class Table:
    """Rows of weights that are drawn from often: cumulative sums end to end. ``weights`` [rows, columns]."""

    def __init__(self, weights: Floats) -> None:
        self.columns = weights.shape[1]
        self.sums = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])

    def draw(self, rows: Ints, random: Random) -> Ints:
        """A column for each of ``rows``."""
        first = rows * self.columns
        low, high = self.sums[first], self.sums[first + self.columns]
        at = np.searchsorted(self.sums, low + random.random(rows.size) * (high - low), side="right") - 1
        return np.clip(at - first, 0, self.columns - 1)


class Groups:
    """Members of groups: ``members[i]`` belongs to group ``keys[i]``; each member of a group is equally likely."""

    def __init__(self, keys: Ints, members: Ints, count: int) -> None:
        order = np.argsort(keys, kind="stable")
        self.members = members[order]
        self.counts = np.bincount(keys, minlength=count)
        self.starts = np.cumsum(self.counts) - self.counts

    def draw(self, keys: Ints, random: Random) -> Ints:
        """A member of each group (none of them empty)."""
        counts = self.counts[keys]
        return np.asarray(
            self.members[self.starts[keys] + np.minimum((random.random(keys.size) * counts).astype(np.int64), counts - 1)]
        )
