"""Which factors of products paths go through, and what the others are frozen at without data (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pkcompiler.ir.graphs import carrying, crossed_factors, makers, parametric
from pkcompiler.ir.maps import Constant, Frozen, Merge, Product, Reindex, Resample, Source
from pkcompiler.ir.types import Op, PathGraph

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
