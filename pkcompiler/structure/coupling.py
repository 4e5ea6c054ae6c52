"""From the classes of a walk to groups, layers and what is excluded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Frozen
from pkcompiler.ir.types import PathGraph
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.reindex import concrete
from pkcompiler.structure.choices import Choices, Reshaping
from pkcompiler.structure.groups import Axis, Excluded, Group, Layer, Member, Side, entry_name
from pkcompiler.structure.labels import Classes, Ints, Labels
from pkcompiler.structure.propagate import Walk


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """The coupling of a graph: ``groups`` in order of the parameters, the ``layers`` that they make up, what is ``excluded``, and
    ``axes``, the same groups by dimension of every parameter and buffer that has some."""

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    excluded: tuple[Excluded, ...]
    axes: tuple[Axis, ...]


@checked
@in_own_modes
def channel_groups(graph: PathGraph, watched: frozenset[str] | None = None) -> tuple[Group, ...]:
    """The groups of output units that can only be removed together, from the path graph alone; see :func:`coupling`."""
    return coupling(graph, watched).groups


@in_own_modes
def coupling(graph: PathGraph, watched: frozenset[str] | None = None) -> Coupling:
    """Which units of a graph go together.

    ``watched``: the values and parameters that recorded factors are computed from (``Capture.watched``). A graph that has
    such factors does not say it.

    :raises PkcError: PKC440, where ``watched`` is needed
    """
    watched = known_watched(graph, watched)
    choices = Choices()
    while True:
        labels = Labels()
        walk = Walk(graph, labels, Reshaping(labels, choices), watched)
        classes = walk.labels.solve()
        if not choices.revise(classes, _stored(walk, classes)):
            return _Groups(graph, walk, classes).result()


def known_watched(graph: PathGraph, watched: frozenset[str] | None) -> frozenset[str]:
    """What is frozen at the data is computed from ``watched``. Raises ``PKC440`` where that must be given."""
    frozen = list(maps_of(graph, Frozen))
    if frozen and watched is None:
        raise fail(
            "PKC440",
            f"%{frozen[0]} is recorded from the model's run, and the graph does not say from which units it is computed",
            "give what the capture knows of it: coupling(captured.graph, captured.watched)",
        )
    return watched or frozenset()


def _stored(walk: Walk, classes: Classes) -> np.ndarray:
    """Which classes a parameter or buffer makes."""
    found = np.zeros(classes.reason.size, dtype=bool)
    for (slot, dim), side in walk.sides.items():
        labels = walk.slots[slot][dim]
        if side == "out":
            found[classes.root[labels[labels >= 0]]] = True
    return found


class _Groups:
    """Numbers the classes that can be removed, and collects what belongs to them."""

    def __init__(self, graph: PathGraph, walk: Walk, classes: Classes) -> None:
        self.walk, self.classes = walk, classes
        roles = {s.name: s.role for s in graph.slots}
        self.axes = [
            Axis(s.name, s.role, dim, concrete(s.type.shape, 1), _side(side), classes.of(walk.slots[s.name][dim]))
            for s in graph.slots
            for dim in range(len(s.type.shape))
            if (side := walk.sides.get((s.name, dim))) is not None and roles[s.name] != "constant"
        ]
        self.makers = [a for a in self.axes if a.side == "out" and a.role == "parameter"]
        self.number, self.sets = self._numbered()

    def _numbered(self) -> tuple[Ints, list[list[int]]]:
        """The position of the group of every class (-1: none), and the classes of each dimension that must keep one."""
        made = [a.units[a.units >= 0] for a in self.makers]
        roots = list(dict.fromkeys(np.concatenate([np.empty(0, np.int64), *made]).tolist()))
        sets = _minimal(self._dimensions(frozenset(roots)))
        whole = {found[0] for found in sets if len(found) == 1}
        number = np.full(self.classes.reason.size, -1, dtype=np.int64)
        kept = [root for root in roots if root not in whole]
        number[kept] = np.arange(len(kept))
        return number, [sorted(found) for found in sets if not whole & set(found)]

    def _dimensions(self, roots: frozenset[int]) -> Iterable[frozenset[int]]:
        """The classes along every dimension of a value or slot where each entry has one."""
        seen = {id(axis): axis for axes in self.walk.values.values() for axis in axes if axis.size > 1 and axis[0] >= 0}
        values = (self.classes.of(axis) for axis in seen.values())
        for found in (*values, *(a.units for a in self.axes if a.units.size > 1)):
            distinct = frozenset(np.unique(found).tolist())
            if distinct <= roots:
                yield distinct

    def result(self) -> Coupling:
        number = np.append(self.number, -1)  # what has no class (a negative number) is in no group
        every = (replace(a, units=number[np.maximum(a.units, -1)]) for a in self.axes)
        axes = tuple(a for a in every if (a.units >= 0).any())
        groups = self._groups(axes, int(self.number.max(initial=-1)) + 1)
        return Coupling(groups, _layers(groups), self._excluded(), axes)

    def _groups(self, axes: tuple[Axis, ...], count: int) -> tuple[Group, ...]:
        members: list[list[Member]] = [[] for _ in range(count)]
        buffers: list[list[Member]] = [[] for _ in range(count)]
        for axis in axes:
            target = buffers if axis.role == "buffer" else members
            for group, indices in _places(axis.units):
                target[group].append(Member(axis.slot, axis.dim, indices, axis.side))
        within = self._within(count)
        statistics = self._statistics(count)
        sizes = _sizes(axes, count)
        return tuple(
            Group(_name(members[g]), tuple(members[g]), tuple(buffers[g]), int(sizes[g]), within[g], statistics[g])
            for g in range(count)
        )

    def _within(self, count: int) -> list[tuple[int, ...]]:
        found: list[list[int]] = [[] for _ in range(count)]
        for i, roots in enumerate(self.sets):
            for root in roots:
                found[self.number[root]].append(i)
        return [tuple(f) for f in found]

    def _statistics(self, count: int) -> list[tuple[str, ...]]:
        found: list[dict[str, None]] = [{} for _ in range(count)]
        for met in self.walk.met:
            roots = np.unique(self.classes.of(met.labels))
            for group in self.number[roots[roots >= 0]].tolist():
                if group >= 0 and roots.size > 1:
                    found[group][met.op] = None
        return [tuple(f) for f in found]

    def _excluded(self) -> tuple[Excluded, ...]:
        """What parameters make and no group has, alike ones together."""
        found: dict[tuple[int, str], list[tuple[str, int]]] = defaultdict(list)
        for axis in (a for a in self.makers if a.units.size > 1):
            held, counts = np.unique(axis.units, return_counts=True)
            reasons: dict[str, int] = defaultdict(int)
            for unit, number in zip(held.tolist(), counts.tolist(), strict=True):
                if unit < 0 or self.number[unit] < 0:
                    reasons[self.classes.reasons[-1 - unit] if unit < 0 else "all units of a layer go together"] += number
            for reason, number in reasons.items():
                found[number, reason].append((axis.slot, axis.dim))
        return tuple(Excluded(tuple(made), count, reason) for (count, reason), made in found.items())


def _side(text: str) -> Side:
    return "out" if text == "out" else "in"


def _name(members: list[Member]) -> str:
    first = next(m for m in members if m.side == "out")
    return entry_name(first.parameter, first.axis, first.indices)


def _minimal(sets: Iterable[frozenset[int]]) -> list[list[int]]:
    """Those without another among their subsets."""
    kept: list[frozenset[int]] = []
    having: dict[int, list[frozenset[int]]] = defaultdict(list)
    for found in sorted(dict.fromkeys(sets), key=lambda s: (len(s), min(s, default=0))):
        if found and not any(other <= found for root in found for other in having[root]):
            kept.append(found)
            having[min(found)].append(found)
    return [sorted(found) for found in kept]


def _places(units: Ints) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Every group of a dimension with its entries."""
    order = np.argsort(units, kind="stable")
    order = order[units[order] >= 0]
    held, starts = np.unique(units[order], return_index=True)
    entries, bounds = order.tolist(), [*starts.tolist(), order.size]
    for group, (start, end) in zip(held.tolist(), pairwise(bounds), strict=True):
        yield group, tuple(entries[start:end])


def _sizes(axes: tuple[Axis, ...], count: int) -> Ints:
    """How many parameter entries go with every group, those of two dimensions counted once."""
    kept: dict[str, Ints] = {}
    whole: dict[str, int] = {}
    for axis in (a for a in axes if a.role == "parameter"):
        left = axis.units.size - np.bincount(axis.units[axis.units >= 0], minlength=count)
        whole.setdefault(axis.slot, int(np.prod(axis.shape)))
        before = kept.get(axis.slot, np.full(count, whole[axis.slot], dtype=np.int64))
        kept[axis.slot] = before // axis.units.size * left
    return sum((whole[name] - left for name, left in kept.items()), np.zeros(count, dtype=np.int64))


def _layers(groups: tuple[Group, ...]) -> tuple[Layer, ...]:
    """The groups that have as many entries in the same dimensions."""
    found: dict[tuple[tuple[tuple[str, int, int, Side], ...], tuple[tuple[str, int, int], ...]], list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members = tuple((m.parameter, m.axis, len(m.indices), m.side) for m in group.members)
        buffers = tuple((m.parameter, m.axis, len(m.indices)) for m in group.buffers)
        found[members, buffers].append(position)
    return tuple(
        Layer(
            tuple(positions),
            tuple(m[:3] for m in members if m[3] == "out"),
            tuple(m[:3] for m in members if m[3] == "in"),
            buffers,
        )
        for (members, buffers), positions in found.items()
    )
