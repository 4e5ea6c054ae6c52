"""The order in which the weights of one layer are taken: always the one with the largest gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Floats = np.ndarray
Ints = np.ndarray
Bits = np.ndarray

BITS = 40
"""Of a count of paths that are compared: what sums of many terms leave below is rounding, and would decide between equals."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What a layer gains: ``nodes`` for all of its units, 1 - ``nodes`` for the most paths that ``budget`` weights can have,
    ``kernels`` where each of ``budget`` weights is alone in its kernel."""

    nodes: float
    kernels: float
    budget: int


def taken(paths: Floats, allowed: Bits, turn: Ints, groups: int, shares: Shares, held: Ints | None = None) -> Ints:
    """The rank of every weight, from 0 on, flat; -1 for those that are not allowed, or on no path.

    ``paths`` [outer, inner, taps]: how many paths cross a weight (times any common factor); ``turn``: a number of its own for each,
    the least goes first among equals. The kernel (o, i) joins unit o of one side to unit (group of o, i) of the other. The taps of
    a kernel that lie on a path count alike, each the mean of their paths: to count each its own would put all of them at the
    centre, where the fewest positions fall off the image. ``held`` (flat): the rank of those that are taken already, else -1.

    Optimal at every number of weights where ``paths`` are the same for all units of one side and everything is allowed
    (docs/theory.md, section 5); elsewhere the gains are those of a submodular function.
    """
    before = np.full(paths.size, -1) if held is None else held
    there = (before >= 0).reshape(paths.shape)
    on = paths > 0
    live = on & allowed | there
    value = rounded(paths.sum(-1) / np.maximum(1, on.sum(-1)))
    gain = (1 - shares.nodes) * value / _most(value, live.sum(-1), shares.budget)
    opener = np.where(live, turn, turn.size).argmin(-1)[..., None]
    opening = np.where(live.any(-1), gain + shares.kernels / max(1, shares.budget), -np.inf)
    unit = shares.nodes / (len(paths) + groups * paths.shape[1])
    first = np.take_along_axis(turn, opener, -1)[..., 0]
    opened = np.asarray(there.any(-1))
    opening = opening + covering(opening, first, opened, groups, unit)
    levels, last = _levels(gain, opening)
    level = np.repeat(levels[0][..., None], paths.shape[-1], -1)
    np.put_along_axis(level, opener, np.where(opened, *levels)[..., None], -1)
    level[there | ~live] = last
    order = _inverse(turn.reshape(-1))
    order = order[level.reshape(-1)[order].argsort(kind="stable")]
    kept = np.flatnonzero(there)
    chain = [kept[before[kept].argsort()], order[: np.count_nonzero(live) - kept.size]]
    ranks = np.full(paths.size, -1, dtype=np.int64)
    ranks[np.concatenate(chain)] = np.arange(np.count_nonzero(live))
    return ranks


def _most(value: Floats, counts: Ints, budget: int) -> float:
    """The largest sum of ``budget`` weights, ``counts`` of each value."""
    order = value.reshape(-1).argsort()[::-1]
    there = np.minimum(counts.reshape(-1)[order].cumsum(), max(1, budget))
    return float((np.diff(there, prepend=0) * value.reshape(-1)[order]).sum()) or 1.0


def _levels(*gains: Floats) -> tuple[list[Ints], int]:
    """The place of each gain among all different ones from the largest on, in as few bits as hold it, and the place behind them."""
    different = np.unique([-g for g in gains])
    kind = np.uint16 if different.size < 1 << 16 else np.int64  # 16 bits are sorted by counting
    return [np.searchsorted(different, -g).astype(kind) for g in gains], different.size


def in_turn(tie: Floats) -> Ints:
    """The largest first, equal ones in order of position: the turn of every entry."""
    return _inverse((-tie.reshape(-1)).argsort(kind="stable")).reshape(tie.shape)


def _inverse(order: Ints) -> Ints:
    found = np.empty_like(order)
    found[order] = np.arange(order.size)
    return found


def rounded(counts: Floats) -> Floats:
    """To ``BITS`` significant bits."""
    mantissa, exponent = np.frexp(counts)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, BITS)), exponent - BITS))


def covering(value: Floats, turn: Ints, opened: Bits, groups: int, unit: float) -> Floats:
    """What each kernel gains by units that it is the first to reach, where the kernel of the largest gain is always opened next.

    ``value`` [outer, inner]: the gain without units, -inf where there is no kernel; ``turn``: the least goes first among equals.
    ``opened``: the kernels that are open already. ``unit``: the gain of each of its two units.
    """
    bonus = np.zeros(value.shape)
    if unit > 0:
        front = _Front(value, turn, groups, unit)
        for known in np.flatnonzero(opened):
            front.open(int(known))
        while (kernel := front.best()) >= 0:
            bonus.flat[kernel] = front.open(kernel)
    return bonus


class _Front:
    """The best kernels that would reach a unit: of every unreached outer unit, one to an unreached inner unit and one to a
    reached one; of every unreached inner unit, one from a reached outer unit. A kernel is outer * width + inner."""

    def __init__(self, value: Floats, turn: Ints, groups: int, unit: float) -> None:
        self.value, self.unit = value.reshape(-1), unit
        outer, self.width = value.shape
        self.size = outer // groups
        self.turn = turn.reshape(-1)
        self.rank = _inverse(np.lexsort((self.turn, -self.value)))
        self.wished = self.rank.reshape(value.shape).argsort(1)  # the inner units of each outer one, best first
        self.place = np.zeros(outer, dtype=np.int64)
        self.outer_left, self.inner_left = np.ones(outer, dtype=bool), np.ones((groups, self.width), dtype=bool)
        sizes = np.cumsum([outer, outer, groups * self.width])
        self.gains, self.kernels = np.full(sizes[-1], -np.inf), np.full(sizes[-1], -1)
        self.both, self.near, self.far = (slice(a, b) for a, b in zip([0, *sizes[:-1]], sizes, strict=True))
        rows = np.arange(outer)
        self._set(rows, rows * self.width + self.wished[:, 0], 2)

    def best(self) -> int:
        """The kernel of the largest gain, among equals the one whose turn it is; -1 where none is left."""
        top = self.gains.max()
        if top == -np.inf:
            return -1
        found = self.kernels[self.gains == top]
        return int(found[self.turn[found].argmin()])

    def open(self, kernel: int) -> float:
        """Reach the units of a kernel; what it gains by them."""
        outer, inner = divmod(kernel, self.width)
        group = outer // self.size
        new_outer, new_inner = bool(self.outer_left[outer]), bool(self.inner_left[group, inner])
        if new_inner:
            self.inner_left[group, inner] = False
            self.gains[self.far][group * self.width + inner] = -np.inf
        if new_outer:
            self.outer_left[outer] = False
            self.gains[self.both][outer] = self.gains[self.near][outer] = -np.inf
            left = np.flatnonzero(self.inner_left[group])
            self._better(self.far.start + group * self.width + left, outer * self.width + left)
        if new_inner:
            self._leave(group, inner)
        return (new_outer + new_inner) * self.unit

    def _leave(self, group: int, inner: int) -> None:
        """An inner unit is reached: the outer units of its group look at the next one that is not, and may still choose it."""
        rows = group * self.size + np.flatnonzero(self.outer_left[group * self.size : (group + 1) * self.size])
        self._better(self.near.start + rows, rows * self.width + inner)
        rows = rows[self.kernels[self.both][rows] == rows * self.width + inner]
        while rows.size:
            self.place[rows] += 1
            ended = self.place[rows] == self.width
            self.gains[self.both][rows[ended]] = -np.inf
            rows = rows[~ended]
            wished = self.wished[rows, self.place[rows]]
            free = self.inner_left[group, wished]
            self._set(rows[free], rows[free] * self.width + wished[free], 2)
            rows = rows[~free]

    def _set(self, places: Ints, kernels: Ints, units: int) -> None:
        self.kernels[places], self.gains[places] = kernels, self.value[kernels] + units * self.unit

    def _better(self, places: Ints, kernels: Ints) -> None:
        """Put kernels, of one unit that is not reached, where they are better than what stands there."""
        known = self.kernels[places]
        better = (known < 0) | (self.rank[kernels] < self.rank[known])
        self._set(places[better], kernels[better], 1)
