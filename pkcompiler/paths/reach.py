"""Reachability under a mask: the sweep with 0 and 1 in place of sums (docs/theory.md, sections 1 and 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pkcompiler.ir.maps import Conv, Dense, Frozen, Gate, Normalise, Product, Scale, Softmax, Source
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import values
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
    changing the function, except what a frozen factor alone reads: of that the graph does not tell (see :class:`Fed`).

    ``as_function``: what is constant as a function passes nothing on, though paths cross it (a softmax over one position, the
    centring of one entry), and a gate that is flat near 0 alone does, though none does.
    """

    def __init__(
        self, graph: PathGraph, tensors: Mapping[str, Tensor], *, batch: int = 1, constants: str = "on", as_function: bool = False
    ) -> None:
        self.as_function = as_function
        chosen = settings(edge="1", pools="sum", constants=constants, dtype=torch.float32)
        super().__init__(graph, tensors, chosen, batch=batch, arithmetic=Boolean(), device="cpu")

    def apply(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """One operation; softmaxes, frozen factors and normalisations pass on what their function depends on."""
        match op.map:
            case Softmax():
                dim = op.map.dim - inputs[0].tensor.dim()
                allowed = self._allowed(op.map, inputs[0].tensor.shape)
                row = (allowed * inputs[0].tensor).sum(dim, keepdim=True)
                if self.as_function:
                    row = row * (allowed.sum(dim, keepdim=True) > 1)
                return Scaled(allowed * (self.constant + row))
            case Gate(gain=0.0, gain_exact=False) if self.as_function:
                return super().apply(replace(op, map=replace(op.map, gain=1.0)), inputs, edges)
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
        entries = _grouped(map, x.tensor)
        group = entries.sum(axes, keepdim=True)
        if map.kind == "rms":
            mixed = entries + _grouped(map, own.tensor) * group
        else:
            mixed = group.expand_as(entries) * float(entries.numel() > group.numel() or not self.as_function)
        return self.arithmetic.settle(Scaled(mixed.reshape(x.tensor.shape)))


def _grouped(map: Normalise, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], map.groups, -1) if map.kind == "group" else x


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """What paths reach: 0 and 1, differentiable by the edges. ``sources``: by input. ``any``, ``fed``: of the output, from any
    source and from an input. ``watched``: the same of every value that something frozen is computed from."""

    sources: dict[str, Tensor]
    any: Tensor
    fed: Tensor
    watched: tuple[tuple[Tensor, Tensor], ...] = ()


class Fed:
    """What a path from an input of the graph reaches (biases, values and constants feed nothing), beside what any path reaches.

    A path through a product of activations is a pair; one of the two begins at an input, the other where it likes.
    ``watched``: the values that frozen factors are computed from (``Capture.watched``); the function depends on them.
    """

    def __init__(
        self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int = 1, watched: frozenset[str] = frozenset()
    ) -> None:
        self.graph, self.batch, self.watched = graph, batch, watched
        self.any = Reach(graph, tensors, batch=batch, as_function=True)
        self.input = Reach(graph, tensors, batch=batch, constants="off", as_function=True)

    def run(self, edges: Mapping[str, Tensor]) -> Reached:
        """One walk over the graph."""
        edges = self.any.with_computed(edges)
        sources = self.sources()
        found = dict[str, tuple[Tensor, Tensor]]()
        walked = values(self.graph, lambda value: (Scaled(sources[value.name]),) * 2, lambda op, read: self.step(op, read, edges))
        for name, (full, fed) in walked:
            if name in self.watched or name in self.graph.outputs:
                found[name] = full.tensor, fed.tensor
        return Reached(sources, *found[self.graph.outputs[0]], tuple(found[name] for name in found if name in self.watched))

    def sources(self) -> dict[str, Tensor]:
        """The inputs of the graph."""
        return {n: t.requires_grad_() for n, t in unit_sources(self.graph, self.batch, self.any.settings.dtype).items()}

    def step(self, op: Op, inputs: Sequence[tuple[Scaled, Scaled]], edges: Mapping[str, Tensor]) -> tuple[Scaled, Scaled]:
        """One operation: what is reached from any source, and from an input."""
        full = self.any.step(op, [x for x, _ in inputs], edges)
        return full, self.any.settled(op, self._from_input(op, inputs, edges))

    def _from_input(self, op: Op, inputs: Sequence[tuple[Scaled, Scaled]], edges: Mapping[str, Tensor]) -> Scaled:
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


def lit(ends: Iterable[Tensor], wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """For each tensor: which of its entries a path to one of the ends crosses or begins at (boolean)."""
    total = sum((end.sum() for end in ends), start=torch.zeros(()))
    if not total.requires_grad or not wanted:
        return {name: torch.zeros_like(t, dtype=torch.bool) for name, t in wanted.items()}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True, retain_graph=True)
    pairs = zip(wanted.items(), grads, strict=True)
    return {name: torch.zeros_like(t, dtype=torch.bool) if g is None else g > 0 for (name, t), g in pairs}
