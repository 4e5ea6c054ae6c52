"""The loops over a graph: forward, every value from those that its operation reads; back, every value from what its readers say;
and depth first from some nodes of any graph.

A reader of graphs brings the rule of one operation (its own exhaustive ``match``) and keeps no values of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from pkcompiler.ir.types import Op, PathGraph, Value

V = TypeVar("V")
N = TypeVar("N", bound=Hashable)


def reached(starts: Iterable[N], further: Callable[[N], Iterable[N]]) -> Iterator[N]:
    """Every node that the starts lead to, themselves included, each once and depth first; ``further``: where a node leads."""
    stack, seen = list(starts), set[N]()
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            yield here
            stack.extend(further(here))


def values(graph: PathGraph, start: Callable[[Value], V], rule: Callable[[Op, list[V]], V]) -> Iterator[tuple[str, V]]:
    """Every value with its name, in order, the inputs (``start``) first; ``rule(op, what it reads)`` makes the others.

    Each is let go after the last operation that reads it; outputs are held.
    """
    held = {value.name: start(value) for value in graph.inputs}
    yield from tuple(held.items())
    last = last_uses(graph)
    for i, op in enumerate(graph.ops):
        held[op.name] = rule(op, [held[name] for name in op.inputs])
        yield op.name, held[op.name]
        for name in last.get(i, ()):
            del held[name]


def forward(graph: PathGraph, start: Callable[[Value], V], rule: Callable[[Op, list[V]], V]) -> tuple[V, ...]:
    """The values of the outputs, in their order (see :func:`values`)."""
    found = {name: value for name, value in values(graph, start, rule) if name in graph.outputs}
    return tuple(found[name] for name in graph.outputs)


def marked(graph: PathGraph, start: Callable[[Value], bool], rule: Callable[[Op, list[bool]], bool]) -> frozenset[str]:
    """The values of which ``start`` or ``rule`` says yes."""
    return frozenset(name for name, yes in values(graph, start, rule) if yes)


def back(
    graph: PathGraph,
    end: V,
    join: Callable[[str, list[V]], V],
    rule: Callable[[Op, V], Iterable[V | None]],
) -> Iterator[tuple[str, V]]:
    """Every value with its name, from the last one back, the inputs at the end: what all that was said of it joins to.

    ``rule(op, its result)`` says something of each value that the operation reads, in order (None: nothing), after its result has
    been given out; of an output ``end`` is said first.
    """
    said: dict[str, list[V]] = {name: [end] for name in graph.outputs}
    for op in reversed(graph.ops):
        value = join(op.name, said.pop(op.name, []))
        yield op.name, value
        for name, word in zip(op.inputs, rule(op, value), strict=True):
            if word is not None:
                said.setdefault(name, []).append(word)
    for given in graph.inputs:
        yield given.name, join(given.name, said.get(given.name, []))


def last_uses(graph: PathGraph) -> dict[int, list[str]]:
    """After which operation (by position) each value is needed no more; outputs are needed always."""
    last = {name: i for i, op in enumerate(graph.ops) for name in op.inputs}
    out: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in graph.outputs:
            out.setdefault(i, []).append(name)
    return out
