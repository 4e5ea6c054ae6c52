"""Softmax: frozen at the data, uniform over the allowed positions without."""

from __future__ import annotations

from typing import Any, Literal

import torch

from pkcompiler.ir.maps import Named, Softmax
from pkcompiler.ops.arithmetic import signed_sum
from pkcompiler.ops.linear import scaled, with_shape
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
    """The scores before their mask, and where the mask forbids: ``where``, ``masked_fill``, or a constant added or subtracted.

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
    if step.name in ("aten.add.Tensor", "aten.sub.Tensor"):
        return added(use, step, 1 if step.name == "aten.add.Tensor" else -1)
    if step.name in (*TIMES, *OVER) and is_number(step["other"]) and not isinstance(step["self"], Known):
        return rescaled(use, step, number_of(step["other"]) if step.name in TIMES else 1 / number_of(step["other"]))
    if step.name in VIEWS:
        return seen_through(use, step)
    return use["self"], None


TIMES = ("aten.mul.Tensor", "aten.mul.Scalar")
OVER = ("aten.div.Tensor", "aten.div.Scalar")
VIEWS = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.clone.default", "aten.unsqueeze.default")


def seen_through(use: Use, step: Use) -> tuple[Ref, torch.Tensor | None]:
    """A mask behind a view that leaves its two dimensions alone."""
    scores, forbidden = peel(step)
    if forbidden is None:
        return use["self"], None
    if tuple(scores.shape) == tuple(step.shape):
        return scores, forbidden
    rows = forbidden.reshape(-1, *forbidden.shape[-2:]) if forbidden.dim() > 1 else forbidden
    if forbidden.dim() < 2 or tuple(scores.shape[-2:]) != tuple(step.shape[-2:]) or bool((rows != rows[:1]).any()):
        return use["self"], None
    return with_shape(step, step.path(scores), step.shape), rows[0]


def rescaled(use: Use, step: Use, factor: float) -> tuple[Ref, torch.Tensor | None]:
    """Scores that are masked and then scaled: a temperature."""
    scores, forbidden = peel(step) if factor > 0 else (use["self"], None)
    return (use["self"], None) if forbidden is None else (scaled(step, scores, factor), forbidden)


def is_number(side: object) -> bool:
    return isinstance(side, int | float) or (isinstance(side, Known) and side.tensor.numel() > 0 and is_filled(side.tensor))


def number_of(side: Any) -> float:
    return float(side.tensor.flatten()[0]) if isinstance(side, Known) else float(side)


def is_filled(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds one number everywhere."""
    return bool((tensor == tensor.flatten()[0]).all())


def filled(use: Use, scores: Ref, condition: Ref, value: object, when: bool) -> tuple[Ref, torch.Tensor | None]:
    if not (isinstance(condition, Known | Observed) and is_number(value) and number_of(value) <= VERY_NEGATIVE):
        return use["self"], None
    return scores, None if isinstance(condition, Observed) else condition.tensor.bool() == when


def added(use: Use, step: Use, sign: int) -> tuple[Ref, torch.Tensor | None]:
    """Scores plus (or minus) a constant that forbids: what it adds where it does not is kept."""
    sides = [(step["self"], step["other"], sign), (step["other"], step["self"], 1)][: 2 if sign == 1 else 1]
    for scores, mask, way in sides:
        if not isinstance(mask, Known) or isinstance(scores, Known):
            continue
        numbers = way * step["alpha"] * mask.tensor if way == -1 or step["alpha"] != 1 else mask.tensor
        forbidden = numbers <= VERY_NEGATIVE
        if bool(forbidden.any()):
            rest = torch.where(forbidden, 0, numbers)
            kept = signed_sum(step, scores, Known(rest, mask.shape), 1) if bool((rest != 0).any()) else scores
            return kept, forbidden
    return use["self"], None
