"""Facts of a graph that several readers need: who reads a value, what depends on the data, which factor of a product modulates."""

from __future__ import annotations

from pkcompiler.ir.maps import Constant, Frozen, Gate, Normalise, PathMap, Product, Reindex, Resample, Scale, Softmax
from pkcompiler.ir.types import Op, PathGraph


def makers(graph: PathGraph) -> dict[str, Op]:
    """The operation behind every value that is no input."""
    return {op.name: op for op in graph.ops}


def readers(graph: PathGraph) -> dict[str, tuple[Op, ...]]:
    """The operations that read each value, in order; one that reads it twice stands twice. Values that none reads are left out."""
    found: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            found.setdefault(name, []).append(op)
    return {name: tuple(ops) for name, ops in found.items()}


def only_reader(graph: PathGraph) -> dict[str, Op]:
    """The one operation that reads a value, of every value that is read once and is no output."""
    return {name: ops[0] for name, ops in readers(graph).items() if len(ops) == 1 and name not in graph.outputs}


def last_uses(graph: PathGraph) -> dict[int, list[str]]:
    """After which operation (by position) each value is needed no more; outputs are needed always."""
    last = {name: i for i, op in enumerate(graph.ops) for name in op.inputs}
    out: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in graph.outputs:
            out.setdefault(i, []).append(name)
    return out


def data_dependent(graph: PathGraph) -> frozenset[str]:
    """The values that depend on an input of the graph; what is frozen at the data does."""
    found = {v.name for v in graph.inputs}
    for op in graph.ops:
        if isinstance(op.map, Frozen) or any(name in found for name in op.inputs):
            found.add(op.name)
    return frozenset(found)


def modulators(graph: PathGraph) -> dict[str, int | None]:
    """The products of two factors that both depend on the data, and the position (0 or 1) of the one that modulates the other.

    It is the one behind a softmax, a bounded gate or a norm (docs/theory.md, section 1), whatever the order of the operands;
    None where neither or both are. Products by a factor that is free of data are left out: they are linear in the other.
    """
    made, live = makers(graph), data_dependent(graph)
    found: dict[str, int | None] = {}
    for op in graph.ops:
        if isinstance(op.map, Product) and all(name in live for name in op.inputs):
            first, second = (modulates(made, name) for name in op.inputs)
            found[op.name] = None if first == second else 0 if first else 1
    return found


def modulates(made: dict[str, Op], name: str) -> bool:
    """Whether a value is a softmax, a bounded gate, a norm or frozen, seen through what moves, spreads or scales its entries."""
    op = made.get(name)
    while op is not None and isinstance(op.map, Reindex | Constant | Resample | Scale) and len(op.inputs) == 1:
        op = made.get(op.inputs[0])
    return op is not None and is_modulating(op.map)


def is_modulating(map: PathMap) -> bool:
    """A softmax, a bounded gate, a norm, or what is frozen at the data."""
    return isinstance(map, Softmax | Normalise | Frozen) or (isinstance(map, Gate) and map.bounded)
