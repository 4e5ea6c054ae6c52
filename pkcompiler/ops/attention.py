"""Softmax: frozen at the data, uniform over the allowed positions without."""

from __future__ import annotations

from typing import Literal

import torch

from pkcompiler.ir.maps import Named, Softmax
from pkcompiler.ops.attention_masks import peel, squashed
from pkcompiler.ops.table import Ref, Use, path_op


@path_op("aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default")
def softmax(use: Use) -> Ref:
    dim = use["dim"] % len(use.shape)
    masked = peel(use)
    scores, allowed = (use["self"], None) if masked is None else (masked[0], describe(use, ~squashed(masked[1]), dim))
    result = use.emit(Softmax(dim, allowed), scores)
    return use.record("softmax", result)


def describe(use: Use, allowed: torch.Tensor, dim: int) -> Named | Literal["causal"] | None:
    """None (everything), ``causal``, or a boolean constant, which is as long as the scores along ``dim``."""
    if bool(allowed.all()):
        return None
    rows = allowed.shape[-2] if allowed.dim() > 1 else 1
    square = allowed.dim() > 1 and rows == allowed.shape[-1] and allowed.numel() == rows * rows
    if square and torch.equal(allowed.reshape(rows, rows), torch.ones(rows, rows, dtype=torch.bool).tril()):
        return "causal"
    back = len(use.shape) - dim
    whole = allowed.reshape((1,) * max(0, back - allowed.dim()) + tuple(allowed.shape))
    return use.constant(whole.expand(*(use.shape[dim] if i == whole.dim() - back else n for i, n in enumerate(whole.shape))))
