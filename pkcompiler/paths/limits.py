"""How large a path count can become, from shapes and masks alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from pkcompiler.ir import maps
from pkcompiler.ir.graphs import crossed_factors
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import forward
from pkcompiler.ir.weights import Joining, units_of
from pkcompiler.paths.factors import LINEAR
from pkcompiler.paths.reindex import by_unit, concrete
from pkcompiler.paths.semiring import Settings

MANTISSA_BITS = 53
"""Whole numbers up to 2**53 are exact in float64."""


@dataclass(frozen=True, slots=True)
class Limits:
    """``total``: the number of all paths lies below 2**total. ``bits``: sums of remainders below 2**bits stay below 2**53 before
    they are reduced."""

    total: int
    bits: int

    @staticmethod
    def of(graph: PathGraph, chosen: Settings, masks: Mapping[str, Tensor] | None = None, batch: int = 1) -> Limits:
        """One walk with the log2 of the most paths that an entry of each value can have."""
        reader = _Reader(graph, chosen, masks or {}, batch)
        crossed = crossed_factors(graph, chosen.products, at_data=False)
        bits = [MANTISSA_BITS - 1]

        def step(op: Op, inputs: list[tuple[float, float]]) -> tuple[float, float]:
            terms, factors = reader.terms(op), 2 if isinstance(op.map, maps.Product) else 1
            through = crossed.get(op.name, ())
            bits.append((MANTISSA_BITS - (terms * max(1, len(through)) + EXTRA).bit_length()) // factors)
            given, still = [most for most, _ in inputs], [frozen for _, frozen in inputs]
            frozen = _most(op, terms, still) if isinstance(op.map, LINEAR | maps.Product) else 0.0
            if not through:
                return _most(op, terms, given), frozen
            return max(_most(op, terms * len(through), _beside(given, still, i)) for i in through), frozen

        most, _ = forward(graph, lambda _: (0.0, 0.0), step)[0]
        total = most + math.log2(max(1, math.prod(reader.shapes[graph.outputs[0]])))
        return Limits(math.ceil(total * (1 + SLACK)) + 1, min(bits))


EXTRA = 2
"""A bias and a constant source, beside what an operation sums."""
SLACK = 1e-9
"""More than the rounding of a walk's logarithms."""


def _most(op: Op, terms: int, given: list[float]) -> float:
    """log2 of (terms * the largest + EXTRA); through a product, the logarithms of both factors add up."""
    largest = sum(given) if isinstance(op.map, maps.Product) else max(given, default=0.0)
    return largest + math.log2(terms + EXTRA * 2.0 ** -min(largest, 1000.0))


def _beside(given: list[float], frozen: list[float], position: int) -> list[float]:
    """The logarithms of a product's factors where paths go through the one at ``position``."""
    return [given[i] if i == position else frozen[i] for i in range(len(given))]


class _Reader:
    """Shapes with the batch filled in, and how many entries an operation sums into one."""

    def __init__(self, graph: PathGraph, chosen: Settings, masks: Mapping[str, Tensor], batch: int) -> None:
        self.chosen, self.masks = chosen, masks
        self.slots = {slot.name: concrete(slot.type.shape, batch) for slot in graph.slots}
        self.shapes = {value.name: concrete(value.type.shape, batch) for value in graph.values}

    def terms(self, op: Op) -> int:
        """The most entries, multiplicity included, that one entry of the result is a sum of."""
        shape = self.shapes[op.inputs[0]] if op.inputs else ()
        match op.map:
            case maps.Dense() | maps.Conv() | maps.Embed():
                return self.kept(op.map)
            case maps.Resample(size=size, kernel=kernel):
                return math.prod(kernel or shape[-len(size) :])
            case maps.Reindex(fn="sum", args=args):
                return math.prod(shape[d] for d in dict(args)["dims"])  # type: ignore[union-attr, index, misc]
            case maps.Reindex(fn="cumsum", args=args):
                return shape[dict(args)["dim"]]  # type: ignore[index]
            case maps.Window(kernel=kernel, dims=dims):
                return 1 if self.chosen.pools == "max" else math.prod(kernel or [shape[d] for d in dims])
            case maps.Product(kind="matmul"):
                return shape[-1]
            case maps.Product(kind="conv"):
                return math.prod(self.shapes[op.inputs[1]])
            case maps.Merge(signs):
                return len(signs)
            case (
                maps.Product()
                | maps.Reindex()
                | maps.Scale()
                | maps.Source()
                | maps.Constant()
                | maps.Gate()
                | maps.Normalise()
                | maps.Softmax()
                | maps.Frozen()
            ):
                return 1
            case _:
                assert_never(op.map)

    def kept(self, map: Joining) -> int:
        """The most kept entries of a weight that lead to one unit."""
        shape = self.slots[map.weight]
        if map.weight not in self.masks:
            return math.prod(shape) // max(1, units_of(map, shape))
        rows = by_unit(map, self.masks[map.weight])
        return int((rows != 0).sum(1).max()) if rows.numel() else 0
