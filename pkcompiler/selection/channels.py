"""``structure = channel``: whole units go, with everything that is coupled to them (docs/channels.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.ir.types import PathGraph
from pkcompiler.selection.budget import most_that_fits
from pkcompiler.selection.candidates import Candidates
from pkcompiler.selection.quantity import Quantity
from pkcompiler.structure import Coupling, Left, group_scores, kept_of, masks_of, removal_order

Masks = dict[str, Tensor]


def coupled_parameters(found: Coupling) -> tuple[str, ...]:
    """The parameters with entries in a group: weights, biases, gains."""
    return tuple(dict.fromkeys(a.slot for a in found.axes if a.role == "parameter" and bool((a.units >= 0).any())))


def check_stored(found: Coupling, graph: PathGraph) -> None:
    """``PKC445`` where a weight with units that may go is computed from parameters: without some of them what is left of it is
    another weight."""
    made = {a.slot for a in found.axes if a.role == "computed" and bool((a.units >= 0).any())}
    raise_all(
        Diagnostic(
            "PKC445",
            f"structure = channel, and the weight '{s.name}' is computed from {', '.join(repr(n) for n in s.of)}: without a "
            "channel it would be another weight in its other channels too",
            notes=("fold it in: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')", "or prune single entries"),
        )
        for s in graph.computed
        if s.name in made
    )


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

    Groups with an entry in a protected parameter stay, and those whose going would leave a parameter less than its floor. Every
    layer keeps a group.
    """
    own = {n: masks[n] for n in found.sizes if n in masks}
    kept = kept_of(coupling, own)
    totals = group_scores(coupling, {n: scores[n] for n in found.competing if n in scores}, masks=own)
    whole = Removal(coupling, found, own, kept, torch.empty(0, dtype=torch.int64)).masks(0)
    stays = torch.tensor([any(m.parameter in found.protected for m in g.members) for g in coupling.groups], dtype=torch.bool)
    floors = _Floors(coupling, {n: m for n, m in whole.items() if found.floors.get(n, 0) and n not in found.protected}, found)
    ranked = removal_order(coupling, -totals if order == "smallest" else totals, kept, stays, floors.hold)
    return Removal(coupling, found, own, kept, ranked)


class _Floors:
    """What is left of the parameters that have a floor, group after group."""

    def __init__(self, coupling: Coupling, masks: Masks, found: Candidates) -> None:
        self.coupling, self.least = coupling, found.floors
        self.left = {n: m.numpy().copy() for n, m in masks.items()}
        self.count = {n: int(np.count_nonzero(m)) for n, m in self.left.items()}

    def hold(self, position: int) -> bool:
        """Whether all floors hold after a group has gone; if they do, it goes."""
        members = [m for m in self.coupling.groups[position].members if m.parameter in self.left]
        undo: list[tuple[str, tuple[Any, ...], np.ndarray]] = []
        count = dict(self.count)
        for m in members:
            mask = self.left[m.parameter]
            place = (slice(None),) * m.axis + (list(m.indices),)
            undo.append((m.parameter, place, mask[place].copy()))
            count[m.parameter] -= int(np.count_nonzero(mask[place]))
            mask[place] = False
        if all(count[m.parameter] >= min(self.least[m.parameter], self.count[m.parameter]) for m in members):
            self.count = count
            return True
        for name, place, before in reversed(undo):
            self.left[name][place] = before
        return False


def within(found: Removal, quantity: Quantity, most: int) -> Masks:
    """The masks that keep at most ``most`` of a quantity: as few groups as it takes go, the worst first; of these come back, the
    best first, all that still fit beside the rest. After all that may go, even where they are too few.
    """

    def fits(count: int) -> bool:
        return quantity.at(_counts(found.masks(count))) <= most

    low = len(found.order) - most_that_fits(len(found.order), lambda spared: fits(len(found.order) - spared))
    kept, gone = found.kept.clone(), found.order[:low].flip(0)
    kept[gone] = False
    left = Left(found.coupling, kept, found.masks(low), found.before)
    counts = _counts(left.masks)
    for position in gone.tolist():
        more = {**counts, **{n: counts[n] + k for n, k in left.put_back(position).items()}}
        if quantity.at(more) <= most:
            counts = more
        else:
            left.take_away(position)
    return left.masks


def _counts(masks: Masks) -> dict[str, int]:
    return {n: int(np.count_nonzero(m.numpy())) for n, m in masks.items()}
