"""Which factors of products paths go through, and what the others are frozen at (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pkcompiler.analysis.reindex import apply_reindex, concrete
from pkcompiler.analysis.scaled import Scaled
from pkcompiler.diagnostics import fail
from pkcompiler.frontend.lifted import OBSERVED
from pkcompiler.ir.graphs import carrying, crossed_factors, makers, parametric
from pkcompiler.ir.maps import Constant, Frozen, Merge, Product, Reindex, Resample, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph, TensorType

if TYPE_CHECKING:
    from pkcompiler.analysis.sweep import Sweep


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
    """Frozen factors of one run of a sweep, raised to the power that the functional gives them.

    At the data: the values that the model had, with the power of the slopes. Without: see :class:`Rest`.
    """

    sweep: Sweep
    known: dict[str, Scaled] = field(default_factory=dict)
    rest: Rest = field(init=False)
    types: dict[str, TensorType] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.sweep.graph
        self.rest = Rest.of(graph, self.sweep.settings.products)
        self.types = {value.name: value.type for value in (*graph.inputs, *(op.result for op in graph.ops))}

    def of(self, name: str) -> Scaled:
        """What the value ``name`` is frozen at."""
        if name not in self.known:
            at_data = self.sweep.settings.gates != "open"
            self.known[name] = Scaled(self._slope(name)) if at_data else self.sweep.arithmetic.settle(self._without_data(name))
        return self.known[name]

    def _slope(self, name: str) -> torch.Tensor:
        value = self._recorded(name)
        if self.sweep.settings.transform.signed:
            return value
        return value.abs() ** self.sweep.settings.slope_power

    def _recorded(self, name: str) -> torch.Tensor:
        """The value that the model had: recorded, or a view of what was."""
        seen, op = self.sweep.observed or {}, self.rest.makers.get(name)
        if OBSERVED + name in seen:
            return self.sweep.seen(OBSERVED + name)
        if op is None or not isinstance(op.map, Reindex):
            raise fail("PKC502", f"the value of %{name} was not recorded at the data", "use gates='open', or products='pairs'")
        return apply_reindex(op.map, [self._recorded(i) for i in op.inputs], self.sweep.batch, self.sweep.tensors)

    def _without_data(self, name: str) -> Scaled:
        op = self.rest.makers.get(name)
        shape = concrete(self.types[name].shape, self.sweep.batch)
        if op is not None and isinstance(op.map, Softmax):
            return Scaled(self.sweep.share(op.map, shape).expand(shape))
        if op is None or not self.rest.is_fixed(op):
            return Scaled(torch.ones((), dtype=self.sweep.settings.dtype, device=self.sweep.device).expand(shape))
        frozen = [self.of(source) for source in op.inputs]
        return self.sweep.multiplied(op.map, *frozen) if isinstance(op.map, Product) else self.sweep.apply(op, frozen, {})
