"""The units of a graph: what can be rescaled, what each parameter entry takes up of it, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.ir.types import PathGraph
from pkcompiler.rescaling.constraints import Constraints


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """``units`` units of the value ``name`` keep their scale, because of ``reason``."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Units 0 to count - 1 can be rescaled; index ``count`` stands for all that cannot.

    ``ends[name]``: for every parameter on a path the indices (target, origin) of its entries, broadcasting to its shape: the entry
    is multiplied by scale[target] / scale[origin]. ``groups[value]``: the indices of the units that a value brings in.
    """

    count: int
    ends: Mapping[str, tuple[Tensor, Tensor]]
    groups: Mapping[str, Tensor]
    left_alone: tuple[LeftAlone, ...]

    def spread(self, per_unit: Tensor) -> dict[str, Tensor]:
        """For a number [count] per unit, target minus origin for every parameter entry (broadcasting to its shape)."""
        padded = torch.cat([per_unit.double(), torch.zeros(1, dtype=torch.float64)])
        return {name: padded[target] - padded[origin] for name, (target, origin) in self.ends.items()}


def find_units(graph: PathGraph, tensors: Mapping[str, Tensor], batch: int = 1, watched: frozenset[str] = frozenset()) -> Units:
    """The units of a graph (see :class:`Constraints` for the arguments)."""
    found = Constraints(graph, {name: t.detach().cpu() for name, t in tensors.items()}, batch, watched)
    labels = found.labels
    every = torch.arange(labels.known)
    free = ~labels.is_pinned(every)
    carried = torch.zeros(labels.known, dtype=torch.bool)
    for use in found.uses.values():
        carried[labels.find(use.target)] = True
        carried[labels.find(use.origin)] = True
    roots = every[free & carried & (labels.find(every) == every)]
    index = torch.full((labels.known,), roots.numel())
    index[roots] = torch.arange(roots.numel())
    index = index[labels.find(every)]
    ends = {name: (index[use.target], index[use.origin]) for name, use in found.uses.items() if name in found.parameters}
    groups = {b.value: index[b.start : b.stop] for b in labels.blocks}
    brought = {name: part[part < roots.numel()] for name, part in groups.items()}
    return Units(roots.numel(), ends, {n: part for n, part in brought.items() if part.numel()}, _left_alone(found))


def _left_alone(found: Constraints) -> tuple[LeftAlone, ...]:
    labels = found.labels
    left = []
    for block in labels.blocks:
        reasons = [labels.reason(label) for label in range(block.start, block.stop)]
        left += [LeftAlone(block.value, reasons.count(why), why) for why in dict.fromkeys(reasons) if why]
    inputs = {v.name for v in found.graph.inputs}
    return tuple(item for item in left if item.name not in inputs)
