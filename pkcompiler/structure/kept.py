"""Which entries of every dimension stay when all that masks have left without effect is cut out, in one index set a dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pkcompiler.ir.graphs import readers
from pkcompiler.ir.maps import Constant, Conv, Reindex
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import slots_read
from pkcompiler.ir.weights import Joining, joinings, side
from pkcompiler.modes import in_own_modes
from pkcompiler.structure.coupling import known_watched
from pkcompiler.structure.labels import Axes, Classes, Ints, Labels
from pkcompiler.structure.liveness import Liveness, liveness
from pkcompiler.structure.products import STATISTICS, Products, Rectangle
from pkcompiler.structure.propagate import Walk

Streams = Literal["union", "indexed"]
Index = tuple[Tensor | None, ...]
"""By dimension the entries that stay (int64, ascending); None: all of them."""

ONLY_CONSTANT = "only constants feed it (a bias, a shift, a stored value)"
SHARED = "what shares its index needs it (a branch that is added, another use of the weight)"
LAST = "the last of its dimension stays"


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """``axes``: of every parameter, buffer and constant of the graph; ``values``: of the values of one sample.

    ``reasons``: why units stay that nothing from an input comes to, or that nothing depends on, and how many. A unit is an output
    of a linear layer, a convolution or an embedding.
    """

    axes: dict[str, Index]
    values: dict[str, Index]
    reasons: tuple[tuple[str, int], ...]


@in_own_modes
def kept_units(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    watched: frozenset[str] | None = None,
    *,
    streams: Streams = "union",
    whole: frozenset[str] = frozenset(),
) -> Kept:
    """What stays so that outputs are those of the masked network.

    An entry stays where it is not 0 and an output depends on it, and with it all that must have the same index; a dimension never
    becomes empty. ``watched``: what recorded factors are computed from (``Capture.watched``). ``whole``: slots of which nothing may
    leave. ``streams``: what is added keeps the union of its entries; or (``indexed``) every operand and the sum keep each their
    own, along the dimensions in which layers make units: an entry that an operand lacks is 0 there, one that the sum lacks is left
    out.

    :raises PkcError: PKC401 for masks that do not fit; PKC440, where ``watched`` is needed
    """
    watched = known_watched(graph, watched)
    live = liveness(graph, tensors, masks, watched)
    walk = _Removal(graph, watched, streams)
    for slot, reason in _held(graph, whole):
        for axis in walk.slots[slot]:
            walk.labels.pin(axis, reason)
    state = _State(walk, walk.labels.solve())
    state.need(live)
    state.close()
    return Kept(
        {name: tuple(map(state.index, axes)) for name, axes in walk.slots.items()},
        {name: tuple(map(state.index, axes)) for name, axes in walk.values.items()},
        _reasons(graph, walk, state, live),
    )


def _held(graph: PathGraph, whole: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The slots that lose nothing, and why."""
    used = slots_read(graph.ops)
    for slot in graph.slots:
        if slot.name in whole:
            yield slot.name, "it was to stay whole"
        elif slot.name not in used:
            yield slot.name, "no operation reads it"
    for computed in graph.computed:
        for name in (computed.name, *computed.of):
            yield name, f"the weight '{computed.name}' is computed"


class _Removal(Walk):
    """The walk whose views are rectangles, whose constants can be made anew, and where what statistics are taken over stays."""

    def __init__(self, graph: PathGraph, watched: frozenset[str], streams: Streams) -> None:
        self.streams, self.outputs = streams, set[int]()
        self.cells = {map.weight.rpartition(".")[0] for _, map in joinings(graph.ops)}
        labels = Labels(rewritten=True)
        self.products = Products(labels)
        super().__init__(graph, labels, self.products, watched)
        reading = readers(graph)
        means = {op.name for op in graph.ops if any(isinstance(r.map, Constant) for r in reading.get(op.name, ()))}
        sums = {op.name for op in graph.ops if isinstance(op.map, Reindex)}
        for met in self.met:
            if met.op not in sums:
                labels.pin(met.labels, STATISTICS)
            elif met.op in means:
                labels.pin(met.labels, f"%{met.op} takes a mean over it")

    def _layer(self, map: Joining) -> Axes:
        found = super()._layer(map)
        self.outputs.update(found[0].tolist())
        return found

    def added(self, op: Op, inputs: Sequence[Axes], shape: tuple[int, ...]) -> Axes:
        """With indexed streams a sum and its operands keep each their own, along the dimensions in which layers make units; but not
        inside a module that has weights of its own (a recurrent cell)."""
        if self.streams == "union" or op.origin.module in self.cells:
            return super().added(op, inputs, shape)
        found = []
        for place in range(-len(shape), 0):
            wide = [axes[place] for axes in inputs if len(axes) >= -place and axes[place].size == shape[place]]
            apart = any(not self.outputs.isdisjoint(axis.tolist()) for axis in wide)
            found.append(self._apart(wide) if apart else self._together(wide))
        return tuple(found)

    def _together(self, wide: Sequence[Ints]) -> Ints:
        for axis in wide[1:]:
            self.labels.unite(wide[0], axis)
        return wide[0]

    def _apart(self, wide: Sequence[Ints]) -> Ints:
        same = all(np.array_equal(axis, wide[0]) for axis in wide)
        return wide[0] if same else self.labels.fresh(wide[0].size)


class _State:
    """Which classes stay, and why: grown until every constraint holds."""

    def __init__(self, walk: _Removal, classes: Classes) -> None:
        self.walk, self.classes = walk, classes
        self.count = classes.reason.size
        self.texts: dict[str, int] = {text: i for i, text in enumerate(classes.reasons)}
        pinned = classes.reason < len(classes.reasons)
        self.why = np.append(np.where(pinned, classes.reason, -1), 0)
        self.kept: NDArray[np.bool_] = np.append(pinned, True)  # the last: what never was a unit

    def at(self, labels: Ints) -> Ints:
        """The classes of labels; ``count`` for what never was a unit."""
        return np.where(labels >= 0, self.classes.root[labels], self.count) if self.count else np.full(labels.size, self.count)

    def index(self, labels: Ints) -> Tensor | None:
        """The entries that stay."""
        stays = self.kept[self.at(labels)]
        return None if bool(stays.all()) else torch.from_numpy(np.flatnonzero(stays))

    def mark(self, classes: Ints, reason: str) -> bool:
        """Classes that stay; whether any of them did not before."""
        new = classes[~self.kept[classes]]
        self.kept[new] = True
        self.why[new] = self.texts.setdefault(reason, len(self.texts))
        return new.size > 0

    def need(self, live: Liveness) -> None:
        """What liveness says of the values: first what an input feeds."""
        for reason in (SHARED, ONLY_CONSTANT):
            for name, axes in self.walk.values.items():
                found = live.values[name]
                needed = found.reaches & (found.fed if reason == SHARED else found.constant)
                for dim, axis in enumerate(axes):
                    self.mark(self.at(axis)[over(needed, dim)], reason)

    def close(self) -> None:
        """Grow to the least fixpoint at which no dimension is empty."""
        axes = [axis for named in (self.walk.values, self.walk.slots) for found in named.values() for axis in found if axis.size]
        while True:
            while sum(self._rectangle(found) for found in self.walk.products.rectangles):
                pass
            if not any(not self.kept[self.at(axis)].any() and self.mark(self.at(axis)[:1], LAST) for axis in axes):
                return

    def _rectangle(self, found: Rectangle) -> bool:
        parts = [self.at(part) for part in found.parts]
        whole = self.at(found.whole).reshape([part.size for part in parts])
        reason = f"{found.where} views it together with units that stay"
        grown = False
        for dim, part in enumerate(parts):
            others = tuple(d for d in range(len(parts)) if d != dim)
            grown |= self.mark(part[self.kept[whole].any(axis=others)], reason)
        inside = np.ix_(*(self.kept[part] for part in parts))
        return self.mark(whole[inside].ravel(), reason) or grown


def over(entries: Tensor, dim: int) -> NDArray[np.bool_]:
    """Which positions of a dimension have such an entry (an integer input has a last dimension more, its rows)."""
    found: NDArray[np.bool_] = entries.movedim(dim, 0).flatten(1).any(1).numpy() if entries.dim() > 1 else entries.numpy()
    return found


@dataclass(slots=True, eq=False)
class _Units:
    """The output units of a weight: their classes, and which of them an input feeds and an output depends on."""

    classes: Ints
    working: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))


def _reasons(graph: PathGraph, walk: _Removal, state: _State, live: Liveness) -> tuple[tuple[str, int], ...]:
    """Of the units that stay and do no work themselves, why."""
    layers: dict[tuple[str, int], _Units] = {}
    for op, map in joinings(graph.ops):
        dim = 1 if isinstance(map, Conv) else len(walk.values[op.name]) - 1
        found = live.values[op.name]
        working = over(found.fed & found.reaches, dim)
        units = layers.setdefault(
            (map.weight, side(map).outputs), _Units(state.at(walk.values[op.name][dim]), np.zeros_like(working))
        )
        units.working = units.working | working
    texts, counted = list(state.texts), dict[str, int]()
    for units in layers.values():
        idle = units.classes[state.kept[units.classes] & ~units.working]
        for why, number in zip(*np.unique(state.why[idle], return_counts=True), strict=True):
            counted[texts[why]] = counted.get(texts[why], 0) + int(number)
    return tuple(counted.items())
