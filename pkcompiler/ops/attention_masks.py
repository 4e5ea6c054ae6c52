"""Attention masks: which positions a softmax may not see, however that is written, and the scores without it.

Known: ``where``, ``masked_fill``, constants that are added or subtracted, alone or several, behind views, transposes, factors,
sums with scores that have none, and behind what changes no ordinary number (``max(scores, finfo.min)``, ``nan_to_num``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pkcompiler.ops.linear import scaled, with_shape
from pkcompiler.ops.pool import spread
from pkcompiler.ops.shape import permuted, turning
from pkcompiler.ops.sums import signed_sum
from pkcompiler.ops.table import Known, Observed, Ref, Use

VERY_NEGATIVE = -1e4
"""An additive mask at or below this forbids a position (implementations use -inf, the smallest float, or -1e4)."""

Peeled = tuple[Ref, torch.Tensor]
"""Scores before their mask, and where it forbids (booleans that broadcast against them)."""

TIMES = ("aten.mul.Tensor", "aten.mul.Scalar")
OVER = ("aten.div.Tensor", "aten.div.Scalar")
SUMS = ("aten.add.Tensor", "aten.add.Scalar", "aten.sub.Tensor", "aten.sub.Scalar")
VIEWS = (
    "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default", "aten.unsqueeze.default", "aten.squeeze.dim",
    "aten.squeeze.dims", "aten.expand.default",
)  # fmt: skip


def peel(use: Use, argument: str = "self", sign: int = 1) -> Peeled | None:
    """An argument of an operator before its mask; None where it has none. ``sign``: -1 where what is large is forbidden.

    A mask that is computed from the data is dropped: at the data the softmax is recorded, without data every position counts.
    """
    step = use.step_back(argument)
    if step is None:
        return None
    name = step.name
    if name.startswith("aten.masked_fill"):
        return filled(step, "self", step["mask"], step["value"], True, sign)
    if name.startswith("aten.where"):
        yes, no = step["self"], step["other"]
        left = is_number(yes)
        return filled(step, "other" if left else "self", step["condition"], yes if left else no, left, sign)
    if name in SUMS:
        return added(step, ("self", "other"), 1 if "add" in name else -1, step["alpha"], sign)
    if name.startswith("aten.rsub"):
        return added(step, ("other", "self"), -1, step["alpha"], sign)
    if name in (*TIMES, *OVER):
        return rescaled(step, sign)
    if name == "aten.neg.default":
        return times(step, "self", -1, sign)
    if name in VIEWS:
        return reshaped(step, sign)
    order = turning(step)
    return None if order is None else turned(step, order, sign)


def reshaped(step: Use, sign: int) -> Peeled | None:
    """A mask behind a view that leaves its two dimensions alone."""
    found = peel(step, "self", sign)
    if found is None:
        return None
    scores, forbidden = found[0], squashed(found[1])
    if tuple(scores.shape) == tuple(step.shape):
        return scores, forbidden
    if forbidden.dim() > 2 or tuple(scores.shape[-2:]) != tuple(step.shape[-2:]):
        return None
    if step.name == "aten.expand.default":
        return spread(step, scores), forbidden
    return with_shape(step, step.path(scores), step.shape), forbidden


def turned(step: Use, order: Sequence[int], sign: int) -> Peeled | None:
    """A mask behind a permutation of the dimensions."""
    found = peel(step, "self", sign)
    if found is None:
        return None
    scores, forbidden = found
    whole = forbidden.reshape((1,) * (len(order) - forbidden.dim()) + tuple(forbidden.shape))
    return permuted(step, scores, order), whole.permute(*order)


def rescaled(step: Use, sign: int) -> Peeled | None:
    """Scores that are masked and then scaled: a temperature."""
    for argument, other in (("self", "other"), ("other", "self"))[: 1 if step.name in OVER else 2]:
        factor = step[other]
        if is_number(factor) and not is_number(step[argument]) and number_of(factor) != 0:
            return times(step, argument, number_of(factor) if step.name in TIMES else 1 / number_of(factor), sign)
    return None


def times(step: Use, argument: str, factor: float, sign: int) -> Peeled | None:
    """A mask behind a factor that is not 0; a negative one turns the sign of what forbids."""
    found = peel(step, argument, sign if factor > 0 else -sign)
    return None if found is None else (scaled(step, found[0], factor), found[1])


def filled(step: Use, argument: str, condition: Ref, value: object, when: bool, sign: int) -> Peeled | None:
    """Scores that a very negative number (times ``sign``) fills where ``condition`` is ``when``; None of any other fill."""
    if not (isinstance(condition, Known | Observed) and is_number(value) and sign * number_of(value) <= VERY_NEGATIVE):
        return None
    scores, before = peel(step, argument, sign) or (step[argument], torch.tensor(False))
    return spread(step, scores), before if isinstance(condition, Observed) else before | (condition.tensor.bool() == when)


def added(step: Use, sides: tuple[str, str], second: int, alpha: float, sign: int) -> Peeled | None:
    """A sum of scores and constants: what these add where they do not forbid is kept."""
    left, right = term(step, sides[0], sign), term(step, sides[1], sign * second * alpha)
    if left[1] is None and right[1] is None:
        return None
    forbidden = torch.tensor(False)
    for mask in (left[1], right[1]):
        forbidden = forbidden if mask is None else forbidden | mask
    return spread(step, signed_sum(step, left[0], right[0], second, alpha)), forbidden


def term(step: Use, side: str, factor: float) -> tuple[Any, torch.Tensor | None]:
    """One operand of a sum without its mask (the number 0 where nothing is left of it), and where that forbids, if it is one.

    ``factor``: what the operand is multiplied by on its way to the softmax, its size as far as the sum gives it.
    """
    value = step[side]
    if isinstance(value, Known) and value.tensor.is_floating_point():
        forbidden = factor * value.tensor <= VERY_NEGATIVE
        rest = torch.where(forbidden, 0, value.tensor)
        if bool(forbidden.any()):
            return Known(rest, value.shape) if bool(rest.any()) else 0, forbidden
    found = None if isinstance(value, Known | int | float) else peel(step, side, 1 if factor > 0 else -1)
    return (value, None) if found is None else found


def is_number(side: object) -> bool:
    """Whether an operand is a number, or a known tensor with one value in all entries."""
    return isinstance(side, int | float) or (isinstance(side, Known) and side.tensor.numel() > 0 and is_filled(side.tensor))


def number_of(side: Any) -> float:
    """The number that such an operand is."""
    return float(side.tensor.flatten()[0]) if isinstance(side, Known) else float(side)


def is_filled(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds one number everywhere."""
    return bool((tensor == tensor.flatten()[0]).all())


def squashed(mask: torch.Tensor) -> torch.Tensor:
    """A mask without the leading dimensions along which it is the same."""
    while mask.dim() and bool((mask == mask[:1]).all()):
        if mask.dim() <= 2:
            return mask
        mask = mask[0]
    return mask
