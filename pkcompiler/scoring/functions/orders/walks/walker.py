"""Many walks at once through a graph: forward from inputs and backward from outputs in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.ir.graphs import factors, makers, maps_of
from pkcompiler.ir.maps import Conv, Frozen, Source
from pkcompiler.ir.types import PathGraph
from pkcompiler.scoring.functions.orders.walks.draw import Bits, Groups, Ints, Random, choose
from pkcompiler.scoring.functions.orders.walks.hops import Hop, Move, hops_of
from pkcompiler.scoring.functions.orders.walks.live import crossed, live

Arrivals = dict[int, list[tuple[int, Ints, Ints]]]


class Walker:
    """A graph prepared for walks.

    ``weights``: by parameter, not below 0, already times its mask: what a hop is proportional to. ``whole``: a hop along a
    convolution visits the whole kernel. ``slots``: the parameters that walks hop along; ``starts``: where each begins in one
    numbering of all their entries (``size`` of them). ``reachable``: which of these a path crosses.
    """

    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        *,
        batch: int = 1,
        whole: bool = False,
    ) -> None:
        self.graph, self.tensors, self.weights, self.masks, self.batch = graph, tensors, weights, masks, batch
        self.live = live(graph, tensors, weights, masks, batch)
        hopped = crossed(graph)
        self.slots = [s.name for s in graph.parameters if s.name in hopped]
        flat = {n: weights[n].detach().cpu().numpy().astype(np.float64).reshape(-1) for n in self.slots}
        shapes = {n: tuple(weights[n].shape) for n in self.slots}
        self.starts = dict(zip(self.slots, np.cumsum([0, *(flat[n].size for n in self.slots)])[:-1].tolist(), strict=True))
        self.size = sum(w.size for w in flat.values())
        self.reachable = self._reachable(shapes, whole)
        self.hops: dict[int, Hop] = {}
        held: dict[str, Any] = {n: t.detach().cpu() for n, t in tensors.items()}
        for i, op in enumerate(graph.ops):
            if op.inputs and not isinstance(op.map, Source | Frozen) and self.live.ends[op.name].any():
                self.hops[i] = hops_of(i, op, self.live, flat, shapes, slots=held, whole=whole)
        self.output = graph.outputs[0]
        self.made = {op.name: i for i, op in enumerate(graph.ops)}
        self.used: dict[str, list[tuple[int, int]]] = {}
        for i, position in self.live.uses:
            if i in self.hops:
                self.used.setdefault(graph.ops[i].inputs[position], []).append((i, position))
        self.splits = bool(factors(graph))
        self.inputs = Ends([v.name for v in graph.inputs], self.live.shapes, self._inputs(), self._axes())
        last = {self.output: self.live.fed[self.output]}
        self.outputs = Ends(
            [self.output], self.live.shapes, last, {self.output: _axis(self._made_by_conv(), self.live.shapes[self.output])}
        )

    @property
    def connected(self) -> bool:
        """Whether there is anything to walk along."""
        return self.inputs.units > 0 and self.outputs.units > 0

    def _reachable(self, shapes: Mapping[str, Sequence[int]], whole: bool) -> Bits:
        found = [self.live.reachable[n] for n in self.slots]
        if whole:
            taps = [math.prod(shapes[n][2:]) for n in self.slots]
            found = [np.repeat(f.reshape(-1, k).any(1), k) for f, k in zip(found, taps, strict=True)]
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def closing(self, visited: Bits) -> Bits:
        """Which entries would lie on a path if they were added to those visited, each alone."""
        left = {**self.weights}
        for name in self.slots:
            own = torch.from_numpy(visited[self.part(name)]).reshape(self.weights[name].shape)
            left[name] = self.weights[name].detach().cpu() * own
        found = live(self.graph, self.tensors, left, self.masks, self.batch)
        return np.concatenate([found.closing[n] for n in self.slots])

    def part(self, name: str) -> slice:
        """The numbers of a parameter's entries."""
        start = self.starts[name]
        return slice(start, start + self.weights[name].numel())

    def _inputs(self) -> dict[str, Bits]:
        return {v.name: self.live.ends[v.name] for v in self.graph.inputs}

    def _axes(self) -> dict[str, int]:
        made = makers(self.graph)
        convolved = {made[name].inputs[0] for name in maps_of(self.graph, Conv)}
        return {v.name: _axis(v.name in convolved, self.live.shapes[v.name]) for v in self.graph.inputs}

    def _made_by_conv(self) -> bool:
        return self.output in maps_of(self.graph, Conv)

    # walking ------------------------------------------------------------------------------------------------------------

    def run(self, first: int, count: int, random: Random) -> tuple[Ints, Ints]:
        """Walks ``first`` .. ``first + count - 1`` (even ones forward): the walks' numbers and what they visit, in order."""
        self.visits: list[tuple[Ints, Ints]] = []
        self.ahead: Arrivals = {}
        self.back: Arrivals = {}
        numbers = np.arange(first, first + count)
        forward, backward = numbers[numbers % 2 == 0], numbers[numbers % 2 == 1]
        for name, walks, entries in self.inputs.draw(forward // 2, forward, random):
            self._arrive_ahead(name, walks, entries, random)
        for i in range(len(self.graph.ops)):
            self._across(i, random)
        for name, walks, entries in self.outputs.draw(backward // 2, backward, random):
            self._arrive_back(name, walks, entries)
        for i in reversed(range(len(self.graph.ops))):
            self._return(i, random)
        if not self.visits:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        walks = np.concatenate([w for w, _ in self.visits])
        order = np.argsort(walks, kind="stable")
        return walks[order], np.concatenate([v for _, v in self.visits])[order]

    def _arrive_ahead(self, name: str, walks: Ints, entries: Ints, random: Random) -> None:
        """Choose the operation that is crossed next; an output is the end."""
        if name == self.output or not walks.size:
            return
        uses = self.used[name]
        taken = choose(np.stack([self.live.uses[use][entries] for use in uses]), random)
        for number, (i, position) in enumerate(uses):
            rows = np.flatnonzero(taken == number)
            if rows.size:
                self.ahead.setdefault(i, []).append((position, walks[rows], entries[rows]))

    def _arrive_back(self, name: str, walks: Ints, entries: Ints) -> None:
        if name in self.made and walks.size:
            self.back.setdefault(self.made[name], []).append((0, walks, entries))

    def _across(self, i: int, random: Random) -> None:
        waiting = self.ahead.pop(i, [])
        for position in sorted({p for p, _, _ in waiting}):
            walks, entries = (np.concatenate([w[part] for w in waiting if w[0] == position]) for part in (1, 2))
            for move in self.hops[i].forward(position, entries, random):
                self._visit(move, walks)
                if move.beside:
                    self._arrive_back(self.graph.ops[i].inputs[move.position], walks[move.rows], move.entries)
                else:
                    self._arrive_ahead(self.graph.ops[i].name, walks[move.rows], move.entries, random)

    def _return(self, i: int, random: Random) -> None:
        waiting = self.back.pop(i, [])
        if not waiting:
            return
        walks, entries = (np.concatenate([w[part] for w in waiting]) for part in (1, 2))
        if self.splits:
            size = self.live.ends[self.graph.ops[i].name].size
            joint = np.unique(walks * size + entries)
            walks, entries = np.divmod(joint, size)
        for move in self.hops[i].backward(entries, random):
            self._visit(move, walks)
            self._arrive_back(self.graph.ops[i].inputs[move.position], walks[move.rows], move.entries)

    def _visit(self, move: Move, walks: Ints) -> None:
        if move.ids is None:
            return
        own, ids = walks[move.rows], move.ids
        if ids.ndim == 2:
            own, ids = np.repeat(own, ids.shape[1]), ids.reshape(-1)
        good = ids >= 0
        self.visits.append((own[good], ids[good] + self.starts[move.slot]))


class Ends:
    """Where walks begin: unit after unit, at one of its live places. ``alive``: by value; ``axes``: the dimension of its units."""

    def __init__(
        self, names: Sequence[str], shapes: Mapping[str, Sequence[int]], alive: Mapping[str, Bits], axes: Mapping[str, int]
    ) -> None:
        self.names = list(names)
        sizes = [alive[n].size for n in names]
        self.starts = np.cumsum([0, *sizes])
        keys, members, count = [], [], 0
        for name, start in zip(names, self.starts, strict=False):
            shape = list(shapes[name]) or [1]
            view = [shape[axes[name]] if d == axes[name] else 1 for d in range(len(shape))]
            unit = np.broadcast_to(np.arange(shape[axes[name]]).reshape(view), shape).reshape(-1)
            found = np.flatnonzero(alive[name])
            keys.append(count + unit[found])
            members.append(start + found)
            count += shape[axes[name]]
        key, member = np.concatenate(keys), np.concatenate(members)
        used, dense = np.unique(key, return_inverse=True)
        self.units = used.size
        self.groups = Groups(dense.reshape(-1), member, used.size)

    def draw(self, turns: Ints, walks: Ints, random: Random) -> list[tuple[str, Ints, Ints]]:
        """Where these walks begin: value, walks, entries."""
        joint = self.groups.draw(turns % self.units, random)
        which = np.searchsorted(self.starts, joint, side="right") - 1
        found = [(i, np.flatnonzero(which == i)) for i in range(len(self.names))]
        return [(self.names[i], walks[rows], joint[rows] - self.starts[i]) for i, rows in found if rows.size]


def _axis(convolved: bool, shape: Sequence[int]) -> int:
    """The dimension of the units: channels of what a convolution reads or of an image, else the last one."""
    if len(shape) < 2:
        return 0
    return 1 if convolved or len(shape) >= 4 else len(shape) - 1


def generator(seed: int) -> Random:
    """Random numbers that are the same on every machine."""
    return np.random.Generator(np.random.PCG64(seed))


def positive(weights: Mapping[str, Tensor]) -> bool:
    """Whether hops can be proportional to these: finite and not below 0."""
    return all(bool(torch.isfinite(w).all()) and bool((w >= 0).all()) for w in weights.values())
