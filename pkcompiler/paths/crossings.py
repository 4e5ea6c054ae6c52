"""Which parameters a path may cross more than once: those in series with themselves, and those under both factors of a product."""

from __future__ import annotations

from collections.abc import Set

from pkcompiler.ir.graphs import crossed_factors
from pkcompiler.ir.maps import Product
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.paths.semiring import Settings


def crossed_twice(graph: PathGraph, settings: Settings, among: Set[str]) -> tuple[str, ...]:
    """The slots of ``among`` that a path may cross more than once, in the order of the graph (an upper estimate by slot)."""
    crossed = crossed_factors(graph, settings.products, at_data=False)
    reach: dict[str, frozenset[str]] = {v.name: frozenset() for v in graph.inputs}
    twice: set[str] = set()
    for op in graph.ops:
        own = frozenset(u.slot for u in uses(op.map) if u.slot in among)
        before = [reach[name] for name in op.inputs]
        if op.name in crossed:
            before = [before[position] for position in crossed[op.name]]
        elif isinstance(op.map, Product):
            twice |= before[0] & before[1]
        reached = frozenset().union(*before)
        twice |= own & reached
        reach[op.name] = reached | own
    return tuple(s.name for s in graph.slots if s.name in twice)
