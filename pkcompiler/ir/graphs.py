"""Facts of a graph that several readers need: who reads a value, what depends on the data, how paths cross products."""

from __future__ import annotations

from typing import TypeVar

from pkcompiler.ir.maps import Constant, Frozen, Gate, Merge, Normalise, PathMap, Product, Reindex, Resample, Scale, Softmax
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.ir.walk import forward, marked

M = TypeVar("M", bound=PathMap)


def makers(graph: PathGraph) -> dict[str, Op]:
    """The operation behind every value that is no input."""
    return {op.name: op for op in graph.ops}


def maps_of(graph: PathGraph, kind: type[M]) -> dict[str, M]:
    """The maps of one class in order, by operation."""
    return {op.name: op.map for op in graph.ops if isinstance(op.map, kind)}


def factors(graph: PathGraph) -> frozenset[str]:
    """The values that products multiply."""
    return frozenset(name for op in graph.ops if isinstance(op.map, Product) for name in op.inputs)


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


def data_dependent(graph: PathGraph) -> frozenset[str]:
    """The values that depend on an input of the graph; what is frozen at the data does."""
    return marked(graph, lambda _: True, lambda op, read: any(read) or isinstance(op.map, Frozen))


def carrying(graph: PathGraph, *, at_data: bool) -> frozenset[str]:
    """The values that a path from an input reaches: none goes through what is frozen, nor ``at_data`` through a softmax."""
    stops = (Frozen, Softmax) if at_data else Frozen
    return marked(graph, lambda _: True, lambda op, read: any(read) and not isinstance(op.map, stops))


def parametric(graph: PathGraph) -> frozenset[str]:
    """The values that a parameter enters, or a weight that is computed from some."""
    parameters = {slot.name for slot in (*graph.parameters, *graph.computed)}
    return marked(graph, lambda _: False, lambda op, read: any(read) or any(u.slot in parameters for u in uses(op.map)))


def centres(graph: PathGraph) -> bool:
    """Whether a normalisation centres, which unsigned functionals drop."""
    return any(map.kind != "rms" for map in maps_of(graph, Normalise).values())


def has_approximate_gains(graph: PathGraph) -> bool:
    """Whether the gain of a gate is found to 1e-9 only, or over a bounded range."""
    return not all(map.gain_exact for map in maps_of(graph, Gate).values())


def crossed_factors(graph: PathGraph, products: str, *, at_data: bool) -> dict[str, tuple[int, ...]]:
    """The products in which a path goes through one factor, the other being frozen, and the factors (0, 1) that it may go through.

    ``products``: ``pairs`` (there are none: a path is a pair of paths), ``value`` (the factor that does not modulate), ``either``;
    with ``value`` both, where neither or both modulate (docs/theory.md, section 1). A factor that no path from an input reaches is
    crossed as in ``pairs``.
    """
    if products == "pairs":
        return {}
    live, modulating = carrying(graph, at_data=at_data), modulators(graph) if products == "value" else {}
    frozen = {op.name: modulating.get(op.name) for op in _products(graph, live)}
    return {name: (0, 1) if position is None else (1 - position,) for name, position in frozen.items()}


def crossed_twice(graph: PathGraph, products: str = "pairs") -> tuple[str, ...]:
    """The parameters that a path may cross more than once, in the order of the graph (an upper estimate by parameter).

    Two operations use it, of which one is reached from the other, or it is behind both factors of a product where paths do not go
    through one of them (``products``). A computed weight crosses every parameter that it is made of.
    """
    crossed = crossed_factors(graph, products, at_data=False)
    parts = {slot.name: slot.of for slot in graph.computed}
    twice: set[str] = set()

    def behind(op: Op, read: list[frozenset[str]]) -> frozenset[str]:
        own = frozenset(part for use in uses(op.map) for part in parts.get(use.slot, (use.slot,)))
        if isinstance(op.map, Product) and op.name not in crossed:
            twice.update(read[0] & read[1])
        before = frozenset().union(*(read[i] for i in crossed.get(op.name, range(len(read)))))
        twice.update(own & before)
        return own | before

    forward(graph, lambda _: frozenset(), behind)
    return tuple(slot.name for slot in graph.parameters if slot.name in twice)


def modulators(graph: PathGraph) -> dict[str, int | None]:
    """The products of two factors that both depend on the data, and the position (0 or 1) of the one that modulates the other.

    It is the one behind a softmax, a bounded gate or a norm (docs/theory.md, section 1), whatever the order of the operands;
    None where neither or both are. Products by a factor that is free of data are left out: they are linear in the other.
    """
    made, live = makers(graph), data_dependent(graph)
    found: dict[str, int | None] = {}
    for op in _products(graph, live):
        first, second = (modulates(made, name) for name in op.inputs)
        found[op.name] = None if first == second else 0 if first else 1
    return found


def _products(graph: PathGraph, live: frozenset[str]) -> list[Op]:
    """The products of two factors that are both among ``live``."""
    return [op for op in graph.ops if isinstance(op.map, Product) and live.issuperset(op.inputs)]


def modulates(made: dict[str, Op], name: str) -> bool:
    """Whether a value is a softmax, a bounded gate, a norm or frozen, seen through what moves, spreads, scales or adds entries."""
    op = made.get(name)
    if op is not None and op.inputs and isinstance(op.map, Reindex | Constant | Resample | Scale | Merge):
        return all(modulates(made, source) for source in op.inputs)
    return op is not None and is_modulating(op.map)


def is_modulating(map: PathMap) -> bool:
    """A softmax, a bounded gate, a norm, or what is frozen at the data."""
    match map:
        case Softmax() | Frozen() | Normalise() | Product(norm=True) | Gate(bounded=True):
            return True
        case _:
            return False
