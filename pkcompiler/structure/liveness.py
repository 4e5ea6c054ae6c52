"""What masks leave of every unit: whether anything comes to it, and whether anything depends on it (docs/theory.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.ir.maps import Frozen
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import values
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.exponents import Boolean
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.reach import Fed, lit
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import plain_masks, unit_sources
from pkcompiler.paths.sweep import Sweep


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """Boolean tensors, one entry each for the entries of a value or of a parameter.

    ``fed``: it depends on an input. ``constant``: on constant sources alone (a bias, the shift or the centre of a BatchNorm, a
    gate with phi(0) != 0, a stored value, a number); what is neither is exactly 0. Of a parameter: kept, and on a path to an
    output from an input, or from constant sources alone.
    ``on_path``: it lies on a path from a source to an output.
    ``reaches``: changing it may change an output (of a parameter, where its mask is 0 too). What is read without a path counts: by
    the statistics of a norm, by a softmax, by what is frozen at the data.
    """

    fed: Tensor
    constant: Tensor
    on_path: Tensor
    reaches: Tensor

    @property
    def nonzero(self) -> Tensor:
        """What is not exactly 0 whatever the weights are."""
        return self.fed | self.constant

    @property
    def needed(self) -> Tensor:
        """What is not 0 and matters: the rest can be set to 0, all of it at once, and no output changes."""
        return self.nonzero & self.reaches


@dataclass(frozen=True, slots=True, eq=False)
class Liveness:
    """The entries of one sample of every value (batch 1; of an integer input, those of every row that it may choose), and of every
    parameter, by name."""

    values: dict[str, Live]
    parameters: dict[str, Live]


@in_own_modes
def liveness(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    watched: frozenset[str] = frozenset(),
) -> Liveness:
    """What is left of every unit under ``masks`` (boolean, by parameter name; a missing one keeps everything).

    Values of parameters play no part: a weight that is 0 and kept counts. ``watched``: the values and parameters that recorded
    factors are computed from (``Capture.watched``). Raises ``PKC401`` for masks that do not fit.
    """
    kept = plain_masks(graph, masks)
    paths, functions = _paths(graph, tensors, kept), _functions(graph, tensors, kept, watched)
    return Liveness(
        {name: Live(*functions.values[name], paths.values[name], functions.reaches[name]) for name in functions.values},
        {name: Live(*functions.edges[name], paths.edges[name], functions.reached[name]) for name in functions.edges},
    )


class _Dependence(Fed):
    """What a value depends on: what is frozen at the data depends on it."""

    def _from_input(self, op: Op, inputs: Sequence[tuple[Scaled, Scaled]], edges: Mapping[str, Tensor]) -> Scaled:
        if isinstance(op.map, Frozen):
            return self.any.apply(op, [], edges)
        return super()._from_input(op, inputs, edges)


@dataclass(frozen=True, slots=True, eq=False)
class _Functions:
    """By value or parameter: fed and constant; and what reaches an output."""

    values: dict[str, tuple[Tensor, Tensor]]
    reaches: dict[str, Tensor]
    edges: dict[str, tuple[Tensor, Tensor]]
    reached: dict[str, Tensor]


def _functions(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], watched: frozenset[str]) -> _Functions:
    walk = _Dependence(graph, tensors, static_batch(graph), watched)
    leaves = {name: edge.requires_grad_() for name, edge in walk.any.edges(masks).items()}
    edges, sources = walk.any.with_computed(leaves), walk.sources()

    def step(op: Op, read: list[tuple[Scaled, Scaled]]) -> tuple[Scaled, Scaled]:
        full, fed = walk.step(op, read, edges)
        return _apart(full), fed

    found = dict(values(graph, lambda value: (_apart(Scaled(sources[value.name])),) * 2, step))
    ends = [found[name] for name in (*graph.outputs, *sorted(watched)) if name in found]
    after = _behind([full for full, _ in ends], {name: full for name, (full, _) in found.items()}, leaves)
    reached = {name: torch.ones_like(lit) if name in watched else lit for name, lit in after[1].items()}
    from_input = _behind([fed for _, fed in ends], {}, leaves)[1]
    return _Functions(
        {name: _told(full, fed.tensor.detach() > 0) for name, (full, fed) in found.items()},
        after[0],
        {name: _told(Scaled(edge * reached[name]), from_input[name] & (edge > 0)) for name, edge in leaves.items()},
        reached,
    )


def _told(full: Scaled, fed: Tensor) -> tuple[Tensor, Tensor]:
    return fed, (full.tensor.detach() > 0) & ~fed


@dataclass(frozen=True, slots=True, eq=False)
class _Paths:
    values: dict[str, Tensor]
    edges: dict[str, Tensor]


def _paths(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> _Paths:
    """What lies on a path, as unsigned functionals count them."""
    chosen, batch = settings(edge="1", pools="sum", constants="on", dtype=torch.float32), static_batch(graph)
    sweep = Sweep(graph, tensors, chosen, batch=batch, arithmetic=Boolean(), device="cpu")
    leaves = {name: edge.requires_grad_() for name, edge in sweep.edges(masks).items()}
    edges, sources = sweep.with_computed(leaves), unit_sources(graph, batch, torch.float32)
    walked = values(graph, lambda v: _apart(Scaled(sources[v.name])), lambda op, read: _apart(sweep.step(op, read, edges)))
    found = dict(walked)
    behind = _behind([found[name] for name in graph.outputs], found, leaves)
    return _Paths(
        {name: behind[0][name] & (value.tensor.detach() > 0) for name, value in found.items()},
        {name: behind[1][name] & (edge.detach() > 0) for name, edge in leaves.items()},
    )


def _apart(value: Scaled) -> Scaled:
    """A tensor of its own, so that a derivative by it is by this value alone."""
    tensor = value.tensor
    return Scaled(tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_(), value.exponent)


def _behind(
    ends: Sequence[Scaled], found: Mapping[str, Scaled], edges: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Which entries of values and of edges the ends depend on, by one walk back."""
    wanted = {f"%{name}": value.tensor for name, value in found.items()} | {f"@{name}": edge for name, edge in edges.items()}
    behind = lit([end.tensor for end in ends], wanted)
    return {name: behind[f"%{name}"] for name in found}, {name: behind[f"@{name}"] for name in edges}
