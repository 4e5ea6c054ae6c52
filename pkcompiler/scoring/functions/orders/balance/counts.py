"""How many paths from the inputs end at each entry of a value, operation by operation, under masks that are chosen on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.ir.graphs import makers
from pkcompiler.ir.maps import Frozen, Product, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import back, values
from pkcompiler.paths.reach import Reach, without_bias
from pkcompiler.paths.scaled import Scaled, aligned
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep

Edges = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Ending:
    """The paths that end at each entry: ``fed`` from an input, ``free`` from a bias, a value or a constant."""

    fed: Scaled
    free: Scaled


class Counts:
    """Counts in float64 with a carried exponent. A path through a product of activations is a pair, fed where one of the two is."""

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int) -> None:
        self.graph, self.batch = graph, batch
        held = {n: t.detach().cpu() for n, t in tensors.items()}
        self.plain = Sweep(graph, held, settings(edge="1", pools="sum", constants="off"), batch=batch)
        self.constant = _Constants(graph, held, settings(edge="1", pools="sum", constants="on"), batch=batch)

    def sources(self) -> dict[str, Ending]:
        """One path at every entry of the inputs."""
        found = unit_sources(self.graph, self.batch, torch.float64)
        return {n: Ending(Scaled(t), Scaled(torch.zeros_like(t))) for n, t in found.items()}

    def after(self, op: Op, inputs: Sequence[Ending], edges: Edges) -> Ending:
        """What ends at the result of an operation."""
        free = self.constant.apply(op, [x.free for x in inputs], edges)
        match op.map:
            case Source() | Frozen():
                fed = Scaled(torch.zeros_like(free.tensor))
            case Product():
                left, right = inputs
                one = self.plain.apply(op, [left.fed, _sum(right.fed, right.free)], edges)
                fed = _sum(one, self.plain.apply(op, [left.free, right.fed], edges))
            case _:
                fed = self.plain.apply(without_bias(op), [x.fed for x in inputs], edges)
        return Ending(self.plain.settled(op, fed), self.plain.settled(op, free))

    def through(self, op: Op, x: Ending, weight: str, leading: Tensor) -> Tensor:
        """How many paths cross each entry of the weight, whatever its mask, to entries of the result that lead on.

        Times a power of 2. They are paths from the inputs, or where none arrives, from anything.
        """
        ending = x.fed if bool(x.fed.tensor.any()) else x.free
        edge = torch.ones_like(self.plain.tensors[weight], dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            made = self.plain.apply(without_bias(op), [Scaled(ending.tensor)], {weight: edge})
            return torch.autograd.grad((made.tensor * leading).sum(), edge)[0]


class _Constants(Sweep):
    """Constants are sources, too, and a softmax is one: its output is above 0 whatever the scores are."""

    def apply(self, op: Op, inputs: list[Scaled], edges: Edges) -> Scaled:
        made = super().apply(op, inputs, edges)
        if not isinstance(op.map, Softmax):
            return made
        return _sum(made, super().apply(op, [Scaled(torch.ones_like(inputs[0].tensor))], edges))


def _sum(left: Scaled, right: Scaled) -> Scaled:
    tensors, exponent = aligned([left, right])
    return Scaled(tensors[0] + tensors[1], exponent)


class Leads:
    """Which entries a path leads on from, to the output: operation by operation from the last one, under masks that may change on
    the way."""

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int) -> None:
        self.graph, self.batch = graph, batch
        self.reach = Reach(graph, {n: t.detach().cpu() for n, t in tensors.items()}, batch=batch)

    def back(self, edges: dict[str, Tensor]) -> Iterator[tuple[Op, Tensor]]:
        """Each operation from the last one, and the entries of its result (0 and 1) from which a path leads on.

        ``edges``: 0 and 1 in float32; what is changed in them while an operation is looked at counts for those before it.
        """
        sources = unit_sources(self.graph, self.batch, torch.float32)
        reach, made = self.reach, makers(self.graph)
        held = dict(values(self.graph, reach.entering(sources), lambda op, inputs: reach.step(op, inputs, edges)))

        def added(name: str, parts: list[Tensor]) -> Tensor:
            return (sum(parts, torch.zeros_like(held[name].tensor)) > 0).float()

        def derived(op: Op, leads: Tensor) -> Sequence[Tensor | None]:
            inputs = [held[n].tensor.clone().requires_grad_() for n in op.inputs]
            with torch.enable_grad():
                result = reach.step(op, [Scaled(x) for x in inputs], edges).tensor
            if not inputs or not result.requires_grad:
                return [None] * len(inputs)
            return torch.autograd.grad(result, inputs, leads, allow_unused=True)

        end = torch.ones_like(held[self.graph.outputs[0]].tensor)
        yield from ((made[name], leads) for name, leads in back(self.graph, end, added, derived) if name in made)
