"""Scores of parameters to masks by whole groups of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, PkcError, typed_or_called
from pkcompiler.modes import in_own_modes
from pkcompiler.structure.coupling import Coupling
from pkcompiler.structure.groups import Axis, Member

Masks = dict[str, Tensor]


def _parameters(found: Coupling) -> list[Axis]:
    return [a for a in found.axes if a.role == "parameter"]


def _over(axis: Axis, per_unit: Tensor) -> Tensor:
    """A vector of the dimension, shaped to broadcast over the parameter."""
    return per_unit.reshape([-1 if d == axis.dim else 1 for d in range(len(axis.shape))])


@in_own_modes
def group_scores(
    found: Coupling,
    scores: Mapping[str, Tensor],
    normalise: Literal["sum", "mean"] = "sum",
    masks: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The score of every group [groups], float64 on the CPU: the sum of the scores of what makes its units (rows of weights,
    biases, gains, embeddings; not what reads them), of the parameters that have scores.

    ``normalise``: ``mean`` divides by the number of scores. ``masks``: entries that are pruned count neither way.

    :raises PkcError: PKC441, where a score has not its parameter's shape; PKC442, where no group has a score
    """
    total = torch.zeros(len(found.groups), dtype=torch.float64)
    count = torch.zeros(len(found.groups), dtype=torch.float64)
    axes = [a for a in _parameters(found) if a.side == "out" and a.slot in scores]
    _check(found, scores, axes)
    for axis in axes:
        values = scores[axis.slot].detach().cpu().double()
        mask = masks.get(axis.slot) if masks else None
        present = torch.ones(axis.shape, dtype=torch.float64) if mask is None else mask.cpu().double()
        values = values if mask is None else torch.where(mask.cpu(), values, 0.0)
        rest = [d for d in range(len(axis.shape)) if d != axis.dim]
        units = torch.from_numpy(axis.units)
        kept = units >= 0
        for target, entries in ((total, values), (count, present)):
            target.index_add_(0, units[kept], (entries.sum(rest) if rest else entries)[kept])
    return total / count.clamp(min=1) if normalise == "mean" else total


def _check(found: Coupling, scores: Mapping[str, Tensor], axes: Sequence[Axis]) -> None:
    wrong = [
        Diagnostic(
            "PKC441",
            f"the scores of '{a.slot}' have shape {tuple(scores[a.slot].shape)}, the parameter has {a.shape}",
            notes=("one score per entry of the parameter",),
        )
        for a in axes
        if tuple(scores[a.slot].shape) != a.shape
    ]
    if found.groups and not axes:
        wrong = [
            Diagnostic(
                "PKC442",
                "no parameter with a score makes a unit that can be removed",
                notes=(typed_or_called("see which do: pkc ir --groups MODEL", "see which do: channel_groups(lift(model, x))"),),
            )
        ]
    if wrong:
        raise PkcError(*wrong)


@in_own_modes
def masks_of(found: Coupling, kept: Tensor) -> Masks:
    """The masks (torch.bool, True = kept) of every parameter with entries in a group, where ``kept`` [groups] says which stay."""
    out: Masks = {}
    padded = torch.cat([kept.cpu().bool(), torch.ones(1, dtype=torch.bool)])  # -1: what is in no group stays
    for axis in _parameters(found):
        mask = out.setdefault(axis.slot, torch.ones(axis.shape, dtype=torch.bool))
        mask &= _over(axis, padded[torch.from_numpy(axis.units)])
    return out


@in_own_modes
def kept_of(found: Coupling, masks: Mapping[str, Tensor]) -> Tensor:
    """Which groups [groups] have an entry left in what makes their units; a parameter without a mask is whole."""
    kept = torch.zeros(len(found.groups), dtype=torch.bool)
    for axis in (a for a in _parameters(found) if a.side == "out"):
        mask = masks.get(axis.slot)
        units = torch.from_numpy(axis.units)
        rest = [d for d in range(len(axis.shape)) if d != axis.dim]
        alive = torch.ones(len(units), dtype=torch.bool) if mask is None else mask.cpu().sum(rest).bool() if rest else mask.cpu()
        kept[units[alive & (units >= 0)]] = True
    return kept


@in_own_modes
def removal_order(
    found: Coupling,
    scores: Tensor,
    kept: Tensor | None = None,
    stays: Tensor | None = None,
    goes: Callable[[int], bool] | None = None,
) -> Tensor:
    """Positions of groups, the first to remove first: by score, among equal ones the last in position first.

    What ``kept`` [groups] says is gone is left out, and what ``stays`` [groups] says must not go. No prefix removes all units of a
    layer: where a group is the last of one, it is left out. ``goes`` is asked last, of each group in turn; where it answers False,
    the group is left out.
    """
    alive = torch.ones(len(found.groups), dtype=torch.bool) if kept is None else kept.cpu().bool()
    left: dict[int, int] = {}
    for group, present in zip(found.groups, alive.tolist(), strict=True):
        for layer in group.within:
            left[layer] = left.get(layer, 0) + present
    order = len(scores) - 1 - torch.argsort(scores.cpu().flip(0), stable=True)
    out = []
    may = alive if stays is None else alive & ~stays.cpu().bool()
    for position in order[may[order]].tolist():
        within = found.groups[position].within
        if all(left[layer] > 1 for layer in within) and (goes is None or goes(position)):
            out.append(position)
            for layer in within:
                left[layer] -= 1
    return torch.tensor(out, dtype=torch.int64)


class Left:
    """The masks that a choice of groups leaves, in which a group can come back, or go again at once.

    ``masks``: torch.bool by parameter, changed in place; ``before``: masks of what may be kept at all. Coming back reads and writes
    the entries of the group alone.
    """

    def __init__(self, found: Coupling, kept: Tensor, masks: Masks, before: Mapping[str, Tensor]) -> None:
        self.found, self.masks, self.before = found, masks, before
        self.kept = torch.cat([kept.cpu().bool(), torch.ones(1, dtype=torch.bool)])
        self.axes: dict[str, list[Axis]] = {}
        for axis in _parameters(found):
            self.axes.setdefault(axis.slot, []).append(axis)

    def put_back(self, position: int) -> dict[str, int]:
        """Keep a group that is gone; returns how many entries of each parameter have come back."""
        self.kept[position] = True
        came: dict[str, int] = {}
        for member, place in self._places(position):
            there, mask = self._allowed(member, place), self.masks[member.parameter]
            came[member.parameter] = came.get(member.parameter, 0) + int(there.sum()) - int(mask[place].sum())
            mask[place] = there
        return came

    def take_away(self, position: int) -> None:
        """Undo the last :meth:`put_back`."""
        self.kept[position] = False
        for member, place in self._places(position):
            self.masks[member.parameter][place] = False

    def _places(self, position: int) -> list[tuple[Member, tuple[slice | list[int], ...]]]:
        members = [m for m in self.found.groups[position].members if m.parameter in self.masks]
        return [(m, (*[slice(None)] * m.axis, list(m.indices))) for m in members]

    def _allowed(self, member: Member, place: tuple[slice | list[int], ...]) -> Tensor:
        """Of the entries of a member, those that no other group and no mask before has pruned."""
        own, out = list(member.indices), torch.ones_like(self.masks[member.parameter][place])
        if member.parameter in self.before:
            out &= self.before[member.parameter][place].cpu().bool()
        for axis in self.axes[member.parameter]:
            per_unit = self.kept[torch.from_numpy(axis.units)]
            out &= _over(axis, per_unit[own] if axis.dim == member.axis else per_unit)
        return out


@in_own_modes
def select_groups(
    found: Coupling,
    scores: Mapping[str, Tensor],
    reached: Callable[[Masks], bool],
    *,
    normalise: Literal["sum", "mean"] = "sum",
    masks: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Masks that remove the fewest groups of the smallest scores at which ``reached`` holds (a density, a number of operations);
    of those, groups with which it holds too are then put back, the best first.

    ``reached`` must stay true when more is removed. ``masks``: those of the rounds before; groups that they remove stay removed.

    :raises PkcError: PKC443, where it does not hold either when every layer has one group left; PKC441, PKC442 as in
        :func:`group_scores`
    """
    kept = torch.ones(len(found.groups), dtype=torch.bool) if masks is None else kept_of(found, masks)
    order = removal_order(found, group_scores(found, scores, normalise, masks), kept)

    def after(count: int) -> Masks:
        left = kept.clone()
        left[order[:count]] = False
        return masks_of(found, left)

    low, high = 0, len(order)
    if not reached(after(high)):
        raise PkcError(
            Diagnostic(
                "PKC443",
                f"the target is out of reach of whole units: {int(kept.sum()) - high} of {len(found.groups)} groups must stay, so "
                "that every layer has one, and the rest is not enough",
                notes=("ask for a larger density, or leave single weights out: structure = unstructured",),
            )
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(after(middle)) else (middle + 1, high)
    gone = order[:low].flip(0)
    kept[gone] = False
    left = Left(found, kept, masks_of(found, kept), {})
    for position in gone.tolist():
        left.put_back(position)
        if not reached(left.masks):
            left.take_away(position)
    return left.masks
