"""Whether masks are at the target of their stage: said when the stage ends, and refused before where it is known.

What is left at the end of a stage depends on the masks that it began with; of those only the ones given from outside are known
before any work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.lang.check.schedule import show_target
from pkcompiler.pruning.target import Aim
from pkcompiler.selection.floors import block_sizes
from pkcompiler.selection.structures import Block
from pkcompiler.structure import Group

HEADER = 64
"""Bytes by which the header of a file may change with a single entry."""


def missed(aim: Aim, masks: Mapping[str, Tensor]) -> str:
    """By how much masks miss the target (or a floor) of a stage that is done, in words; '' where they do not.

    Short by less than a unit is no miss, nor is less than the target under the published rule (its ties all go).
    """
    most, amount = _target(aim), aim.amount(masks)
    what, whole = aim.quantity.unit, aim.quantity.whole
    asked = f"{show_target(aim.stage.target)} is {most:,} of {whole:,} {what}, and {amount:,} are left"
    if amount > most + _alone(aim):
        return f"{asked}: {amount - most:,} too many"
    if aim.stage.select != "kth_le" and amount < most - slack(aim):
        return f"{asked}: {most - amount:,} too few, as the masks before it leave no more that it may keep"
    return _low_floor(aim, masks)


def _low_floor(aim: Aim, masks: Mapping[str, Tensor]) -> str:
    for name, least in aim.found.floors.items():
        kept = int(np.count_nonzero(masks[name].cpu().numpy())) if name in masks else aim.found.sizes[name]
        if kept < least:
            return f"the floor of '{name}' is {least:,} weights, and the masks before left {kept:,}: {least - kept:,} too few"
    return ""


def _target(aim: Aim) -> int:
    return min(aim.budget(aim.part), aim.quantity.whole)


def _alone(aim: Aim) -> int:
    """How much every parameter's own rounding comes to."""
    local = (aim.stage.scope or "global") != "global" or aim.stage.select == "kth_le"
    return len(aim.found.competing) if local else 0


def slack(aim: Aim) -> int:
    """By how much a stage may fall short of its target: less than a unit, for each share that is handed out."""
    found, largest = aim.found, max((_cost(aim, g) for g in aim.coupling.groups), default=0) if aim.coupling else 0
    for name in found.competing:
        size = 1
        if isinstance(aim.structure, Block):
            size = int(block_sizes(aim.structure, found.shapes[name], found.sides[name]).max())
        largest = max(largest, size * aim.quantity.costs[name])
    if aim.quantity.word == "size":
        return largest + HEADER
    if aim.plain or aim.quantity.word == "density":
        largest -= 1
    return max(_alone(aim), largest * max(1, _alone(aim)))


def _cost(aim: Aim, group: Group) -> int:
    """At most what goes with a group."""
    parts = [(m, aim.found.shapes[m.parameter][m.axis]) for m in group.members if m.parameter in aim.found.shapes]
    return sum(aim.quantity.costs[m.parameter] * aim.found.sizes[m.parameter] * len(m.indices) // side for m, side in parts)


def check_given(aim: Aim, masks: Mapping[str, Tensor]) -> None:
    """Refuse a target looser than masks that are given: ``PKC423``."""
    most, amount = _target(aim), aim.amount(masks)
    if amount >= most - max(slack(aim), len(aim.found.sizes)):
        return
    what, whole = aim.quantity.unit, aim.quantity.whole
    ask = aim.quantity.word if aim.quantity.word != "size" else ""
    raise fail(
        "PKC423",
        f"{show_target(aim.stage.target)} keeps {most:,} of {whole:,} {what}, but the masks given keep {amount:,}: "
        f"{most - amount:,} too few",
        f"write {ask} = {amount / whole:.4g} or less, or give no masks" if ask else f"write size = {amount} or less",
    )


def check_order(aims: Sequence[Aim]) -> None:
    """Refuse a target that is looser than an earlier one of another quantity, whatever the scores say: ``PKC114``."""
    raise_all(d for i, aim in enumerate(aims) for d in [_looser(aim, aims[:i])] if d is not None)


def _looser(aim: Aim, earlier: Sequence[Aim]) -> Diagnostic | None:
    for before in earlier:
        if before.quantity.word == aim.quantity.word or dict(before.found.sizes) != dict(aim.found.sizes):
            continue
        most, reached = _target(aim), _most_under(before, aim)
        if reached < most - slack(aim):
            what = aim.quantity.unit
            return Diagnostic(
                "PKC114",
                f"{show_target(aim.stage.target)} is {most:,} {what}, but {show_target(before.stage.target)}, which "
                f"'{before.stage.pass_name}' has reached before, leaves at most {reached:,}: {most - reached:,} too few",
                notes=("write a tighter target, or reorder the stages",),
            )
    return None


def _most_under(before: Aim, aim: Aim) -> int:
    """The most of one quantity that a target of another leaves (fractions of entries allowed): first what costs the other least."""
    first, second, sizes = before.quantity, aim.quantity, aim.found.sizes
    left = float(_target(before) - first.at(dict.fromkeys(sizes, 0)))
    amount = float(second.at(dict.fromkeys(sizes, 0)))
    for name in sorted(sizes, key=lambda n: first.costs[n] / second.costs[n] if second.costs[n] else float("inf")):
        cost = first.costs[name]
        entries = min(sizes[name], left / cost) if cost else sizes[name]
        left -= entries * cost
        amount += entries * second.costs[name]
    return int(amount) + (HEADER * len(sizes) if second.word == "size" else 0)
