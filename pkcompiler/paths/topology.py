"""What a mask leaves: effective weights and units, and whether a path is left at all (docs/theory.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.ir.weights import Joining, bias_of, joinings, multiplied, stored_weights
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.reach import Fed, Reached, lit
from pkcompiler.paths.reindex import by_unit
from pkcompiler.paths.sources import check_masks


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Boolean tensors by parameter name, each in the parameter's shape and a part of the mask.

    ``effective``: the entry lies on a path from a source (an input, a bias, a value, a constant) to an output. ``fed``: on one
    from an input; an effective unit that is not fed is a constant. ``inputs``: by graph input, the entries that reach an output (of
    an integer input, a position and a row). ``outputs``: the entries of the output that an input reaches.
    """

    effective: dict[str, Tensor]
    fed: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: Tensor

    @property
    def connected(self) -> bool:
        """Whether some output still depends on some input."""
        return bool(self.outputs.any())


@in_own_modes
def topology(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    watched: frozenset[str] = frozenset(),
) -> Topology:
    """The entries that matter under ``masks`` (boolean, by parameter name; a missing one keeps everything).

    Values play no part: a weight that is 0 and kept counts. ``watched``: the values and parameters that recorded factors are
    computed from (``Capture.watched``); what they depend on is effective. Zeroing what is not leaves the function as it is, if
    they are given. Raises ``PKC401`` for masks that do not fit.
    """
    found, edges = _reached(graph, tensors, masks, watched)
    effective = lit([found.any, *(full for full, _ in found.watched)], edges)
    on_input_path = lit([found.fed, *(fed for _, fed in found.watched)], edges | found.sources)
    for name in watched & edges.keys():
        effective[name] |= True
    return Topology(
        {name: effective[name] & (edge.detach() > 0) for name, edge in edges.items()},
        {name: on_input_path[name] & (edge.detach() > 0) for name, edge in edges.items()},
        {name: on_input_path[name] for name in found.sources},
        found.fed.detach() > 0,
    )


def has_path(
    graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, *, sources: str = "inputs"
) -> bool:
    """Whether a path to an output is left. ``sources``: ``inputs`` (False: the layers have collapsed, the network is a constant),
    or ``any`` (biases, values and constants are sources too)."""
    with torch.no_grad():
        found, _ = _reached(graph, tensors, masks)
    return bool((found.fed if sources == "inputs" else found.any).any())


def _reached(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None,
    watched: frozenset[str] = frozenset(),
) -> tuple[Reached, dict[str, Tensor]]:
    check_masks(graph, masks)
    fed = Fed(graph, tensors, static_batch(graph), watched)
    edges = {name: edge.requires_grad_() for name, edge in fed.any.edges(masks).items()}
    return fed.run(edges), edges


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation with a weight, and what a mask leaves of it. A unit is an output channel, neuron or column.

    ``alive``: units with a fed entry. ``constant``: effective units (bias included) that no input feeds. The other ``units`` are
    dead. ``entries``, ``kept``, ``effective``, ``fed``: of the weight.
    """

    op: str
    weight: str
    units: int
    alive: int
    constant: int
    entries: int
    kept: int
    effective: int
    fed: int

    @property
    def dead(self) -> int:
        """Units that no source reaches, or that lead to no output."""
        return self.units - self.alive - self.constant

    @property
    def collapsed(self) -> bool:
        """Whether no unit is alive: no path from an input crosses the weight."""
        return self.alive == 0

    @property
    def at_risk(self) -> bool:
        """Fed units are at most 1 in 20, or only one is left of several; or as few weights lead from the input."""
        few = self.alive * RISK <= self.units or (self.alive == 1 < self.units) or (self.fed == 1 < self.entries)
        return few and not self.collapsed and self.kept < self.entries


RISK = 20


def layers(graph: PathGraph, found: Topology, masks: Mapping[str, Tensor] | None = None) -> tuple[Layer, ...]:
    """Every dense, convolution or embedding operation in order (a weight that several read: each of them)."""
    stored = stored_weights(graph)
    return tuple(_layer(op, map, stored[map.weight], found, masks or {}) for op, map in joinings(graph.ops) if map.weight in stored)


def _layer(op: Op, map: Joining, weight: str, found: Topology, masks: Mapping[str, Tensor]) -> Layer:
    effective, fed = found.effective[weight], found.fed[weight]
    alive = by_unit(map, fed).any(1)
    working = by_unit(map, effective).any(1)
    bias = found.effective.get(bias_of(map) or "")
    working = working if bias is None else working | bias
    kept = int(masks[weight].sum()) if weight in masks else effective.numel()
    constant = int((working & ~alive).sum())
    return Layer(
        op.name,
        weight,
        alive.numel(),
        int(alive.sum()),
        constant,
        effective.numel(),
        kept,
        int(effective.sum()),
        int(fed.sum()),
    )


def units(graph: PathGraph, name: str, entries: Tensor) -> Tensor:
    """Which output units of a parameter have one of ``entries`` (boolean); every entry of a gain, bias or value is a unit."""
    for _, map in joinings(graph.ops):
        if map.weight == name:
            return by_unit(map, entries).any(1)
    return entries.flatten()


def crossed(graph: PathGraph) -> frozenset[str]:
    """The parameters that paths cross as factors, gains among them (not only begin at, as at a bias)."""
    found = multiplied(graph.ops) | {use.slot for op in graph.ops for use in uses(op.map) if use.part == "weight"}
    return frozenset(found & {slot.name for slot in graph.parameters})
