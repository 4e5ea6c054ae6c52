"""Weights that a model computes from parameters (weight normalisation, sums of factors): no default candidates of pruning."""

from __future__ import annotations

from collections.abc import Container

from pkcompiler.ir.maps import Constant, Frozen, Merge, Named, Product, Reindex, Scale, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import forward


def computed_weights(graph: PathGraph, masked: Container[str] = ()) -> list[str]:
    """The matrices that reach a matrix product or a convolution through arithmetic without activations.

    Left out are those that are prunable as they are, or have a mask.
    """
    matrices = {s.name for s in graph.parameters if sum(d != 1 for d in s.type.shape) > 1 and not s.prunable}
    found: set[str] = set()

    def carried(op: Op, read: list[frozenset[str] | None]) -> frozenset[str] | None:
        known = [names for names in read if names is not None]
        match op.map:
            case Source(Named(slot)):
                return frozenset({slot}) & matrices
            case Source() | Frozen():
                return frozenset()
            case Reindex() | Constant() | Merge() | Scale() | Product("mul") if len(known) == len(read):
                return frozenset().union(*known)
            case Product("matmul" | "conv"):
                found.update(*known)
        return None

    forward(graph, lambda _: None, carried)
    return [slot.name for slot in graph.parameters if slot.name in found and slot.name not in masked]
