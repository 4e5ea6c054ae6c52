"""Facts of a graph that several readers need: who reads a value, what depends on the data, how paths cross products."""

from __future__ import annotations

from pkcompiler.ir.maps import Constant, Frozen, Gate, Merge, Normalise, PathMap, Product, Reindex, Resample, Scale, Softmax
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses


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


def carrying(graph: PathGraph, *, at_data: bool) -> frozenset[str]:
    """The values that a path from an input reaches: none goes through what is frozen, nor ``at_data`` through a softmax."""
    stops = (Frozen, Softmax) if at_data else Frozen
    found = {v.name for v in graph.inputs}
    for op in graph.ops:
        if not isinstance(op.map, stops) and any(name in found for name in op.inputs):
            found.add(op.name)
    return frozenset(found)


def parametric(graph: PathGraph) -> frozenset[str]:
    """The values that a parameter enters, or a weight that is computed from some."""
    parameters = {slot.name for slot in (*graph.parameters, *graph.computed)}
    found: set[str] = set()
    for op in graph.ops:
        if any(use.slot in parameters for use in uses(op.map)) or any(name in found for name in op.inputs):
            found.add(op.name)
    return frozenset(found)


def centres(graph: PathGraph) -> bool:
    """Whether a normalisation centres, which unsigned functionals drop."""
    return any(isinstance(op.map, Normalise) and op.map.kind != "rms" for op in graph.ops)


def has_approximate_gains(graph: PathGraph) -> bool:
    """Whether the gain of a gate is found to 1e-9 only, or over a bounded range."""
    return any(isinstance(op.map, Gate) and not op.map.gain_exact for op in graph.ops)


def crossed_factors(graph: PathGraph, products: str, *, at_data: bool) -> dict[str, tuple[int, ...]]:
    """The products in which a path goes through one factor, the other being frozen, and the factors (0, 1) that it may go through.

    ``products``: ``pairs`` (there are none: a path is a pair of paths), ``value`` (the factor that does not modulate), ``either``;
    with ``value`` both, where neither or both modulate (docs/theory.md, section 1). A factor that no path from an input reaches is
    crossed as in ``pairs``.
    """
    if products == "pairs":
        return {}
    live, modulating = carrying(graph, at_data=at_data), modulators(graph) if products == "value" else {}
    split = [op.name for op in graph.ops if isinstance(op.map, Product) and all(name in live for name in op.inputs)]
    frozen = {name: modulating.get(name) for name in split}
    return {name: (0, 1) if position is None else (1 - position,) for name, position in frozen.items()}


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
    """Whether a value is a softmax, a bounded gate, a norm or frozen, seen through what moves, spreads, scales or adds entries."""
    op = made.get(name)
    if op is not None and op.inputs and isinstance(op.map, Reindex | Constant | Resample | Scale | Merge):
        return all(modulates(made, source) for source in op.inputs)
    return op is not None and is_modulating(op.map)


def is_modulating(map: PathMap) -> bool:
    """A softmax, a bounded gate, a norm, or what is frozen at the data."""
    normalised = isinstance(map, Normalise) or (isinstance(map, Product) and map.norm)
    return normalised or isinstance(map, Softmax | Frozen) or (isinstance(map, Gate) and map.bounded)
