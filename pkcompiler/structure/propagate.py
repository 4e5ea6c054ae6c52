"""What every path map does to units: one match over the maps, an axis of labels per dimension of every value and slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from pkcompiler.ir import maps
from pkcompiler.ir.maps import Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.types import Op, PathGraph, Value
from pkcompiler.ir.walk import values
from pkcompiler.ir.weights import Joining, side
from pkcompiler.paths.reindex import concrete
from pkcompiler.structure.labels import Axes, Ints, Labels
from pkcompiler.structure.moves import Moves, Views

POSITION = "a position in space or time"


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """``labels`` of units whose statistics or sum ``op`` takes: a masked unit counts there as an entry, a removed one does not."""

    op: str
    labels: Ints


class Walk:
    """The axes of every value and slot of a graph. ``views``: what reshapes and groups of channels say of their units.

    ``values``, ``slots``: axes by name. ``sides``: by slot and dimension ``out`` (it makes units) or ``in`` (it reads them); what
    does neither (the positions of a kernel) is missing. ``met``: what is reduced over units without a parameter.
    """

    def __init__(self, graph: PathGraph, labels: Labels, views: Views, watched: frozenset[str]) -> None:
        self.graph, self.watched = graph, watched
        self.labels, self.views = labels, views
        self.moves = Moves(labels, views)
        self.sides: dict[tuple[str, int], str] = {}
        self.met: list[Met] = []
        self.made: dict[str, str] = {}
        self.slots = {s.name: self._slot(s.role, concrete(s.type.shape, 1)) for s in graph.slots}
        self.values = dict(values(graph, self._input, self._step))
        self._hold()

    def _slot(self, role: str, shape: Sequence[int]) -> Axes:
        if role == "constant":
            return tuple(self.labels.made(n, "a constant that the model's code makes has its size") for n in shape)
        return tuple(self.labels.fresh(n) if n > 1 else self.labels.fixed(n, "the only unit of its layer") for n in shape)

    def _input(self, value: Value) -> Axes:
        return tuple(self.labels.fixed(n, "the model's input") for n in concrete(value.type.shape, 1))

    def _step(self, op: Op, inputs: list[Axes]) -> Axes:
        return tuple(self._alone(axis) for axis in self.apply(op, inputs, concrete(op.result.type.shape, 1)))

    def _hold(self) -> None:
        for name in self.graph.outputs:
            self._pin(self.values[name], "the model's output")
        for name in sorted(self.watched):
            self._pin(self.values.get(name, self.slots.get(name, ())), "a recorded factor is computed from it")

    def _alone(self, axis: Ints) -> Ints:
        """A dimension of size 1 broadcasts, whatever its unit is called; that unit stays."""
        if axis.size != 1 or axis[0] < 0:
            return axis
        self.labels.pin(axis, "the only unit of its dimension")
        return self.labels.fixed(1, "the only unit of its dimension")

    def _pin(self, axes: Axes, reason: str) -> None:
        for axis in axes:
            self.labels.pin(axis, reason)

    def apply(self, op: Op, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        """The axes of an operation's result [shape]."""
        match op.map:
            case maps.Dense():
                return self._dense(op.map, inputs[0])
            case maps.Conv():
                return self._conv(op, op.map, inputs[0], shape)
            case maps.Scale():
                stored = [name for name in (op.map.weight, op.map.bias) if name is not None]
                stored += [v.slot for v in (op.map.factor, op.map.center) if isinstance(v, Named | InvSqrt)]
                views = [self._viewed(op, name, op.map.shape) for name in stored]
                return self._broadcast([inputs[0], *views], shape)
            case maps.Embed():
                units, rows = self._layer(op.map)
                self.labels.pin(rows, "an integer chooses it")
                return (*inputs[0], units)
            case maps.Source(value):
                return self._source(op, value)
            case maps.Constant(factor):
                return self._broadcast([inputs[0], *self._stored(factor)], shape)
            case maps.Reindex():
                return self._reindex(op, op.map, inputs, shape)
            case maps.Resample():
                return self._windowed(op, inputs[0], len(op.map.kernel or op.map.size), shape)
            case maps.Gate():
                return inputs[0]
            case maps.Window():
                return self._window(op, op.map, inputs[0], shape)
            case maps.Normalise():
                return self._normalise(op, op.map, inputs[0])
            case maps.Softmax():
                return self._softmax(op, op.map, inputs[0])
            case maps.Product():
                return self._product(op, op.map, inputs, shape)
            case maps.Merge():
                return self.added(op, inputs, shape)
            case maps.Frozen():
                return tuple(self.labels.fixed(n, f"the recorded factor %{op.name} has its size") for n in shape)
            case _:
                assert_never(op.map)

    # parameters and buffers -------------------------------------------------------------------------------------------

    def _sided(self, slot: str, *sides: str) -> Axes:
        """The axes of a slot, whose first dimensions make or read units (a tied weight that does both makes them)."""
        for dim, what in enumerate(sides):
            if self.sides.get((slot, dim)) != "out":
                self.sides[slot, dim] = what
        return self.slots[slot]

    def _layer(self, map: Joining) -> Axes:
        """The axes of a layer's weight: outputs, inputs, kernel."""
        sides = side(map)
        first, second, *kernel = self._sided(map.weight, *sides.ordered("out", "in"))
        return (*sides.ordered(first, second), *kernel)

    def _whole(self, slot: str) -> Axes:
        return self._sided(slot, *["out"] * len(self.slots[slot]))

    def _viewed(self, op: Op, slot: str, shape: Sequence[int]) -> Axes:
        return self.views.reshaped(f"{op.name}.{slot}", self._whole(slot), shape)

    def _stored(self, value: Fixed) -> list[Axes]:
        return [] if isinstance(value, Literal) else [self._whole(value.slot)]

    def _bias(self, slot: str | None, units: Ints) -> None:
        if slot is not None:
            self.labels.unite(self._whole(slot)[0], units)

    def _source(self, op: Op, value: Fixed) -> Axes:
        if isinstance(value, Named):
            self.made[op.name] = value.slot
        return self._stored(value)[0] if not isinstance(value, Literal) else ()

    def _dense(self, map: maps.Dense, x: Axes) -> Axes:
        units, read = self._layer(map)
        self.labels.unite(x[-1], read)
        self._bias(map.bias, units)
        return (*x[:-1], units)

    def _conv(self, op: Op, map: maps.Conv, x: Axes, shape: tuple[int, ...]) -> Axes:
        units, read, *kernel = self._layer(map)
        self._pin((*kernel, *x[2:]), POSITION)
        if map.groups == 1:
            self.labels.unite(x[1], read)
        else:
            units = self.views.grouped(op.name, map, x[1], *side(map).ordered(units, read))
        self._bias(map.bias, units)
        return (x[0], units, *(self.labels.fixed(n, POSITION) for n in shape[2:]))

    def _normalise(self, op: Op, map: maps.Normalise, x: Axes) -> Axes:
        stored = [self._whole(name) for name in (map.weight, map.bias) if name is not None]
        if map.kind != "group":
            own = x[len(x) - len(map.shape) :]
            for axes in stored:
                for left, right in zip(own, axes, strict=True):
                    self.labels.unite(left, right)
            self.met += [Met(op.name, axis) for axis in own]
            return x
        for axes in stored:
            self.labels.unite(x[1], axes[0])
        if self.views.normalised(op.name, map.groups, x[1]):
            self.met.append(Met(op.name, x[1]))
        self.met += [Met(op.name, axis) for axis in x[2:]]
        return x

    # what no parameter enters -----------------------------------------------------------------------------------------

    def _broadcast(self, inputs: Sequence[Axes], shape: tuple[int, ...]) -> Axes:
        """Aligned at the last dimension; what has size 1 repeats."""
        found = []
        for place in range(-len(shape), 0):
            wide = [axes[place] for axes in inputs if len(axes) >= -place and axes[place].size == shape[place]]
            for axis in wide[1:]:
                self.labels.unite(wide[0], axis)
            found.append(wide[0])
        return tuple(found)

    def added(self, op: Op, inputs: Sequence[Axes], shape: tuple[int, ...]) -> Axes:
        """What is added has the units of each other."""
        return self._broadcast(inputs, shape)

    def _reindex(self, op: Op, map: maps.Reindex, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        args: dict[str, Any] = dict(map.args)
        if op.inputs[0] in self.made and len(op.inputs) == 1:
            self.made[op.name] = self.made[op.inputs[0]]
        if map.fn == "sum":
            dims = args["dims"] if args["dims"] else range(len(inputs[0]))
            self.met += [Met(op.name, inputs[0][d]) for d in dims]
        return self.moves.apply(op.name, map.fn, args, inputs, shape)

    def _windowed(self, op: Op, x: Axes, rank: int, shape: tuple[int, ...]) -> Axes:
        self._pin(x[-rank:], f"%{op.name} slides over it")
        return (*x[:-rank], *(self.labels.fixed(n, POSITION) for n in shape[-rank:]))

    def _window(self, op: Op, map: maps.Window, x: Axes, shape: tuple[int, ...]) -> Axes:
        if map.kernel:
            return self._windowed(op, x, len(map.kernel), shape)
        reduced = {d % len(x) for d in map.dims} or set(range(len(x)))
        self._pin(tuple(x[d] for d in reduced), f"%{op.name} takes a maximum over it")
        one = self.labels.fixed(1, "a dimension of size 1")
        return tuple(one if d in reduced else axis for d, axis in enumerate(x) if map.keepdim or d not in reduced)

    def _softmax(self, op: Op, map: maps.Softmax, x: Axes) -> Axes:
        self.labels.pin(x[map.dim], f"the softmax %{op.name} runs over it")
        if map.allowed == "causal":
            self._pin(x[-2:], f"the causal softmax %{op.name} runs over it")
        elif isinstance(map.allowed, Named):
            allowed = self.slots[map.allowed.slot]
            wide = (axis for axis, mask in zip(reversed(x), reversed(allowed), strict=False) if mask.size > 1)
            self._pin(tuple(wide), f"a stored mask of the softmax %{op.name} has its size")
        return x

    def _product(self, op: Op, map: maps.Product, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        if map.kind == "mul":
            return self._broadcast(inputs, shape)
        if map.kind == "conv":
            for axes in inputs:
                self._pin(axes, f"%{op.name} convolves by a computed kernel")
            return tuple(self.labels.fixed(n, f"%{op.name} convolves by a computed kernel") for n in shape)
        a, b = inputs
        self.labels.unite(a[-1], b[-2])
        for name, contracted in zip(op.inputs, (a[-1], b[-2]), strict=True):
            self._read(self.made.get(name), contracted)
        return (*self._broadcast([a[:-2], b[:-2]], shape[:-2]), a[-2], b[-1])

    def _read(self, slot: str | None, contracted: Ints) -> None:
        """A parameter that is a factor of a matrix product reads along the dimension that is summed."""
        for dim, axis in enumerate(self.slots[slot] if slot else ()):
            if np.isin(axis[axis >= 0], contracted).any():
                self.sides[str(slot), dim] = "in"
