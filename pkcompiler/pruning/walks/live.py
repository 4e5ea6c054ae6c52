"""Where a walk may go: the entries that an input reaches, and from which an output can still be reached.

An entry is one element of a value of the graph (a channel at a position). A hop never leads to where no path goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.analysis.arithmetic import Boolean
from pkcompiler.analysis.reach import Reach, without_bias
from pkcompiler.analysis.reindex import apply_reindex
from pkcompiler.analysis.scaled import Scaled
from pkcompiler.analysis.semiring import settings
from pkcompiler.analysis.sources import unit_sources
from pkcompiler.analysis.sweep import Sweep
from pkcompiler.ir.maps import Constant, Conv, Dense, Embed, Frozen, Named, Product, Reindex, Source
from pkcompiler.ir.types import Op, PathGraph

Bits = np.ndarray
Ints = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What of a parameter a value holds: the flat index of every entry, -1 for none."""

    slot: str
    index: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """Flat boolean arrays over the entries of every value, ``batch`` samples at once.

    ``fed``: an input reaches the entry. ``free``: of factors of products, it is not 0 even where every weight that walks hop along
    is removed (a bias, a softmax, a sigmoid). ``uses``: by operation and input position, an output is reached through this use.
    ``ends``: through any use. ``closing``: of every parameter that walks hop along, the entries that join such entries, of
    positive weight or not; ``reachable``: those of positive weight, which lie on a path. ``stored``: values that are a parameter,
    moved about.
    """

    batch: int
    shapes: dict[str, tuple[int, ...]]
    fed: dict[str, Bits]
    free: dict[str, Bits]
    uses: dict[tuple[int, int], Bits]
    ends: dict[str, Bits]
    closing: dict[str, Bits]
    reachable: dict[str, Bits]
    stored: dict[str, Stored]


def crossed(graph: PathGraph) -> frozenset[str]:
    """The parameters along which a walk chooses its way: those of dense, convolution and embedding operations, and factors of
    products."""
    found = {op.map.weight for op in graph.ops if isinstance(op.map, Dense | Conv | Embed)}
    made = _stored(graph, {}, 1)
    for op in graph.ops:
        if isinstance(op.map, Product):
            found |= {made[name] for name in op.inputs if name in made}
    return frozenset(found & {s.name for s in graph.parameters})


def _stored(graph: PathGraph, tensors: Mapping[str, Tensor], batch: int) -> dict[str, str]:
    """The values that are a parameter moved about, with its name."""
    parameters = {s.name for s in graph.parameters}
    made: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op.map, Source) and isinstance(op.map.value, Named) and op.map.value.slot in parameters:
            made[op.name] = op.map.value.slot
        elif isinstance(op.map, Reindex | Constant) and len(op.inputs) == 1 and op.inputs[0] in made and _moves(op):
            made[op.name] = made[op.inputs[0]]
    return made


def _moves(op: Op) -> bool:
    return not isinstance(op.map, Reindex) or op.map.fn not in ("sum", "cumsum", "cat")


def live(
    graph: PathGraph, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], batch: int
) -> Live:
    """The entries between inputs and outputs along edges of positive weight (``weights`` already times the mask)."""
    return _Pass(graph, tensors, weights, masks, batch).run()


class _Pass:
    """One sweep of zeros and ones, its derivatives at every use, and one sweep without the weights that walks hop along."""

    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        batch: int,
    ) -> None:
        self.graph, self.tensors, self.batch = graph, {n: t.detach().cpu() for n, t in tensors.items()}, batch
        chosen = settings(edge="1", pools="sum", dtype=torch.float32)
        self.plain = Sweep(graph, self.tensors, chosen, batch=batch, arithmetic=Boolean())
        self.reach = Reach(graph, self.tensors, batch=batch)
        self.hopped = crossed(graph)
        kept = {**{n: m.cpu() for n, m in masks.items()}, **{n: (weights[n] > 0).cpu() for n in self.hopped}}
        self.edges = {n: e.requires_grad_(n in self.hopped) for n, e in self.plain.edges(kept).items()}
        choosing = {op.map.weight for op in graph.ops if isinstance(op.map, Dense | Conv | Embed)}
        self.bare = {n: torch.zeros_like(e) if n in choosing else e.detach() for n, e in self.edges.items()}

    def run(self) -> Live:
        sources = {n: t.requires_grad_() for n, t in unit_sources(self.graph, self.batch, torch.float32).items()}
        free = self._free(sources)
        values: dict[str, Tensor] = dict(sources)
        uses: dict[Any, Tensor] = {}
        for i, op in enumerate(self.graph.ops):
            for position, name in enumerate(op.inputs):
                uses[i, position] = values[name].view_as(values[name])
            made = self._fed(op, [uses[i, p] for p in range(len(op.inputs))], [free.get(name) for name in op.inputs])
            values[op.name] = self.plain.arithmetic.settle(Scaled(made)).tensor
        output = self.graph.outputs[0]
        weights = {n: self.edges[n] for n in sorted(self.hopped)}
        found = self._derivatives(values[output], {**uses, **weights})
        ends = {name: np.zeros(t.numel(), dtype=bool) for name, t in values.items()}
        ends[output] = _bits(values[output])
        for (i, position), name in ((key, self.graph.ops[key[0]].inputs[key[1]]) for key in uses):
            ends[name] |= found[i, position]
        return Live(
            self.batch,
            {name: tuple(t.shape) for name, t in values.items()},
            {name: _bits(t) for name, t in values.items()},
            {name: _bits(t) for name, t in free.items()},
            {key: found[key] for key in uses},
            ends,
            {n: found[n] for n in weights},
            {n: found[n] & _bits(w) for n, w in weights.items()},
            self._indices(),
        )

    def _free(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The factors of products that no weight makes."""
        factors = {name for op in self.graph.ops if isinstance(op.map, Product) for name in op.inputs}
        if not factors:
            return {}
        values = {name: Scaled(torch.zeros_like(t)) for name, t in sources.items()}
        with torch.no_grad():
            for op in self.graph.ops:
                made = self.reach.apply(op, [values[name] for name in op.inputs], self.bare)
                values[op.name] = self.plain.arithmetic.settle(made)
        return {name: values[name].tensor for name in factors}

    def _fed(self, op: Op, inputs: list[Tensor], free: list[Tensor | None]) -> Tensor:
        if isinstance(op.map, Source | Frozen):
            return torch.zeros_like(self.plain.apply(op, [Scaled(x) for x in inputs], self.edges).tensor)
        if isinstance(op.map, Product):
            (left, right), (calm, still) = inputs, free
            assert calm is not None and still is not None
            one = self.plain.apply(op, [Scaled(left), Scaled(right + still)], self.edges)
            other = self.plain.apply(op, [Scaled(left + calm), Scaled(right)], self.edges)
            return one.tensor + other.tensor
        return self.plain.apply(without_bias(op), [Scaled(x) for x in inputs], self.edges).tensor

    def _derivatives(self, output: Tensor, wanted: Mapping[Any, Tensor]) -> dict[Any, Bits]:
        """Which entries of each tensor a path to the output crosses."""
        asked = {key: t for key, t in wanted.items() if t.requires_grad}
        grads = torch.autograd.grad(output.sum(), list(asked.values()), allow_unused=True) if output.requires_grad else []
        found: dict[Any, Bits] = {key: np.zeros(t.numel(), dtype=bool) for key, t in wanted.items()}
        for key, grad in zip(asked, grads, strict=False):
            if grad is not None:
                found[key] = _bits(grad) & (_bits(asked[key]) if isinstance(key, tuple) else True)
        return found

    def _indices(self) -> dict[str, Stored]:
        """The flat index in its parameter of every entry of a value that is one moved about."""
        made = _stored(self.graph, self.tensors, self.batch)
        factors = {name for op in self.graph.ops if isinstance(op.map, Product) for name in op.inputs}
        if not factors & set(made):
            return {}
        held: dict[str, Tensor] = {}
        for op in self.graph.ops:
            if op.name not in made:
                continue
            if isinstance(op.map, Source):
                slot = self.tensors[made[op.name]]
                held[op.name] = torch.arange(1, slot.numel() + 1, dtype=torch.float64).reshape(slot.shape)
            elif isinstance(op.map, Reindex):
                held[op.name] = apply_reindex(op.map, [held[op.inputs[0]]], self.batch, self.tensors)
            else:
                held[op.name] = held[op.inputs[0]]
        return {n: Stored(made[n], held[n].numpy().reshape(-1).astype(np.int64) - 1) for n in held if n in factors}


def _bits(tensor: Tensor) -> Bits:
    return (tensor.detach() > 0).numpy().reshape(-1)
