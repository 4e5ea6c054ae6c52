"""Reachability under a mask: the sweep with 0 and 1 in place of sums (docs/theory.md, sections 1 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pkcompiler.ir.maps import Conv, Dense, Frozen, Normalise, Product, Scale, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import forward
from pkcompiler.paths.exponents import Boolean
from pkcompiler.paths.reindex import concrete
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep


class Reach(Sweep):
    """Which entries a path reaches, constant sources included; every window passes all of its entries. On the CPU.

    Where a function depends on weights otherwise than through a path that open gates keep (the scores of a softmax, the
    centring and the deviation of a normalisation), dependence counts as a path. So what is not reached can be removed without
    changing the function, except what a frozen factor alone reads: of that the graph does not tell.
    """

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], *, batch: int = 1, constants: str = "on") -> None:
        chosen = settings(edge="1", pools="sum", constants=constants, dtype=torch.float32)
        super().__init__(graph, tensors, chosen, batch=batch, arithmetic=Boolean(), device="cpu")

    def apply(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """One operation; softmaxes, frozen factors and normalisations pass on what their function depends on."""
        match op.map:
            case Softmax():
                allowed = self._allowed(op.map, inputs[0].tensor.shape)
                row = (allowed * inputs[0].tensor).sum(op.map.dim - inputs[0].tensor.dim(), keepdim=True)
                return Scaled(allowed * (self.constant + row))
            case Frozen():
                shape = concrete(op.result.type.shape, self.batch)
                return Scaled(torch.full(shape, self.constant, dtype=self.settings.dtype, device=self.device))
            case Normalise():
                return super().apply(op, [self.mixed(op.map, inputs[0], inputs[0])], edges)
            case _:
                return super().apply(op, inputs, edges)

    @property
    def constant(self) -> float:
        """1 where constants are sources: what is frozen without data is never 0."""
        return float(self.settings.constants == "on")

    def mixed(self, map: Normalise, x: Scaled, own: Scaled) -> Scaled:
        """Centring connects all entries of a group; without it an entry needs itself (``own``), and depends on the others."""
        axes = [-1] if map.kind == "group" else list(range(-len(map.shape), 0))
        group = _grouped(map, x.tensor).sum(axes, keepdim=True)
        kept = _grouped(map, own.tensor) if map.kind == "rms" else torch.ones_like(_grouped(map, own.tensor))
        return self.arithmetic.settle(Scaled((kept * group).reshape(x.tensor.shape)))


def _grouped(map: Normalise, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], map.groups, -1) if map.kind == "group" else x


class Fed:
    """What a path from an input of the graph reaches (biases, values and constants feed nothing), beside what any path reaches.

    A path through a product of activations is a pair; one of the two begins at an input, the other where it likes.
    """

    def __init__(self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int = 1) -> None:
        self.graph, self.batch = graph, batch
        self.any = Reach(graph, tensors, batch=batch)
        self.input = Reach(graph, tensors, batch=batch, constants="off")

    def run(self, edges: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The sources; the output reached from any source, and from an input (0 and 1, differentiable by the edges)."""
        edges = self.any.with_computed(edges)
        sources = unit_sources(self.graph, self.batch, self.any.settings.dtype)
        sources = {name: t.requires_grad_() for name, t in sources.items()}

        def step(op: Op, inputs: list[tuple[Scaled, Scaled]]) -> tuple[Scaled, Scaled]:
            full = self.any.step(op, [x for x, _ in inputs], edges)
            return full, self.any.settled(op, self._from_input(op, inputs, edges))

        full, fed = forward(self.graph, lambda value: (Scaled(sources[value.name]),) * 2, step)[0]
        return sources, full.tensor, fed.tensor

    def _from_input(self, op: Op, inputs: list[tuple[Scaled, Scaled]], edges: Mapping[str, Tensor]) -> Scaled:
        match op.map:
            case Source():
                return Scaled(torch.zeros_like(self.any.apply(op, [], edges).tensor))
            case Product():
                (left, fed_left), (right, fed_right) = inputs
                one, other = self.input.apply(op, [fed_left, right], edges), self.input.apply(op, [left, fed_right], edges)
                return Scaled(one.tensor + other.tensor)
            case Normalise():
                mixed = self.input.mixed(op.map, inputs[0][1], inputs[0][0])
                return Sweep.apply(self.input, without_bias(op), [mixed], edges)
            case _:
                return self.input.apply(without_bias(op), [fed for _, fed in inputs], edges)


def without_bias(op: Op) -> Op:
    """The operation without the source that its bias is."""
    if isinstance(op.map, Dense | Conv | Scale | Normalise):
        return replace(op, map=replace(op.map, bias=None))
    return op


def lit(outputs: Tensor, wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """For each tensor: which of its entries a path to an output crosses or begins at (boolean)."""
    if not outputs.requires_grad or not wanted:
        return {name: torch.zeros_like(t, dtype=torch.bool) for name, t in wanted.items()}
    grads = torch.autograd.grad(outputs.sum(), list(wanted.values()), allow_unused=True, retain_graph=True)
    pairs = zip(wanted.items(), grads, strict=True)
    return {name: torch.zeros_like(t, dtype=torch.bool) if g is None else g > 0 for (name, t), g in pairs}
