"""Which scales a path graph leaves free: the one ``match`` that reads every path map as equalities between scales.

Every entry of every value may be multiplied by a scale lambda > 0. Parameters take up the difference: a weight from unit i to unit
o is multiplied by lambda_o / lambda_i, a bias or source value by lambda_o. What an operation does not let a parameter take up is
an equality between the labels of its input and its output; what is not positively homogeneous pins them at 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor

from pkcompiler.ir import maps
from pkcompiler.ir.graphs import modulators
from pkcompiler.ir.maps import Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.types import Op, PathGraph, Value
from pkcompiler.ir.walk import forward
from pkcompiler.ir.weights import side
from pkcompiler.paths.reindex import apply_reindex, concrete
from pkcompiler.rescaling.scales import ZERO, Labels

SUMS = ("sum", "cumsum")

FILLING = ("cat", "pad")
"""Reindexings that set constants beside what they are given: zeros there may be scaled by anything."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """A parameter's entries are multiplied by scale(target) / scale(origin): labels that broadcast to its shape, of its rank."""

    target: Tensor
    origin: Tensor


class Constraints:
    """The labels of a graph: walked once, then ``labels`` holds the classes and ``uses`` one :class:`Use` per parameter.

    ``tensors``: every slot's tensor. ``batch``: the batch size that is baked in, or 1. ``watched``: values and parameters from
    which frozen factors are computed, and which therefore stay as they are.
    """

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int, watched: frozenset[str] = frozenset()) -> None:
        self.graph, self.tensors, self.batch, self.watched = graph, tensors, batch, watched
        self.modulators = modulators(graph)
        self.labels = Labels()
        self.uses: dict[str, Use] = {}
        self.parameters = {slot.name for slot in graph.parameters}
        self.ground = self.labels.pinned("a parameter that stays, or that has another use, holds it")
        for labels in forward(graph, self._input, self._step):
            self.labels.pin(labels, "the output of the network")

    def _step(self, op: Op, inputs: list[Tensor]) -> Tensor:
        labels = self.apply(op, [self._nonzero(op, x) for x in inputs], concrete(op.result.type.shape, self.batch))
        if op.name in self.watched:
            self.labels.pin(labels, "a recorded factor is computed from it")
        return labels

    def _nonzero(self, op: Op, x: Tensor) -> Tensor:
        """Labels in place of :data:`ZERO`: constant zeros may have any scale, but where they are added they stand for a shift.

        (A BatchNorm without gain and bias subtracts its running mean so, and what enters it must keep its scale.)
        """
        empty = x == ZERO
        if (isinstance(op.map, maps.Reindex) and op.map.fn not in SUMS) or not bool(empty.any()):
            return x
        if isinstance(op.map, maps.Merge):
            return torch.where(empty, self.labels.pinned("a shift by a constant 0 holds it"), x)
        return x.masked_scatter(empty, self.labels.fresh(int(empty.sum())))

    def _input(self, value: Value) -> Tensor:
        return self.labels.pinned("the input of the network", value.name).expand(concrete(value.type.shape, self.batch))

    # the operations ---------------------------------------------------------------------------------------------------

    def apply(self, op: Op, inputs: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """The labels of an operation's result [shape]."""
        match op.map:
            case maps.Dense():
                return self._dense(op, op.map, inputs[0], shape)
            case maps.Conv():
                return self._conv(op, op.map, inputs[0], shape)
            case maps.Scale():
                return self._scale(op, op.map, inputs[0])
            case maps.Embed(weight):
                units = self.labels.fresh(shape[-1], op.name)
                self._use(weight, units[None], self.ground.expand(1, 1))
                return units.expand(shape)
            case maps.Source(value):
                return self._source(op, value, shape)
            case maps.Constant():
                return inputs[0].expand(shape)
            case maps.Reindex():
                return self._reindex(op.map, inputs, shape)
            case maps.Resample():
                last = range(-len(op.map.size or op.map.kernel), 0)
                return self.labels.joined(inputs[0], list(last)).expand(shape)
            case maps.Gate():
                return inputs[0] if op.map.piecewise else self._stop(op, inputs, shape, f"{op.map.kind} is not homogeneous")
            case maps.Window():
                return self._window(op.map, inputs[0], shape)
            case maps.Normalise():
                return self._normalise(op, op.map, inputs[0], shape)
            case maps.Softmax():
                return self._stop(op, inputs, shape, "softmax is not homogeneous")
            case maps.Product():
                return self._product(op, op.map, inputs, shape)
            case maps.Merge():
                first = inputs[0].expand(shape)
                for other in inputs[1:]:
                    self.labels.merge(first, other)
                return self.labels.find(first)
            case maps.Frozen():
                return self._stop(op, inputs, shape, "a recorded factor")
            case _:
                assert_never(op.map)

    def _stop(self, op: Op, inputs: Sequence[Tensor], shape: tuple[int, ...], why: str) -> Tensor:
        """Inputs and result keep their scale."""
        reason = f"{why} (%{op.name})"
        for x in inputs:
            self.labels.pin(x, reason)
        return self.labels.pinned(reason).expand(shape)

    # parameters -------------------------------------------------------------------------------------------------------

    def _use(self, slot: str, target: Tensor, origin: Tensor) -> None:
        """``slot`` takes up scale(target) / scale(origin). Used twice, both uses must agree; what is no parameter stays 1."""
        if slot not in self.parameters or slot in self.watched:
            self.labels.merge(target, origin)
        if slot in self.uses:
            self.labels.merge(self.uses[slot].target, target)
            self.labels.merge(self.uses[slot].origin, origin)
        else:
            self.uses[slot] = Use(target, origin)

    def _dense(self, op: Op, map: maps.Dense, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        origin = self.labels.joined(x, list(range(x.dim() - 1))).reshape(-1)
        units = self.labels.fresh(shape[-1], op.name)
        sides = side(map)
        self._use(map.weight, units.unsqueeze(sides.inputs), origin.unsqueeze(sides.outputs))
        self._bias(map.bias, units)
        return units.expand(shape)

    def _bias(self, slot: str | None, target: Tensor) -> None:
        if slot is not None:
            self._use(slot, target, self.ground.reshape([1] * target.dim()))

    def _conv(self, op: Op, map: maps.Conv, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        spatial = len(map.stride)
        channel = x.dim() - spatial - 1
        origin = self.labels.joined(x, [d for d in range(x.dim()) if d != channel]).reshape(map.groups, -1)
        units = self.labels.fresh(shape[channel], op.name)
        target = units.reshape(map.groups, -1)
        tail = [1] * spatial
        if side(map).turned:
            wide = target.repeat_interleave(origin.shape[1], 0)
            self._use(map.weight, wide.reshape(*wide.shape, *tail), origin.reshape(-1, 1, *tail))
        else:
            wide = origin.repeat_interleave(target.shape[1], 0)
            self._use(map.weight, units.reshape(-1, 1, *tail), wide.reshape(*wide.shape, *tail))
        self._bias(map.bias, units)
        return units.reshape(-1, *tail).expand(shape)

    def _scale(self, op: Op, map: maps.Scale, x: Tensor) -> Tensor:
        """A gain takes up a scale per entry, unless it is spread over different units: then it stays, and they pass.

        BatchNorm keeps its statistics, so what enters it keeps its scale (in training mode too, where it would lose it).
        """
        if map.center is not None or isinstance(map.factor, InvSqrt):
            self.labels.pin(x, f"a BatchNorm that keeps its statistics reads it (%{op.name})")
        x = x.expand(torch.broadcast_shapes(x.shape, map.shape))
        lead = x.dim() - len(map.shape)
        spread = [d for d in range(x.dim()) if d < lead or map.shape[d - lead] == 1]
        units = x
        if map.weight is not None and self.labels.alike(x, spread):
            fresh = self.labels.fresh(self.tensors[map.weight].numel(), op.name).reshape(self.tensors[map.weight].shape)
            self._use(map.weight, fresh, self.labels.joined(x, spread).reshape(fresh.shape))
            units = fresh.reshape(map.shape).expand(x.shape)
        elif map.weight is not None:
            self._use(map.weight, *[self.ground.expand([1] * self.tensors[map.weight].dim())] * 2)
        if map.bias is not None:
            self._bias(map.bias, self.labels.joined(units, spread).reshape(self.tensors[map.bias].shape))
        return units

    def _normalise(self, op: Op, map: maps.Normalise, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The input stays (eps is not scaled with it); the gain and the bias take up the scale of the result."""
        self.labels.pin(x, f"it is normalised (%{op.name})")
        if map.weight is None:
            return self._stop(op, (), shape, "a normalisation without a gain")
        units = self.labels.fresh(self.tensors[map.weight].numel(), op.name).reshape(map.shape)
        self._use(map.weight, units, self.ground.reshape([1] * units.dim()))
        self._bias(map.bias, units)
        return units.reshape(-1, *[1] * (len(shape) - 2)).expand(shape) if map.kind == "group" else units.expand(shape)

    # what no parameter enters -----------------------------------------------------------------------------------------

    def _source(self, op: Op, value: Fixed, shape: tuple[int, ...]) -> Tensor:
        if isinstance(value, Named) and value.slot in self.parameters:
            units = self.labels.fresh(self.tensors[value.slot].numel(), op.name).reshape(self.tensors[value.slot].shape)
            self._bias(value.slot, units)
            return units.expand(shape)
        fixed = self.labels.pinned(f"a constant (%{op.name})").expand(shape)
        if isinstance(value, Named) and self.graph.slot(value.slot).role == "constant":
            return torch.where(self.tensors[value.slot] == 0, ZERO, fixed)
        return torch.full(shape, ZERO) if value == Literal(0.0) else fixed

    def _reindex(self, map: maps.Reindex, inputs: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        if map.fn in SUMS:
            dims: Any = dict(map.args)["dims" if map.fn == "sum" else "dim"]
            together = self.labels.joined(inputs[0], dims if isinstance(dims, tuple) else (dims,))
            return together.reshape(shape) if map.fn == "sum" else together.expand(shape)
        moved = apply_reindex(map, [x.double() for x in inputs], self.batch, self.tensors).long()
        empty = moved == ZERO
        if map.fn in FILLING and bool(empty.any()):
            moved = moved.masked_scatter(empty, self.labels.fresh(int(empty.sum())))
        return moved

    def _window(self, map: maps.Window, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not map.kernel:
            return self.labels.joined(x, map.dims).reshape(shape)
        return self.labels.joined(x, list(range(-len(map.kernel), 0))).expand(shape)

    def _product(self, op: Op, map: maps.Product, inputs: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """One factor passes with its scale, what multiplies it stays."""
        passes = self._passing(op, inputs, shape)
        self.labels.pin(inputs[1 - passes], f"it multiplies another value (%{op.name})")
        if map.kind == "conv":
            return self._stop(op, inputs, shape, "a convolution by a computed kernel")
        value = inputs[passes]
        if map.kind == "matmul":
            value = self.labels.joined(value, [-1 if passes == 0 else -2])
        return value.expand(shape)

    def _passing(self, op: Op, inputs: list[Tensor], shape: tuple[int, ...]) -> int:
        """The position of the factor whose scale passes: what is modulated, or alone has the result's shape, or the first."""
        modulator = self.modulators.get(op.name)
        if modulator is not None:
            return 1 - modulator
        return 1 if tuple(inputs[0].shape) != shape and tuple(inputs[1].shape) == shape else 0
