"""How many parameters a path from an input to the output crosses: the shortest and the longest, over the operations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import assert_never

from pkcompiler.ir import maps
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Named
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import forward

Span = tuple[int, int] | None
"""The shortest and the longest length; None where there is no path."""

SEPARATING = frozenset({"cat", "slice", "select", "index", "pad", "diagonal", "unfold"})
"""Reindexings behind which the entries of one value need not have the same lengths."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """``shortest`` and ``longest`` number of parameters crossed (a gain or an embedding counts as a weight does; None: no path).

    Found over operations, not over single entries, so that no path is shorter or longer. ``status`` is ``exact`` where the mask
    keeps everything and no slice or concatenation tells entries apart, or where both are equal and some path is left (the caller
    knows); otherwise ``bound``.
    """

    shortest: int | None
    longest: int | None
    status: str


@dataclass(frozen=True, slots=True)
class _Reached:
    """The lengths of the paths from any source, and from an input (of a pair: one of the two begins at an input)."""

    any: Span
    fed: Span


def path_lengths(graph: PathGraph, alive: Collection[str], *, whole: bool) -> Lengths:
    """``alive``: the slots with an effective entry; operations whose parameter is not among them pass nothing on.

    ``whole``: no mask drops anything. A path through a product is a pair, and its length is the sum of both
    (docs/theory.md, section 1). A computed weight counts once.
    """
    computed = {s.name for s in graph.computed if any(part in alive for part in s.of)}
    counting = _Counting(frozenset(s.name for s in (*graph.parameters, *graph.computed)), computed | set(alive))
    found = forward(graph, lambda _: _Reached((0, 0), (0, 0)), counting.apply)[0].fed
    separated = any(map.fn in SEPARATING for map in maps_of(graph, maps.Reindex).values())
    equal = found is not None and found[0] == found[1] and not maps_of(graph, maps.Softmax)
    status = "exact" if equal or (whole and not separated) else "bound"
    return Lengths(None, None, status) if found is None else Lengths(*found, status)


@dataclass(frozen=True, slots=True)
class _Counting:
    parameters: frozenset[str]
    alive: Collection[str]

    def apply(self, op: Op, inputs: list[_Reached]) -> _Reached:
        match op.map:
            case maps.Dense(weight, bias) | maps.Conv(weight, bias):
                return self._affine(inputs[0], weight, bias)
            case maps.Embed(weight):
                return self._affine(inputs[0], weight, None)
            case maps.Scale(weight, bias):
                x = inputs[0] if op.map.center is None else _Reached(_hull(inputs[0].any, (0, 0)), inputs[0].fed)
                return self._affine(x, weight, bias)
            case maps.Normalise(weight=weight, bias=bias):
                return self._affine(inputs[0], weight, bias)
            case maps.Source(Named(slot)):
                return _Reached(self._beginning(slot), None)
            case maps.Source() | maps.Frozen():
                return _Reached((0, 0), None)
            case maps.Gate(zero=zero):
                return _Reached(_hull(inputs[0].any, (0, 0)), inputs[0].fed) if zero else inputs[0]
            case maps.Product():
                left, right = inputs
                fed = _hull(_sum(left.fed, right.any), _sum(left.any, right.fed))
                return _Reached(_sum(left.any, right.any), fed)
            case maps.Merge() | maps.Reindex():
                return _Reached(_hull(*(x.any for x in inputs)), _hull(*(x.fed for x in inputs)))
            case maps.Constant() | maps.Resample() | maps.Window() | maps.Softmax():
                return inputs[0]
            case _:
                assert_never(op.map)

    def _affine(self, x: _Reached, weight: str | None, bias: str | None) -> _Reached:
        step = None if weight is None else self._beginning(weight)
        through = x if weight is None else _Reached(_sum(x.any, step), _sum(x.fed, step))
        return through if bias is None else _Reached(_hull(through.any, self._beginning(bias)), through.fed)

    def _beginning(self, slot: str) -> Span:
        if slot not in self.parameters:
            return (0, 0)
        return (1, 1) if slot in self.alive else None


def _sum(left: Span, right: Span) -> Span:
    return None if left is None or right is None else (left[0] + right[0], left[1] + right[1])


def _hull(*spans: Span) -> Span:
    found = [span for span in spans if span is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None
