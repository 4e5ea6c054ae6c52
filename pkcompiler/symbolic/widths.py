"""Which dimensions of a path graph are channels, and which of them are coupled: one match over the path maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir import maps
from pkcompiler.ir.maps import Literal, Named
from pkcompiler.ir.types import Op, PathGraph, Value
from pkcompiler.ir.walk import values
from pkcompiler.ir.weights import side
from pkcompiler.paths.reindex import concrete
from pkcompiler.paths.sources import require_stored, rows_of
from pkcompiler.symbolic.axes import Atom, Axis, Num, Sum, Unifier, atoms, size

Axes = tuple[Axis, ...]


class Groups:
    """The axes of every value and parameter of a graph; an integer input has one more, the rows of its table.

    ``values``, ``parameters``: axes by name. ``grounded``: the channel groups that became numbers, and where.
    """

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int) -> None:
        self.graph, self.tensors, self.batch = graph, tensors, batch
        self.unifier = Unifier()
        self.parameters = {s.name: _fresh(concrete(s.type.shape, 1), s.name) for s in graph.parameters}
        self.split: dict[str, tuple[Axis, Axis]] = {}
        self.values = dict(values(graph, self._input, self._apply))
        self._settle()

    def _input(self, value: Value) -> Axes:
        rows = rows_of(self.graph, value)
        axes = _fresh(concrete(value.type.shape, self.batch), f"input {value.name}")
        return axes if rows is None else (*axes, (Atom(rows, False, f"rows of {value.name}"),))

    @property
    def grounded(self) -> Mapping[str, str]:
        """The operation at which each channel group became a number."""
        return self.unifier.grounded

    def widths(self) -> list[Atom]:
        """The free groups of channels in the order in which a path meets them."""
        found: dict[int, Atom] = {}
        for axes in self.values.values():
            for atom in (a for axis in axes for a in atoms(axis)):
                found.setdefault(id(atom), atom)
        return list(found.values())

    def _settle(self) -> None:
        """What no weight has as units is a number."""
        for axes in (*self.values.values(), *self.parameters.values()):
            for atom in (a for axis in axes for a in list(atoms(axis))):
                if not atom.channel:
                    atom.bound = (Num(atom.size),)

    def shape_of(self, op: Op) -> tuple[int, ...]:
        """The shape of an operation's result at the graph's batch."""
        return concrete(op.result.type.shape, self.batch)

    def _apply(self, op: Op, inputs: list[Axes]) -> Axes:
        self.unifier.at = op.name
        shape = self.shape_of(op)
        match op.map:
            case maps.Dense(weight):
                out, into = side(op.map).ordered(*self._units(op, weight))
                self.unifier.unify(inputs[0][-1], into)
                return (*inputs[0][:-1], out)
            case maps.Conv():
                return self._conv(op, op.map, inputs[0], shape)
            case maps.Embed(weight):
                rows, dim = self._units(op, weight)
                self.unifier.unify(inputs[0][-1], rows)
                return (*inputs[0][:-1], dim)
            case maps.Scale() | maps.Gate() | maps.Normalise():
                return self._broadcast([inputs[0]], shape)
            case maps.Constant(factor):
                axes = self._broadcast([inputs[0]], shape)
                return axes if self.is_uniform(factor) else self._ground(axes)
            case maps.Source(value):
                if isinstance(value, Named) and value.slot in self.parameters:
                    return self.parameters[value.slot]
                return _fresh(shape, op.name) if self.is_uniform(value) else _numbers(shape)
            case maps.Frozen():
                return _fresh(shape, op.name)
            case maps.Reindex():
                return self._reindex(op, op.map, inputs, shape)
            case maps.Resample(size=sizes):
                return self._windowed(inputs[0], len(sizes), shape)
            case maps.Window(kernel=kernel, dims=dims, keepdim=keepdim):
                return self._windowed(inputs[0], len(kernel), shape) if kernel else _summed(inputs[0], dims, keepdim)
            case maps.Softmax():
                return self._softmax(op.map, inputs[0])
            case maps.Product():
                return self._product(op.map, inputs, shape)
            case maps.Merge():
                return self._broadcast(inputs, shape)
            case _:
                assert_never(op.map)

    def _units(self, op: Op, weight: str) -> Axes:
        """The axes of a weight, its first two dimensions units (channels)."""
        if weight not in self.parameters:
            require_stored(self.graph, "closed forms are")
            raise fail(
                "PKC537",
                f"%{op.name} multiplies by @{weight}, which is stored and no parameter: it has no variance, and its channels "
                "are not alike",
                "register it as a parameter, or take the numbers of path_functional",
            )
        axes = self.parameters[weight]
        for axis in axes[:2]:
            for atom in atoms(axis):
                atom.channel = True
        return axes

    def _conv(self, op: Op, map: maps.Conv, x: Axes, shape: tuple[int, ...]) -> Axes:
        """``split``: the groups and the channels of a group of the input, by operation."""
        axes = self._units(op, map.weight)
        first, second = axes[:2]
        for axis in (*x[2:], *axes[2:]):
            self.unifier.ground(axis)
        out, into = side(map).ordered(first, second)
        parts = self.unifier.take(x[1], map.groups)
        if parts is None:
            self.unifier.ground(x[1])
            parts = self.unifier.take(x[1], map.groups)
        assert parts is not None
        group, inner = parts
        if side(map).turned:
            self.unifier.unify((*group, *inner), into)
            result: Axis = (*group, *out)
        else:
            self.unifier.unify(inner, into)
            rest: Axis = (Atom(size(out) // map.groups, True, f"{map.weight}"),)
            result = (*group, *rest) if map.groups > 1 else out
            self.unifier.unify(out, result)
        self.split[op.name] = (group, inner)
        return (x[0], result, *_numbers(shape[2:]))

    def _broadcast(self, inputs: Sequence[Axes], shape: tuple[int, ...]) -> Axes:
        """Aligned at the last dimension; a dimension of size 1 repeats."""
        found: list[Axis] = []
        for position in range(-len(shape), 0):
            here = [axes[position] for axes in inputs if len(axes) >= -position]
            wide = [axis for axis in here if size(axis) == shape[position]]
            for axis in here:
                if size(axis) != shape[position]:
                    self.unifier.ground(axis)
            for axis in wide[1:]:
                self.unifier.unify(wide[0], axis)
            found.append(wide[0] if wide else (Num(shape[position]),))
        return tuple(found)

    def _ground(self, axes: Axes) -> Axes:
        for axis in axes:
            self.unifier.ground(axis)
        return axes

    def _windowed(self, x: Axes, rank: int, shape: tuple[int, ...]) -> Axes:
        self._ground(x[-rank:])
        return (*x[:-rank], *_numbers(shape[-rank:]))

    def _softmax(self, map: maps.Softmax, x: Axes) -> Axes:
        self.unifier.ground(x[map.dim])
        if map.allowed == "causal":
            self._ground(x[-2:])
        elif isinstance(map.allowed, Named):
            allowed = self.tensors[map.allowed.slot].shape
            self._ground(tuple(x[i] for i in range(-len(allowed), 0) if allowed[i] > 1))
        return x

    def _product(self, map: maps.Product, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        left, right = inputs
        match map.kind:
            case "mul":
                return self._broadcast(inputs, shape)
            case "matmul":
                if len(left) < 2 or len(right) < 2:
                    self._ground((*left, *right))
                    return _numbers(shape)
                self.unifier.unify(left[-1], right[-2])
                return (*self._broadcast([left[:-2], right[:-2]], shape[:-2]), left[-2], right[-1])
            case "conv":
                self._ground((*left, *right))
                return _numbers(shape)
        assert_never(map.kind)

    def _reindex(self, op: Op, map: maps.Reindex, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        args = dict(map.args)
        x = inputs[0]
        match map.fn:
            case "reshape":
                return self._reshape(x, shape)
            case "permute":
                return tuple(x[d] for d in args["dims"])  # type: ignore[union-attr, index]
            case "expand":
                padded = ((),) * (len(shape) - len(x)) + x
                pairs = zip(padded, shape, strict=True)
                return tuple(a if size(a) == n else (Atom(n, False, op.name),) for a, n in pairs)
            case "slice":
                return self._slice(x, args["dim"], args["start"], args["end"], args["step"], shape)  # type: ignore[arg-type]
            case "cat":
                return self._cat(inputs, args["dim"])  # type: ignore[arg-type]
            case "pad":
                sides = pads(args["pad"], len(x))  # type: ignore[arg-type]
                zeros = args["mode"] == "constant"
                return tuple(self._pad(a, *p, zeros) for a, p in zip(x, sides, strict=True))
            case "sum":
                dims = args["dims"]
                return _summed(x, range(len(x)) if dims is None else dims, bool(args["keepdim"]))  # type: ignore[arg-type]
            case "select":
                dim = int(args["dim"]) % len(x)  # type: ignore[arg-type]
                self.unifier.ground(x[dim])
                return (*x[:dim], *x[dim + 1 :])
            case "repeat":
                padded = ((),) * (len(shape) - len(x)) + x
                pairs = zip(padded, shape, strict=True)
                return tuple((Num(n // size(a)), *a) if size(a) else (Num(n),) for a, n in pairs)
            case "unfold":
                dim = int(args["dim"]) % len(x)  # type: ignore[arg-type]
                self.unifier.ground(x[dim])
                return (*x[:dim], (Num(shape[dim]),), *x[dim + 1 :], (Num(shape[-1]),))
            case "diagonal":
                self._ground(x)
                return _numbers(shape)
        moved = touched(map, len(x))
        self._ground(tuple(x[d] for d in moved))
        return tuple((Num(n),) if d in moved else axis for d, (axis, n) in enumerate(zip(x, shape, strict=True)))

    def _reshape(self, x: Axes, shape: tuple[int, ...]) -> Axes:
        rest: Axis = tuple(f for axis in x for f in axis)
        found: list[Axis] = []
        for n in shape:
            parts = self.unifier.take(rest, n)
            if parts is None:
                self._ground(x)
                return _numbers(shape)
            taken, rest = parts
            found.append(taken)
        return tuple(found)

    def _slice(self, x: Axes, dim: int, start: int | None, end: int | None, step: int, shape: tuple[int, ...]) -> Axes:
        dim %= len(x)
        if step != 1:
            self.unifier.ground(x[dim])
            return (*x[:dim], (Num(shape[dim]),), *x[dim + 1 :])
        first, last, _ = slice(start, end).indices(size(x[dim]))
        return (*x[:dim], self.unifier.cut(x[dim], first, max(first, last)), *x[dim + 1 :])

    def _cat(self, inputs: list[Axes], dim: int) -> Axes:
        dim %= len(inputs[0])
        for other in inputs[1:]:
            for d, (a, b) in enumerate(zip(inputs[0], other, strict=True)):
                if d != dim:
                    self.unifier.unify(a, b)
        parts = tuple(axes[dim] for axes in inputs)
        return (*inputs[0][:dim], (Sum(parts),), *inputs[0][dim + 1 :])

    def _pad(self, axis: Axis, before: int, after: int, zeros: bool) -> Axis:
        """Zeros beside channels stay numbers; of positions, all are numbers."""
        if before == after == 0:
            return axis
        if not zeros or before < 0 or after < 0 or not any(a.channel for a in atoms(axis)):
            self.unifier.ground(axis)
            return (Num(size(axis) + before + after),)
        return (Sum(tuple(p for p in ((Num(before),), axis, (Num(after),)) if size(p))),)

    def is_uniform(self, value: object) -> bool:
        """Whether a fixed factor is one number."""
        if isinstance(value, Literal):
            return True
        tensor = self.tensors[value.slot]  # type: ignore[attr-defined]
        return tensor.numel() < 2 or bool(torch.all(tensor == tensor.flatten()[0]))


def touched(map: maps.Reindex, rank: int) -> list[int]:
    """The dimensions along which a reindexing moves entries."""
    args = dict(map.args)
    given = args.get("dims", args.get("dim"))
    dims = given if isinstance(given, tuple) else (given,)
    return [int(d) % rank for d in dims] if dims and None not in dims else list(range(rank))  # type: ignore[arg-type]


def pads(pad: Sequence[int], rank: int) -> list[tuple[int, int]]:
    """Torch's padding, the last dimension first, as pairs by dimension."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


def _fresh(shape: Sequence[int], origin: str) -> Axes:
    """Axes of which nothing is known."""
    return tuple((Atom(n, False, origin),) for n in shape)


def _numbers(shape: Sequence[int]) -> Axes:
    return tuple((Num(n),) for n in shape)


def _summed(x: Axes, dims: Sequence[int], keepdim: bool) -> Axes:
    summed = {int(d) % max(len(x), 1) for d in dims}
    return tuple(() if d in summed else axis for d, axis in enumerate(x) if keepdim or d not in summed)
