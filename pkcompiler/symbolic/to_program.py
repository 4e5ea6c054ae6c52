"""From a path graph with its channel groups to a straight-line program: one match over the path maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal, assert_never

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir import maps
from pkcompiler.ir.maps import Fixed, InvSqrt, Named
from pkcompiler.ir.maps import Literal as Number
from pkcompiler.ir.types import Op
from pkcompiler.ir.weights import side
from pkcompiler.paths.factors import Rest
from pkcompiler.paths.semiring import Settings
from pkcompiler.symbolic.axes import Axis, collapsed, prefix, weights
from pkcompiler.symbolic.axes import size as axis_size
from pkcompiler.symbolic.instructions import (
    conv_sum_of,
    exact_array,
    exact_values,
    matmul_over,
    picker,
    placer,
    reshaping,
    row_sum,
    texts,
)
from pkcompiler.symbolic.monomial import Monomial
from pkcompiler.symbolic.positions import pool_sum, powered, reindexed, resample_matrices, resampled
from pkcompiler.symbolic.program import IDENTITY, Operator, Program, Statement, Term
from pkcompiler.symbolic.widths import Axes, Groups

SLOT = "@"
"""The symbol of a slot's squared entry (E[theta^2]) is its name with this before it."""

ONE = Monomial()
TOTAL = "total"


@dataclass(slots=True)
class Lowering:
    """``power`` q of the fixed factors: 2 for squared paths, 0 for a count (then slots have no symbols either).

    ``names``: the symbol of every free group by identity. ``statistics``: normalisation statistics that differ between channels
    and were taken at initialisation. ``factors``: symbols of the fixed factors of normalisations, with their values.
    """

    groups: Groups
    names: Mapping[int, str]
    power: Literal[0, 2]
    settings: Settings
    statistics: set[str] = field(default_factory=set)
    factors: dict[str, tuple[Fraction, str]] = field(default_factory=dict)
    frozen: dict[str, Statement] = field(default_factory=dict)
    rest: Rest = field(init=False)

    def __post_init__(self) -> None:
        self.rest = Rest.of(self.groups.graph, self.settings.products)

    def program(self) -> Program:
        """What factors are frozen at, the inputs, a statement for each operation, and the sum over the entries of the output."""
        graph = self.groups.graph
        statements = [Statement(v.name, self.shape(v.name), (self._ones(self.shape(v.name)),)) for v in graph.inputs]
        for op in graph.ops:
            shape = self.shape(op.name)
            statements.append(Statement(op.name, shape, tuple(self._folded(t, shape) for t in self._terms(op, shape))))
        output = graph.outputs[0]
        axes = self.groups.values[output]
        terms = self._sums(axes, range(len(axes)), ONE, (output,), False)
        folded = (self._folded(t, ()) for t in terms)
        last = tuple(replace(t, operator=IDENTITY) if t.operator.name == "reshape" else t for t in folded)
        return Program((*self.frozen.values(), *statements, Statement(TOTAL, (), last)))

    # shapes and symbols -----------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value over its positions: a group of equal channels has one entry."""
        known = self.frozen.get(name)
        return tuple(collapsed(axis) for axis in self.groups.values[name]) if known is None else known.shape

    def slot(self, name: str) -> Monomial:
        """The symbol of a slot's squared entry; 1 in a count."""
        return ONE if self.power == 0 else Monomial.of(SLOT + name)

    def width(self, axis: Axis) -> Iterator[tuple[Monomial, np.ndarray]]:
        """How often entries of an axis stand there, and which entries have the same width."""
        found: dict[Monomial, list[int]] = {}
        for i, group in enumerate(weights(axis)):
            product = ONE
            for atom in group:
                product = product * Monomial.of(self.names[id(atom)])
            found.setdefault(product, []).append(i)
        for product, indices in found.items():
            yield product, np.asarray(indices)

    def _number(self, value: float) -> Monomial:
        return Monomial(powered(value, self.power))

    def fixed(self, value: Fixed) -> Monomial:
        """A fixed factor that is one number, raised to the power."""
        match value:
            case Number(number):
                return self._number(number)
            case InvSqrt(slot, eps):
                return self._deviation(slot, eps)
            case Named(slot):
                return self._number(float(self.groups.tensors[slot].flatten()[0]))
        assert_never(value)

    def _deviation(self, slot: str, eps: float) -> Monomial:
        if self.power == 0:
            return ONE
        variance = powered(self._statistic(slot, 1.0), 1)
        value = 1 / (variance + powered(eps, 1))
        symbol = next((s for s, (v, _) in self.factors.items() if v == value), f"b{len(self.factors) + 1}")
        self.factors[symbol] = (value, f"1/({float(variance):g} + {eps:g})")
        return Monomial.of(symbol)

    def _statistic(self, slot: str, initial: float) -> float:
        if self.groups.is_uniform(Named(slot)):
            return float(self.groups.tensors[slot].flatten()[0])
        if self.power == 0 and bool(self.groups.tensors[slot].all()):
            return 1.0  # a count asks which are 0, and none is
        self.statistics.add(slot)
        return initial

    # terms ------------------------------------------------------------------------------------------------------------

    def _folded(self, term: Term, shape: tuple[int, ...]) -> Term:
        """A linear map of one number is that number times a number."""
        inputs = [self.shape(name) for name in term.operands]
        if term.operator is IDENTITY or not inputs or np.prod(shape) != 1 or any(np.prod(s) != 1 for s in inputs):
            return term
        value = term.operator.apply(*(np.full(s, 1, dtype=object) for s in inputs))
        number = Monomial(Fraction(np.asarray(value, dtype=object).reshape(-1)[0]))
        if len(inputs) == 1:
            return Term(term.coefficient * number, IDENTITY if inputs[0] == shape else reshaping(shape), term.operands)
        return Term(
            term.coefficient * number, Operator("*", lambda a, b: (a.reshape(-1) * b.reshape(-1)).reshape(shape)), term.operands
        )

    def _ones(self, shape: tuple[int, ...], factor: Monomial = ONE) -> Term:
        return Term(factor, Operator("1", lambda: np.full(shape, 1, dtype=object)), ())

    def _constant(self, shape: tuple[int, ...], factor: Monomial) -> list[Term]:
        return [self._ones(shape, factor)] if self.settings.constants == "on" and factor.coefficient else []

    def _bias(self, name: str | None, shape: tuple[int, ...]) -> list[Term]:
        return [] if name is None else [self._ones(shape, self.slot(name))]

    def _repeated(self, operand: str, shape: tuple[int, ...], factor: Monomial = ONE) -> Term:
        same = self.shape(operand) == shape
        return Term(factor, IDENTITY if same else Operator("repeat", lambda x: np.broadcast_to(x, shape)), (operand,))

    def _sums(self, axes: Axes, dims: Sequence[int], factor: Monomial, operands: tuple[str, ...], keepdim: bool) -> list[Term]:
        """The sum over whole dimensions, one term for every product of widths."""
        dims = [d % max(len(axes), 1) for d in dims]
        found = []
        for choice in itertools.product(*(list(self.width(axes[d])) for d in dims)):
            product = factor
            for width, _ in choice:
                product = product * width
            function = picker(dims, [indices for _, indices in choice], keepdim)
            found.append(Term(product, Operator("sum", function), operands))
        return found

    def _terms(self, op: Op, shape: tuple[int, ...]) -> list[Term]:
        match op.map:
            case maps.Dense(weight, bias):
                return self._dense(op, weight, shape) + self._bias(bias, shape)
            case maps.Embed(weight):
                return self._dense(op, weight, shape)
            case maps.Conv():
                return self._conv(op, op.map, shape) + self._bias(op.map.bias, shape)
            case maps.Scale():
                return self._scale(op, op.map, shape)
            case maps.Source(value, factor):
                return self._source(op, value, factor, shape)
            case maps.Constant(factor):
                return self._times(op, factor, shape)
            case maps.Reindex():
                return self._reindex(op, op.map, shape)
            case maps.Resample(size=sizes):
                matrices = resample_matrices(op.map, self.shape(op.inputs[0])[-len(sizes) :], self.power)
                return [Term(ONE, Operator(op.map.kind, lambda x: resampled(x, matrices)), op.inputs)]
            case maps.Gate(zero=zero, gain=largest):
                return [
                    self._repeated(op.inputs[0], shape, self._number(largest)),
                    *(self._constant(shape, self._number(zero)) if zero else []),
                ]
            case maps.Window(kernel=kernel):
                return self._window(op, op.map, shape) if kernel else self._summed(op, op.map.dims, op.map.keepdim)
            case maps.Normalise(weight=weight, bias=bias):
                gain = ONE if weight is None else self.slot(weight)
                return [self._repeated(op.inputs[0], shape, gain), *self._bias(bias, shape)]
            case maps.Softmax():
                return self._softmax(op, op.map, shape)
            case maps.Product():
                return self._product(op, op.map, shape)
            case maps.Merge():
                return [self._repeated(name, shape) for name in op.inputs]
            case maps.Frozen(as_source=added):
                return self._constant(shape, ONE) if added else [self._ones(shape)]
            case _:
                assert_never(op.map)

    def _dense(self, op: Op, weight: str, shape: tuple[int, ...]) -> list[Term]:
        axes = self.groups.values[op.inputs[0]]
        found = []
        for width, indices in self.width(axes[-1]):
            function = row_sum(indices, shape)
            found.append(Term(width * self.slot(weight), Operator("sum", function), op.inputs))
        return found

    def _conv(self, op: Op, map: maps.Conv, shape: tuple[int, ...]) -> list[Term]:
        kernel = self.groups.graph.slot(map.weight).type.shape[2:]
        group, inner = self.groups.split[op.name]
        kept = collapsed(group)
        name = "x".join(texts(kernel)) + ("T" if side(map).turned else "") + f"/{'x'.join(texts(map.stride))}"
        found = []
        for width, indices in self.width(inner):
            function = conv_sum_of(map, [int(k) for k in kernel], kept, indices, shape)  # type: ignore[arg-type]
            found.append(Term(width * self.slot(map.weight), Operator(f"conv{name}", function), op.inputs))
        return found

    def _scale(self, op: Op, map: maps.Scale, shape: tuple[int, ...]) -> list[Term]:
        by = ONE if map.weight is None else self.slot(map.weight)
        if isinstance(map.factor, Named) and not self.groups.is_uniform(map.factor):
            raise fail(
                "PKC537", f"%{op.name} multiplies by @{map.factor.slot}, which differs between channels", "make it one number"
            )
        by = by if map.factor is None else by * self.fixed(map.factor)
        found = [self._repeated(op.inputs[0], shape, by)]
        if isinstance(map.center, Named):
            found += self._constant(shape, by * self._number(self._statistic(map.center.slot, 0.0)))
        return found + self._bias(map.bias, shape)

    def _source(self, op: Op, value: Fixed, factor: bool, shape: tuple[int, ...]) -> list[Term]:
        if isinstance(value, Named) and value.slot in self.groups.parameters:
            return [self._ones(shape, self.slot(value.slot))]
        if not factor and self.settings.constants == "off":
            return []
        if self.groups.is_uniform(value):
            return [self._ones(shape, self.fixed(value))]
        array = self._array(value, shape)
        return [Term(ONE, Operator("constant", lambda: array), ())]

    def _array(self, value: Fixed, shape: tuple[int, ...]) -> np.ndarray:
        tensor: Tensor = self.groups.tensors[value.slot]  # type: ignore[union-attr]
        raw = tensor if isinstance(value, Named) else (tensor + value.eps).rsqrt()  # type: ignore[union-attr]
        return np.broadcast_to(exact_array(raw, self.power), shape)

    def _times(self, op: Op, factor: Fixed, shape: tuple[int, ...]) -> list[Term]:
        if self.groups.is_uniform(factor):
            return [self._repeated(op.inputs[0], shape, self.fixed(factor))]
        array = self._array(factor, shape)
        return [Term(ONE, Operator("constant", lambda x: x * array), op.inputs)]

    def _summed(self, op: Op, dims: Sequence[int], keepdim: bool) -> list[Term]:
        return self._sums(self.groups.values[op.inputs[0]], dims, ONE, op.inputs, keepdim)

    def _window(self, op: Op, map: maps.Window, shape: tuple[int, ...]) -> list[Term]:
        out = shape[-len(map.kernel) :]
        name = f"window{'x'.join(texts(map.kernel))}/{'x'.join(texts(map.stride or map.kernel))}"
        return [Term(ONE, Operator(name, lambda x: pool_sum(map, x, out)), op.inputs)]

    def _softmax(self, op: Op, map: maps.Softmax, shape: tuple[int, ...]) -> list[Term]:
        """Uniform over the allowed positions."""
        share = self._share(map, shape)
        return [Term(ONE, Operator("softmax", lambda x: x * share), op.inputs)]

    def _share(self, map: maps.Softmax, shape: tuple[int, ...]) -> np.ndarray:
        if map.allowed is None:
            return np.full(shape, powered(1 / shape[map.dim], self.power), dtype=object)
        allowed = (
            np.tril(np.ones(shape[-2:])) if map.allowed == "causal" else self.groups.tensors[map.allowed.slot].double().numpy()
        )
        allowed = allowed.reshape((1,) * (len(shape) - allowed.ndim) + allowed.shape)
        share = allowed / allowed.sum(map.dim % len(shape), keepdims=True).clip(min=1)
        return np.broadcast_to(exact_values(share, self.power), shape)

    def _product(self, op: Op, map: maps.Product, shape: tuple[int, ...]) -> list[Term]:
        """Pairs of paths, or paths through one factor, the other frozen."""
        crossed = self.rest.crossed.get(op.name)
        if crossed is None:
            return self._multiplied(op, map, op.inputs)
        first, second = op.inputs
        pairs = {0: lambda: (first, self._frozen(second)), 1: lambda: (self._frozen(first), second)}
        return [term for position in crossed for term in self._multiplied(op, map, pairs[position]())]

    def _multiplied(self, op: Op, map: maps.Product, operands: tuple[str, ...]) -> list[Term]:
        if map.kind == "conv":
            raise fail("PKC537", f"%{op.name} convolves by a computed kernel, which has no closed form here", "use path_functional")
        if map.kind == "mul":
            return [Term(ONE, Operator("*", lambda a, b: a * b), operands)]
        widths = self.width(self.groups.values[op.inputs[0]][-1])
        return [Term(width, Operator("matmul", matmul_over(indices)), operands) for width, indices in widths]

    def _frozen(self, name: str) -> str:
        """The statement of what a factor is frozen at (docs/theory.md, section 1)."""
        target = f"[{name}]"
        if target not in self.frozen:
            shape = self.shape(name)
            self.frozen[target] = Statement(target, shape, tuple(self._at_rest(name, shape)))
        return target

    def _at_rest(self, name: str, shape: tuple[int, ...]) -> list[Term]:
        op = self.rest.makers.get(name)
        if op is not None and isinstance(op.map, maps.Softmax):
            share = self._share(op.map, shape)
            return [Term(ONE, Operator("softmax", lambda: share), ())]
        if op is None or not self.rest.is_fixed(op):
            return [self._ones(shape)]
        terms = self._multiplied(op, op.map, op.inputs) if isinstance(op.map, maps.Product) else self._terms(op, shape)
        folded = [self._folded(term, shape) for term in terms]
        return [replace(term, operands=tuple(self._frozen(n) for n in term.operands)) for term in folded]

    def _reindex(self, op: Op, map: maps.Reindex, shape: tuple[int, ...]) -> list[Term]:
        args: dict[str, Any] = dict(map.args)
        axes = self.groups.values[op.inputs[0]]
        match map.fn:
            case "sum":
                return self._summed(op, range(len(axes)) if args["dims"] is None else args["dims"], args["keepdim"])
            case "cat":
                return self._cat(op, args["dim"] % len(shape), shape)
            case "slice" if args["step"] == 1:
                return [self._slice(op, axes, args, shape)]
            case "index":
                index = self.groups.tensors[args["index"].slot].tolist()
                return [Term(ONE, Operator("index", lambda x: reindexed(map, x, shape, index)), op.inputs)]
        if (
            map.fn in ("reshape", "permute", "expand")
            and self.shape(op.inputs[0]) == shape
            and list(shape).count(1) >= len(shape) - 1
        ):
            return [Term(ONE, IDENTITY, op.inputs)]
        return [Term(ONE, Operator(map.fn, lambda x: reindexed(map, x, shape, None)), op.inputs)]

    def _slice(self, op: Op, axes: Axes, args: Mapping[str, Any], shape: tuple[int, ...]) -> Term:
        dim = args["dim"] % len(axes)
        size = self.groups.shape_of(op)[dim]
        if shape[dim] == collapsed(axes[dim]):
            return Term(ONE, IDENTITY, op.inputs)
        start = slice(args["start"], args["end"]).indices(axis_size(axes[dim]))[0]
        first, last = prefix(axes[dim], start), prefix(axes[dim], start + size)
        window = (slice(None),) * dim + (slice(first, last),)
        return Term(ONE, Operator("slice", lambda x: x[window]), op.inputs)

    def _cat(self, op: Op, dim: int, shape: tuple[int, ...]) -> list[Term]:
        found, offset = [], 0
        for name in op.inputs:
            n = self.shape(name)[dim]
            found.append(Term(ONE, Operator("beside", placer(dim, offset, n, shape)), (name,)))
            offset += n
        return found
