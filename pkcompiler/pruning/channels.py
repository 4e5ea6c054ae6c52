"""``structure = channel``: whole units go, with everything that is coupled to them (docs/channels.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.pruning.candidates import Candidates
from pkcompiler.structure import Coupling, group_scores, kept_of, masks_of, removal_order

Masks = dict[str, Tensor]


def coupled_parameters(found: Coupling) -> tuple[str, ...]:
    """The parameters with entries in a group: weights, biases, gains."""
    return tuple(dict.fromkeys(a.slot for a in found.axes if a.role == "parameter" and bool((a.units >= 0).any())))


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """The groups that may go, the first to go first, and what stays before any of them does."""

    coupling: Coupling
    found: Candidates
    before: Mapping[str, Tensor]
    kept: Tensor  # [groups]
    order: Tensor

    def masks(self, count: int) -> Masks:
        """The masks of all candidates after the first ``count`` groups have gone."""
        left = self.kept.clone()
        left[self.order[:count]] = False
        made = masks_of(self.coupling, left)
        out: Masks = {}
        for name, shape in self.found.shapes.items():
            mask = made[name] if name in made else torch.ones(shape, dtype=torch.bool)
            out[name] = mask & self.before[name].cpu().bool() if name in self.before else mask
        return out


def removal(
    coupling: Coupling, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], found: Candidates, order: str = "largest"
) -> Removal:
    """The order in which groups go: by the sum of the scores of what makes their units, smallest first (``order``: which are kept).

    Groups with an entry in a protected parameter stay. Every layer keeps a group.
    """
    own = {n: masks[n] for n in found.sizes if n in masks}
    kept = kept_of(coupling, own)
    totals = group_scores(coupling, {n: scores[n] for n in found.competing if n in scores}, masks=own)
    stays = torch.tensor([any(m.parameter in found.protected for m in g.members) for g in coupling.groups], dtype=torch.bool)
    ranked = removal_order(coupling, -totals if order == "smallest" else totals, kept, stays)
    return Removal(coupling, found, own, kept, ranked)


def fewest(found: Removal, reached: Callable[[Masks], bool]) -> Masks:
    """The masks after as few groups have gone as it takes; after all that may, where even they are too few."""
    low, high = 0, len(found.order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(found.masks(middle)) else (middle + 1, high)
    return found.masks(low)
