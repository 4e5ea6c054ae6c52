"""Which factors of products paths go through, and what the others are frozen at (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.lift.lifted import OBSERVED
from pkcompiler.ir.graphs import carrying, crossed_factors, makers, parametric
from pkcompiler.ir.maps import Constant, Frozen, Merge, Product, Reindex, Resample, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph, TensorType
from pkcompiler.paths.exponents import Arithmetic
from pkcompiler.paths.reindex import concrete
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import Settings


class Sums(Protocol):
    """What frozen factors read of the sweep that they stand in."""

    graph: PathGraph
    settings: Settings
    observed: Mapping[str, Tensor] | None
    batch: int
    device: torch.device
    arithmetic: Arithmetic

    def seen(self, name: str) -> Tensor:
        """What was recorded under a name."""

    def share(self, map: Softmax, shape: Sequence[int]) -> Tensor:
        """Uniform attention."""

    def multiplied(self, map: Product, left: Scaled, right: Scaled) -> Scaled:
        """The product of two factors."""

    def apply(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """One operation."""


LINEAR = Constant | Reindex | Resample | Merge | Frozen | Source
"""Maps that are linear, or constants, and read no parameter (a source may be one)."""


@dataclass(frozen=True, slots=True)
class Rest:
    """``crossed``: the products that do not pair paths, and the positions of the factors that paths go through.

    A frozen factor without data: what a parameter, a gate, a maximum, a normalisation or an input makes counts 1 in every entry, a
    softmax is uniform attention, and what is made of those without any parameter (sums, views, pools, numbers, products) is made of
    them likewise. So `c * (a * b)` and `(c * a) * b`, or `a * b.sum(-1)` and `(a[..., None] * b).sum(-1)`, are one functional.
    """

    crossed: Mapping[str, tuple[int, ...]]
    makers: Mapping[str, Op]
    parametric: frozenset[str]
    carrying: frozenset[str]

    @staticmethod
    def of(graph: PathGraph, products: str) -> Rest:
        """For a sweep without data."""
        crossed = crossed_factors(graph, products, at_data=False)
        if not crossed:
            return Rest(crossed, {}, frozenset(), frozenset())
        return Rest(crossed, makers(graph), parametric(graph), carrying(graph, at_data=False))

    def is_fixed(self, op: Op) -> bool:
        """Whether a frozen value is made by the operation from frozen values; else it is 1 (a softmax: its share)."""
        if isinstance(op.map, Product):
            return not any(name in self.parametric and name not in self.carrying for name in op.inputs)
        return isinstance(op.map, LINEAR) and not (isinstance(op.map, Source) and op.name in self.parametric)


@dataclass(slots=True)
class Factors:
    """Frozen factors of one run of a sweep, as they stand in the functional: see :class:`Rest`.

    At the data the 1 of an entry is the value that the model had, with the power of the slopes, and a number is no source.
    """

    sweep: Sums
    known: dict[str, Scaled | None] = field(default_factory=dict)
    rest: Rest = field(init=False)
    types: dict[str, TensorType] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.sweep.graph
        self.rest = Rest.of(graph, self.sweep.settings.products)
        self.types = {value.name: value.type for value in graph.values}

    def of(self, name: str) -> Scaled:
        """What the value ``name`` is frozen at. Raises ``PKC502`` where it was not recorded at the data."""
        if name not in self.known:
            at_data = self.sweep.settings.gates != "open"
            value = self._at_data(name) if at_data else self._without_data(name)
            self.known[name] = None if value is None else self.sweep.arithmetic.settle(value)
        found = self.known[name]
        if found is None:
            help = "use gates='open', or products='pairs'"
            raise fail("PKC502", f"the value of %{name} was not recorded at the data", help)
        return found

    def _at_data(self, name: str) -> Scaled | None:
        """Made of what it is made of, if all of that was recorded, else as it was recorded itself; None where it was not."""
        op, seen, chosen = self.rest.makers.get(name), self.sweep.observed or {}, self.sweep.settings
        if op is not None and self.rest.is_fixed(op) and all(self._is_known(source) for source in op.inputs):
            return self._made(op, [self.of(source) for source in op.inputs])
        if OBSERVED + name not in seen:
            return None
        value = self.sweep.seen(OBSERVED + name)
        return Scaled(value if chosen.transform.signed else value.abs() ** chosen.slope_power)

    def _is_known(self, name: str) -> bool:
        if name not in self.known:
            value = self._at_data(name)
            self.known[name] = None if value is None else self.sweep.arithmetic.settle(value)
        return self.known[name] is not None

    def _made(self, op: Op, frozen: list[Scaled]) -> Scaled:
        match op.map:
            case Product():
                return self.sweep.multiplied(op.map, *frozen)
            case Source():
                return self.sweep.apply(replace(op, map=replace(op.map, factor=True)), frozen, {})
            case Frozen():
                return self.sweep.apply(replace(op, map=replace(op.map, as_source=False)), frozen, {})
        return self.sweep.apply(op, frozen, {})

    def _without_data(self, name: str) -> Scaled:
        op = self.rest.makers.get(name)
        shape = concrete(self.types[name].shape, self.sweep.batch)
        if op is not None and isinstance(op.map, Softmax):
            return Scaled(self.sweep.share(op.map, shape).expand(shape))
        if op is None or not self.rest.is_fixed(op):
            return Scaled(torch.ones((), dtype=self.sweep.settings.dtype, device=self.sweep.device).expand(shape))
        frozen = [self.of(source) for source in op.inputs]
        return self.sweep.multiplied(op.map, *frozen) if isinstance(op.map, Product) else self.sweep.apply(op, frozen, {})
