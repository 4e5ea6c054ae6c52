"""Softmax: frozen at the data, uniform over the allowed positions without."""

from __future__ import annotations

from typing import Literal

import torch

from pkcompiler.ir.maps import Named, Softmax
from pkcompiler.ops.arithmetic import signed_sum
from pkcompiler.ops.table import Known, Observed, Ref, Use, path_op

VERY_NEGATIVE = -1e4
"""An additive mask at or below this forbids a position (implementations use -inf, the smallest float, or -1e4)."""


@path_op("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
def softmax(use: Use) -> Ref:
    scores, forbidden = peel(use)
    allowed = None if forbidden is None else describe(use, ~forbidden)
    rank = len(use.shape)
    result = use.emit(Softmax(use["dim"] % rank, allowed), scores)
    return use.record("softmax", result)


def describe(use: Use, allowed: torch.Tensor) -> Named | Literal["causal"] | None:
    """None (everything), ``causal``, or a boolean constant."""
    if bool(allowed.all()):
        return None
    rows = allowed.shape[-2] if allowed.dim() > 1 else 1
    square = allowed.dim() > 1 and rows == allowed.shape[-1] and allowed.numel() == rows * rows
    if square and torch.equal(allowed.reshape(rows, rows), torch.ones(rows, rows, dtype=torch.bool).tril()):
        return "causal"
    return use.constant(allowed)


def peel(use: Use) -> tuple[Ref, torch.Tensor | None]:
    """The scores before their mask, and where the mask forbids: ``where``, ``masked_fill`` or an added constant.

    A mask that is computed from the data is dropped: at the data the softmax is recorded, without data every position counts.
    """
    step = use.step_back("self")
    if step is None:
        return use["self"], None
    if step.name.startswith("aten.masked_fill"):
        return filled(use, step["self"], step["mask"], step["value"], True)
    if step.name.startswith("aten.where"):
        yes, no = step["self"], step["other"]
        return filled(use, no, step["condition"], yes, True) if is_number(yes) else filled(use, yes, step["condition"], no, False)
    if step.name == "aten.add.Tensor":
        return added(use, step)
    return use["self"], None


def is_number(side: object) -> bool:
    return isinstance(side, int | float) or (isinstance(side, Known) and side.tensor.numel() == 1)


def filled(use: Use, scores: Ref, condition: Ref, value: object, when: bool) -> tuple[Ref, torch.Tensor | None]:
    number = float(value.tensor) if isinstance(value, Known) else value
    if not (isinstance(condition, Known | Observed) and isinstance(number, int | float) and number <= VERY_NEGATIVE):
        return use["self"], None
    return scores, None if isinstance(condition, Observed) else condition.tensor.bool() == when


def added(use: Use, step: Use) -> tuple[Ref, torch.Tensor | None]:
    sides = [step["self"], step["other"]]
    for scores, mask in (sides, sides[::-1]):
        if isinstance(mask, Known) and not isinstance(scores, Known) and bool((mask.tensor <= VERY_NEGATIVE).any()):
            forbidden = mask.tensor <= VERY_NEGATIVE
            rest = torch.where(forbidden, 0, mask.tensor)
            if bool((rest != 0).any()):
                return signed_sum(step, scores, Known(rest, mask.shape), 1), forbidden
            return scores, forbidden
    return use["self"], None
