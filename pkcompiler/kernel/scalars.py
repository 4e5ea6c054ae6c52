"""A small path graph as a networkx graph of scalars: one node per tensor entry, one edge per scalar step of a path.

The edges of an operation are read off its own linear map, by probing: its Jacobian with all weights 1 holds the fixed factors, and
its Jacobian with weight j set to j tells which weight each step crosses. So every path map is covered without a second writing
of it, and what is enumerated does not depend on how sweeps add paths up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir.maps import Conv, Dense, Embed, Named, Normalise, Product, Scale, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.paths.factors import Rest
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.scaled import Scaled, times_power
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import require_stored, unit_sources
from pkcompiler.paths.sweep import Sweep

Node = tuple[str, int]
Entry = tuple[str, int]
"""A parameter's name and a position in it, flattened."""

ONE: Node = ("", 0)
"""The source of biases, of parameters that enter as values, and of constants."""

MOST_UNITS = 5000
_WEIGHT, _BIAS = "weight ", "bias "


@dataclass(frozen=True, slots=True, eq=False)
class Scalars:
    """``graph``: a multigraph of nodes (value, position). Edges hold ``factor`` (fixed), ``entry`` (a parameter entry or None) and,
    into a product node, ``side`` (0 or 1; its name ends in " *"). ``inputs``, ``outputs``: nodes. ``shapes``: of inputs by name; an
    integer input has the rows of its table as its last dimension."""

    graph: Any
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    shapes: Mapping[str, tuple[int, ...]]


def scalars(graph: PathGraph, tensors: Mapping[str, Tensor], chosen: Settings) -> Scalars:
    """The scalar graph. Raises ``PKC524`` above 5000 units, ``PKC509`` where a weight is computed."""
    require_stored(graph, "paths are enumerated")
    units = sum(prod(d if isinstance(d, int) else d.factor for d in op.result.type.shape) for op in graph.ops)
    if units > MOST_UNITS:
        raise fail(
            "PKC524",
            f"the graph has {units} scalar units, and paths are enumerated up to {MOST_UNITS}",
            "use path_kernel(model, example_inputs), which never enumerates paths",
        )
    return _Builder(graph, tensors, chosen).build()


class _Builder:
    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], chosen: Settings) -> None:
        self.graph, self.batch = graph, static_batch(graph)
        plain = {n: t.detach().cpu() for n, t in tensors.items()}
        signed = replace(chosen, edge="theta", products="pairs", dtype=torch.float64)
        self.sweep = Sweep(graph, plain, signed, batch=self.batch)
        self.parameters = {s.name: plain[s.name].double() for s in graph.parameters}
        self.values = dict(unit_sources(graph, self.batch, torch.float64))
        self.scalar: Any = nx.MultiDiGraph()
        self.rest = Rest.of(graph, chosen.products)

    def build(self) -> Scalars:
        inputs = tuple((name, i) for name, t in self.values.items() for i in range(t.numel()))
        self.scalar.add_nodes_from((ONE, *inputs))
        shapes = {name: tuple(t.shape) for name, t in self.values.items()}
        for op in self.graph.ops:
            self._add(op)
        out = self.graph.outputs[0]
        return Scalars(self.scalar, inputs, tuple((out, i) for i in range(self.values[out].numel())), shapes)

    def _add(self, op: Op) -> None:
        local, weight, bias = _untied(op, frozenset(self.parameters))
        shapes = {key: self.parameters[name].shape for key, name in ((_WEIGHT, weight), (_BIAS, bias)) if name is not None}
        ones = {key: torch.ones(shape, dtype=torch.float64) for key, shape in shapes.items()}
        inputs = [torch.ones_like(self.values[name]) for name in op.inputs]
        self.values[op.name] = self._apply(local, inputs, ones)
        self.scalar.add_nodes_from((op.name, i) for i in range(self.values[op.name].numel()))
        if op.name in self.rest.crossed:
            self._crossed(op)
            return
        if isinstance(op.map, Product):
            self._product(op, f"{op.name} *")
            return
        labels = {**ones, **({_WEIGHT: _numbered(shapes[_WEIGHT])} if weight is not None else {})}
        for position, name in enumerate(op.inputs):
            factors, numbered = (self._jacobian(local, inputs, e, position) for e in (ones, labels))
            self._steps(op.name, name, factors, numbered if weight is not None else None, weight)
        self._constants(local, [torch.zeros_like(x) for x in inputs], ones, {_WEIGHT: weight, _BIAS: bias})

    def _apply(self, op: Op, inputs: list[Tensor], edges: Mapping[str, Tensor]) -> Tensor:
        result = self.sweep.apply(op, [Scaled(x) for x in inputs], edges)
        return times_power(result.tensor, result.exponent)

    def _jacobian(self, op: Op, inputs: list[Tensor], edges: Mapping[str, Tensor], position: int) -> Tensor:
        """[outputs, entries of input ``position``]."""

        def function(x: Tensor) -> Tensor:
            return self._apply(op, [*inputs[:position], x, *inputs[position + 1 :]], edges).reshape(-1)

        return _derivatives(function, inputs[position], self.values[op.name].numel())

    def _steps(self, name: str, source: str, factors: Tensor, numbered: Tensor | None, weight: str | None) -> None:
        for out, i in factors.nonzero().tolist():
            entry = None if numbered is None else (weight, _number(numbered[out, i], factors[out, i]))
            self.scalar.add_edge((source, i), (name, out), factor=float(factors[out, i]), entry=entry)

    def _constants(self, op: Op, zeros: list[Tensor], ones: dict[str, Tensor], names: Mapping[str, str | None]) -> None:
        """What the operation adds at input 0: biases, constants behind a gain, and bare constants."""
        bare = self._apply(op, zeros, ones).reshape(-1).clone()
        for key, value in ones.items():

            def function(edge: Tensor, key: str = key) -> Tensor:
                return self._apply(op, zeros, {**ones, key: edge}).reshape(-1)

            found = _derivatives(function, value, bare.numel())
            bare -= found.sum(1)
            for out, j in found.nonzero().tolist():
                self.scalar.add_edge(ONE, (op.name, out), factor=float(found[out, j]), entry=(names[key], j))
        for out in (bare.abs() > 1e-12).nonzero().reshape(-1).tolist():
            self.scalar.add_edge(ONE, (op.name, out), factor=float(bare[out]), entry=None)

    def _crossed(self, op: Op) -> None:
        """Paths through one factor, joined with those that make up what the other is frozen at (docs/theory.md, section 1)."""
        for position in self.rest.crossed[op.name]:
            name = self._frozen(op.inputs[1 - position])
            names = (op.inputs[0], name) if position == 0 else (name, op.inputs[1])
            self._product(replace(op, inputs=names), f"{op.name} {position} *")

    def _frozen(self, name: str) -> str:
        """The value that a factor is frozen at, its entries reached from ``ONE``."""
        target = f"[{name}]"
        if target in self.values:
            return target
        op, like = self.rest.makers.get(name), self.values[name]
        if op is not None and self.rest.is_fixed(op):
            inputs = tuple(self._frozen(source) for source in op.inputs)
            self._add(replace(op, inputs=inputs, result=replace(op.result, name=target)))
            return target
        softmax = op is not None and isinstance(op.map, Softmax)
        share = self.sweep.share(op.map, like.shape).expand_as(like) if softmax else torch.ones_like(like)  # type: ignore[union-attr, arg-type]
        self.values[target] = share
        for i, factor in enumerate(share.reshape(-1).tolist()):
            self.scalar.add_node((target, i))
            if factor:
                self.scalar.add_edge(ONE, (target, i), factor=factor, entry=None)
        return target

    def _product(self, op: Op, label: str) -> None:
        """One node per pair of entries that are multiplied, behind both, and a step from it to the entry that it adds to."""
        left, right = op.inputs
        inputs = [torch.ones_like(self.values[name]) for name in op.inputs]
        factors = self._jacobian(op, inputs, {}, 0)
        numbered = self._jacobian(op, [inputs[0], _numbered(inputs[1].shape)], {}, 0)
        for pair, (out, i) in enumerate(factors.nonzero().tolist()):
            node = (label, pair)
            self.scalar.add_edge((left, i), node, factor=float(factors[out, i]), entry=None, side=0)
            other = (right, _number(numbered[out, i], factors[out, i]))
            self.scalar.add_edge(other, node, factor=1.0, entry=None, side=1)
            self.scalar.add_edge(node, (op.name, out), factor=1.0, entry=None)


def _derivatives(function: Callable[[Tensor], Tensor], at: Tensor, rows: int) -> Tensor:
    """[rows, entries of ``at``]: those of a flat result with ``rows`` entries, perhaps none."""
    if not rows * at.numel():
        return at.new_zeros(rows, at.numel())
    return torch.autograd.functional.jacobian(function, at).reshape(rows, at.numel())


def _numbered(shape: Any) -> Tensor:
    return torch.arange(1, prod(shape) + 1, dtype=torch.float64).reshape(shape)


def _number(labelled: Tensor, plain: Tensor) -> int:
    return round(float(labelled / plain)) - 1


def _untied(op: Op, parameters: frozenset[str]) -> tuple[Op, str | None, str | None]:
    """The operation with its weight and bias under two names of their own, and the names that they had.

    A normalisation without data is its gain and bias alone; a parameter that enters as a value is a bias.
    """
    match op.map:
        case Normalise(shape=shape, weight=weight, bias=bias):
            wide = (shape[0], *([1] * (len(op.result.type.shape) - 2))) if op.map.kind == "group" else shape
            return _untied(replace(op, map=Scale(weight, bias, wide)), parameters)
        case Dense(weight, bias) | Conv(weight, bias) | Scale(weight, bias):
            renamed = replace(op.map, weight=_WEIGHT if weight else None, bias=_BIAS if bias else None)  # type: ignore[arg-type]
            return replace(op, map=renamed), weight, bias
        case Embed(weight):
            return replace(op, map=replace(op.map, weight=_WEIGHT)), weight, None
        case Source(Named(slot)) if slot in parameters:
            return replace(op, map=replace(op.map, value=Named(_BIAS))), None, slot
        case _:
            return op, None, None
