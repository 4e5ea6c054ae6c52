"""Hops along the weights of a dense, convolution or embedding operation: probability proportional to the weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pkcompiler.ir.maps import Conv
from pkcompiler.ir.weights import Joining, groups, side, windowed
from pkcompiler.scoring.functions.orders.walks.draw import Bits, Floats, Ints, Random, Table, pick

ATTEMPTS = 40
"""Hops are proposed by weight, and refused where they lead off the image or nowhere; then a list of all hops serves."""

LISTED = 1 << 22
"""Entries of a list at once."""


@dataclass(frozen=True, slots=True)
class Side:
    """The values on one side: entry = (lead * channels + channel) * places + place. ``table`` [places, taps]: where a tap leads
    to on the other side, -1 for off the image. ``alive``: the entries that a hop may lead to, seen from the other side."""

    channels: int
    places: int
    table: Ints
    alive: Bits

    def split(self, entries: Ints) -> tuple[Ints, Ints, Ints]:
        """Lead, channel and place."""
        rest, place = np.divmod(entries, self.places)
        lead, channel = np.divmod(rest, self.channels)
        return lead, channel, place

    def join(self, lead: Ints, channel: Ints, place: Ints) -> Ints:
        """The entries of a lead, channel and place: the inverse of ``split``."""
        return np.asarray((lead * self.channels + channel) * self.places + place)


class Weighted:
    """``weight``: of every entry of the parameter, flat. Kernels are [groups, outputs, inputs, taps] of it by ``strides``."""

    def __init__(
        self,
        map: Joining,
        slot: str,
        weight: Floats,
        shape: Sequence[int],
        inside: tuple[Sequence[int], Bits],
        outside: tuple[Sequence[int], Bits],
        *,
        kernels: bool,
    ) -> None:
        self.slot, self.weight, self.whole = slot, weight, kernels
        turned, self.groups = side(map).turned, groups(map)
        self.taps = math.prod(shape[2:])
        a, b = shape[0], shape[1]
        if isinstance(map, Conv):
            a //= self.groups
            ahead, back = places(map, inside[0][2:], outside[0][2:], shape[2:])
        else:
            ahead = back = np.zeros((1, 1), dtype=np.int64)
        self.outputs, self.inputs = (b, a) if turned else (a, b)
        step = self.taps
        self.strides = (a * b * step, step, b * step) if turned else (a * b * step, b * step, step)
        self.inside = Side(self.groups * self.inputs, len(ahead), ahead, inside[1])
        self.outside = Side(self.groups * self.outputs, len(back), back, outside[1])
        sums = weight.reshape(self.groups, a, b, step).sum(-1)
        sums = sums.swapaxes(1, 2) if turned else sums
        self.ahead = Table(sums.swapaxes(1, 2).reshape(-1, self.outputs))
        self.back = Table(sums.reshape(-1, self.inputs))

    def first(self, channel_in: Ints, channel_out: Ints) -> Ints:
        """The flat index of a kernel's first tap."""
        group, i = np.divmod(channel_in, self.inputs)
        o = channel_out % self.outputs
        by_group, by_output, by_input = self.strides
        return np.asarray(group * by_group + o * by_output + i * by_input)

    def hop(self, entries: Ints, forward: bool, random: Random) -> tuple[Ints, Ints]:
        """Where each walker goes, and the flat indices of what it visits ([walkers], or [walkers, taps] of whole kernels)."""
        here, there = (self.inside, self.outside) if forward else (self.outside, self.inside)
        table, width = (self.ahead, self.outputs) if forward else (self.back, self.inputs)
        lead, channel, place = here.split(entries)
        found, ids = np.empty_like(entries), np.empty_like(entries)
        todo = np.arange(entries.size)
        for _ in range(ATTEMPTS):
            own = channel[todo]
            per_group = self.inputs if forward else self.outputs
            other = (own // per_group) * width + table.draw(own, random)
            kernel = self.first(own, other) if forward else self.first(other, own)
            tap, good = self._tap(kernel, random)
            to = here.table[place[todo], tap]
            target = there.join(lead[todo], other, to)
            good &= (to >= 0) & there.alive[np.where(to >= 0, target, 0)]
            chosen = todo[good]
            found[chosen], ids[chosen] = target[good], (kernel + tap)[good]
            todo = todo[~good]
            if not todo.size:
                break
        step = max(1, LISTED // (width * self.taps))
        for start in range(0, todo.size, step):
            some = todo[start : start + step]
            targets, indices, weights = self.listed(entries[some], forward)
            column = pick(weights, random)
            rows = np.arange(some.size)
            found[some], ids[some] = targets[rows, column], indices[rows, column]
        if self.whole and self.taps > 1:
            return found, (ids - ids % self.taps)[:, None] + np.arange(self.taps)
        return found, ids

    def _tap(self, kernel: Ints, random: Random) -> tuple[Ints, Bits]:
        if self.taps == 1:
            return np.zeros(kernel.size, dtype=np.int64), self.weight[kernel] > 0
        weights = self.weight[kernel[:, None] + np.arange(self.taps)]
        good = weights.sum(1) > 0
        weights[~good] = 1
        return pick(weights, random), good

    def listed(self, entries: Ints, forward: bool) -> tuple[Ints, Ints, Floats]:
        """All hops of each walker: targets, flat indices and weights (0 where there is none), each [walkers, hops]."""
        here, there = (self.inside, self.outside) if forward else (self.outside, self.inside)
        per_group, width = (self.inputs, self.outputs) if forward else (self.outputs, self.inputs)
        lead, channel, place = (part[:, None, None] for part in here.split(entries))
        other = (channel // per_group) * width + np.arange(width)[None, :, None]
        kernel = self.first(channel + 0 * other, other) if forward else self.first(other, channel + 0 * other)
        taps = np.arange(self.taps)[None, None, :]
        to = here.table[place, taps]
        target = there.join(lead, other, to)
        alive = (to >= 0) & there.alive[np.where(to >= 0, target, 0)]
        ids = kernel + taps
        n = entries.size
        return target.reshape(n, -1), ids.reshape(n, -1), (self.weight[ids] * alive).reshape(n, -1)


def places(map: Conv, inside: Sequence[int], outside: Sequence[int], kernel: Sequence[int]) -> tuple[Ints, Ints]:
    """Where each tap leads: [input places, taps] and [output places, taps], -1 for nowhere."""
    far, near = windowed(map, inside, outside)
    along = [
        slid(n, m, k, s, p, d) for n, m, k, s, p, d in zip(far, near, kernel, map.stride, map.padding, map.dilation, strict=True)
    ]
    back = combined(along, near)
    there = np.full((math.prod(near), back.shape[1]), -1, dtype=np.int64)
    rows, taps = np.nonzero(back >= 0)
    there[back[rows, taps], taps] = rows
    return windowed(map, back, there)


def slid(far: int, near: int, kernel: int, stride: int, padding: int, dilation: int) -> Ints:
    """One dimension of a window: the place near that tap k of window o reads, [far, kernel], -1 outside."""
    at = np.arange(far)[:, None] * stride - padding + np.arange(kernel)[None, :] * dilation
    return np.where((at >= 0) & (at < near), at, -1)


def combined(along: Sequence[Ints], near: Sequence[int]) -> Ints:
    """Tables of all dimensions as one over flat places: [far places, taps], -1 outside."""
    total = np.zeros((1, 1), dtype=np.int64)
    for table, n in zip(along, near, strict=True):
        rows, taps = total.shape[0] * table.shape[0], total.shape[1] * table.shape[1]
        left, right = total[:, None, :, None], table[None, :, None, :]
        joined = np.where((left >= 0) & (right >= 0), left * n + right, -1)
        total = joined.reshape(rows, taps)
    return total
