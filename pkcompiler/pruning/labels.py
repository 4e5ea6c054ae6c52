"""The loss of labelled data: cross-entropy, with labels that do not fit said before it is computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pkcompiler.diagnostics import fail

IGNORED = -100
"""The label that cross-entropy leaves out."""


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy of ``output`` [n, classes, ...] against integer labels [n, ...]. Raises ``PKC506``.

    Where the labels have the shape of the output without its last dimension alone (a language model), that holds the classes.
    """
    if output.dim() > 2 and target.shape == output.shape[:-1] != (output.shape[0], *output.shape[2:]):
        output = output.movedim(-1, 1)
    check_labels(output, target)
    return F.cross_entropy(output, target.long())


def margins(output: Tensor, target: Tensor) -> Tensor:
    """Of ``output`` [n, classes], the entry of the label minus the largest other one, [n]. Raises ``PKC506``."""
    check_labels(output, target)
    if output.dim() != 2 or output.shape[1] < 2 or bool((target == IGNORED).any()):
        raise fail(
            "PKC506",
            f"margins need one label and two or more classes per sample, the output is {tuple(output.shape)}",
            "leave margin() out",
        )
    labels = target.long().unsqueeze(1)
    others = output.scatter(1, labels, -torch.inf)
    return output.gather(1, labels).squeeze(1) - others.amax(1)


def check_labels(output: Tensor, target: Tensor) -> None:
    """Raises ``PKC506`` where ``target`` [n, ...] holds no class labels of ``output`` [n, classes, ...]."""
    if output.dim() < 2:
        raise fail(
            "PKC506",
            f"the output has shape {tuple(output.shape)}: cross-entropy reads one score per class, [sample, class]",
            "define loss(output, target) in the model's file",
        )
    wanted = (output.shape[0], *output.shape[2:])
    if target.is_floating_point() or tuple(target.shape) != wanted:
        kind = f"{str(target.dtype).removeprefix('torch.')} {tuple(target.shape)}"
        raise fail(
            "PKC506",
            f"the targets are no class labels of this output: they are {kind}, the output is {tuple(output.shape)}",
            f"give integer labels of shape {wanted}, or define loss(output, target) in the model's file",
        )
    _within(target[target != IGNORED], output.shape[1])


def a_number(value: object, name: str = "loss") -> Tensor:
    """What a loss of the user's returned, as a scalar. Raises ``PKC412`` for anything but a tensor with one entry."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    kind = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise fail("PKC412", f"{name}(output, target) returned {kind}", "return the mean over the batch, a tensor with one entry")


def _within(labels: Tensor, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if not wrong.numel():
        return
    label = int(wrong.max()) if int(wrong.max()) >= classes else int(wrong.min())
    raise fail(
        "PKC506",
        f"target {label}, but the model has {classes} outputs",
        f"give labels from 0 to {classes - 1}, or a model with {label + 1} outputs" if label > 0 else "count labels from 0",
    )
