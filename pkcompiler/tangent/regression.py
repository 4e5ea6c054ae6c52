"""Targets of a regression on the outputs: numbers as they are, classes as rows of the identity."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.tangent.function import ModelAtData


def targets(network: ModelAtData, data: Any) -> Tensor | None:
    """y of data = (x, y) as [n, outputs] in the network's precision; None where there is none.

    Numbers have the output's shape, or a row per sample. Integers [n] (for an output [n, ..., classes]: [n, ...]) are classes,
    one-hot; where there is one output they are numbers. Raises ``PKC527`` for anything else, and for what is not finite.
    """
    y = data[1] if isinstance(data, tuple | list) and len(data) > 1 else None
    if y is None:
        return None
    like = next(iter(network.theta.values()))
    if not isinstance(y, Tensor):
        raise fail("PKC527", f"the targets are a {type(y).__name__}", "expected a tensor")
    fits = {(network.n, *network.shape), (network.n, network.outputs)} | ({(network.n,)} if network.outputs == 1 else set())
    if tuple(y.shape) in fits and (y.is_floating_point() or network.outputs == 1):
        return _finite(y).to(like).reshape(network.n, network.outputs)
    labels = not y.is_floating_point() and not y.is_complex()
    if not labels or not network.shape or tuple(y.shape) != (network.n, *network.shape[:-1]):
        raise fail(
            "PKC527",
            f"targets {str(y.dtype).removeprefix('torch.')} {tuple(y.shape)} do not fit the output {(network.n, *network.shape)}",
            "give class labels (integers), one per sample, or numbers of the output's shape",
        )
    return _one_hot(y, network.shape[-1]).to(like).reshape(network.n, network.outputs)


def _finite(y: Tensor) -> Tensor:
    if not bool(y.isfinite().all()):
        place = tuple((~y.isfinite()).nonzero()[0].tolist())
        raise fail("PKC527", f"the targets hold {float(y[place]):g} at {list(place)}", "leave out the samples without a target")
    return y


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = high if high >= classes else low
        raise fail("PKC527", f"target {wrong}, but the model has {classes} outputs", f"give labels from 0 to {classes - 1}")
    return F.one_hot(labels.long(), classes)


def require(y: Tensor | None, what: str) -> Tensor:
    """y, or ``PKC527`` where the data have none."""
    if y is None:
        raise fail("PKC527", f"{what} reads targets, and the data have none", "pass data=(x, y)")
    return y
