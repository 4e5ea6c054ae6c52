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

from pkcompiler.ir.graphs import data_dependent, factors
from pkcompiler.ir.maps import Frozen, Product, Reindex, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import values
from pkcompiler.ir.weights import carried, joinings, multiplied
from pkcompiler.paths.exponents import Boolean
from pkcompiler.paths.reach import Reach, without_bias
from pkcompiler.paths.reindex import apply_reindex
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep

Bits = np.ndarray
Ints = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What of a parameter a value holds: the flat indices that every entry is the sum of [entries, most], -1 for none."""

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
    return multiplied(graph.ops) & {s.name for s in graph.parameters}


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
        on_data = data_dependent(graph)
        choosing = {map.weight for op, map in joinings(graph.ops) if op.inputs[0] in on_data}
        self.bare = {n: torch.zeros_like(e) if n in choosing else e.detach() for n, e in self.edges.items()}

    def run(self) -> Live:
        sources = {n: t.requires_grad_() for n, t in unit_sources(self.graph, self.batch, torch.float32).items()}
        free = self._free(sources)
        beside: dict[str, Tensor] = {**free, **self._held()}
        number = {op.name: i for i, op in enumerate(self.graph.ops)}
        uses: dict[Any, Tensor] = {}

        def step(op: Op, inputs: list[Tensor]) -> Tensor:
            read = [x.view_as(x) for x in inputs]
            uses.update(((number[op.name], position), x) for position, x in enumerate(read))
            made = self._fed(op, read, [beside.get(name) for name in op.inputs])
            return self.plain.arithmetic.settle(Scaled(made)).tensor

        fed = dict(values(self.graph, lambda value: sources[value.name], step))
        output = self.graph.outputs[0]
        weights = {n: self.edges[n] for n in sorted(self.hopped)}
        found = self._derivatives(fed[output], {**uses, **weights})
        ends = {name: np.zeros(t.numel(), dtype=bool) for name, t in fed.items()}
        ends[output] = _bits(fed[output])
        for (i, position), name in ((key, self.graph.ops[key[0]].inputs[key[1]]) for key in uses):
            ends[name] |= found[i, position]
        return Live(
            self.batch,
            {name: tuple(t.shape) for name, t in fed.items()},
            {name: _bits(t) for name, t in fed.items()},
            {name: _bits(t) for name, t in free.items()},
            {key: found[key] for key in uses},
            ends,
            {n: found[n] for n in weights},
            {n: found[n] & _bits(w) for n, w in weights.items()},
            self._indices(),
        )

    def _free(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The factors of products that no weight makes."""
        wanted = factors(self.graph)
        if not wanted:
            return {}

        def step(op: Op, inputs: list[Tensor]) -> Tensor:
            made = self.reach.apply(op, [Scaled(x) for x in inputs], self.bare)
            return self.plain.arithmetic.settle(made).tensor

        with torch.no_grad():
            walked = values(self.graph, lambda value: torch.zeros_like(sources[value.name]), step)
            return {name: value for name, value in walked if name in wanted}

    def _held(self) -> dict[str, Tensor]:
        """The values that are a parameter that walks hop along, as functions of its edges."""
        made = carried(self.graph.ops)

        def step(op: Op, read: list[Any]) -> Scaled | None:
            if made.get(op.name) not in self.hopped:
                return None
            return self.plain.arithmetic.settle(self.plain.apply(op, read, self.edges))

        walked = values(self.graph, lambda _: None, step)
        return {name: value.tensor for name, value in walked if value is not None}

    def _fed(self, op: Op, inputs: list[Tensor], free: list[Tensor | None]) -> Tensor:
        match op.map:
            case Source() | Frozen():
                return torch.zeros_like(self.plain.apply(op, [Scaled(x) for x in inputs], self.edges).tensor)
            case Product():
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
        """The flat indices in its parameter of every entry of a value that is one moved about or summed."""
        made = {n: slot for n, slot in carried(self.graph.ops).items() if slot in self.hopped}
        wanted = factors(self.graph)
        if not wanted & set(made):
            return {}

        def step(op: Op, read: list[Any]) -> Tensor | None:
            match op.map:
                case Source() if op.name in made:
                    slot = self.tensors[made[op.name]]
                    return torch.arange(1, slot.numel() + 1, dtype=torch.float64).reshape(*slot.shape, 1)
                case Reindex() if op.name in made:
                    return _moved(op.map, read[0], self.batch, self.tensors)
            return read[0] if op.name in made else None

        tables = ((n, table) for n, table in values(self.graph, lambda _: None, step) if table is not None and n in wanted)
        return {n: Stored(made[n], table.flatten(0, -2).numpy().astype(np.int64) - 1) for n, table in tables}


def _moved(map: Reindex, table: Tensor, batch: int, slots: Mapping[str, Tensor]) -> Tensor:
    """A table of indices from 1 on [..., most] behind a reindexing: sums lay end to end what they sum, 0 stands for nothing."""
    args: dict[str, Any] = dict(map.args)
    rank = table.dim() - 1
    if map.fn == "cumsum":
        dim = args["dim"] % rank
        size = table.shape[dim]
        ones = torch.ones(size, size, dtype=table.dtype).tril()
        return (table.movedim(dim, -2).unsqueeze(-3) * ones.unsqueeze(-1)).flatten(-2).movedim(-2, dim)
    if map.fn == "sum":
        dims = [d % rank for d in args["dims"]] if args["dims"] else list(range(rank))
        summed = table.movedim(dims, list(range(-1 - len(dims), -1))).flatten(-1 - len(dims))
        shape = [1 if d in dims else n for d, n in enumerate(table.shape[:-1])]
        return summed.reshape(*shape, -1) if args["keepdim"] else summed
    return torch.stack([apply_reindex(map, [part], batch, slots) for part in table.unbind(-1)], -1)


def _bits(tensor: Tensor) -> Bits:
    return (tensor.detach() > 0).numpy().reshape(-1)
