"""Weights that a model computes from parameters (weight normalisation, sums of factors): no default candidates of pruning."""

from __future__ import annotations

from collections.abc import Container

from pkcompiler.ir.maps import Constant, Frozen, Merge, Named, Product, Reindex, Scale, Source
from pkcompiler.ir.types import PathGraph


def computed_weights(graph: PathGraph, masked: Container[str] = ()) -> list[str]:
    """The matrices that reach a matrix product or a convolution through arithmetic without activations.

    Left out are those that are prunable as they are, or have a mask.
    """
    matrices = {s.name for s in graph.parameters if sum(d != 1 for d in s.type.shape) > 1 and not s.prunable}
    carried: dict[str, frozenset[str]] = {}
    found: set[str] = set()
    for op in graph.ops:
        match op.map:
            case Source(Named(slot)):
                carried[op.name] = frozenset({slot}) & matrices
            case Source() | Frozen():
                carried[op.name] = frozenset()
            case Reindex() | Constant() | Merge() | Scale() | Product("mul") if all(i in carried for i in op.inputs):
                carried[op.name] = frozenset().union(*(carried[i] for i in op.inputs))
            case Product("matmul" | "conv"):
                found.update(*(carried.get(i, ()) for i in op.inputs))
    return [slot.name for slot in graph.parameters if slot.name in found and slot.name not in masked]
