"""What a loss gives: a mean over samples, or their sum and weight; cross-entropy, with labels that do not fit said before.

A mean that is no plain one over samples (class weights, ignored labels) is a sum by a weight, and both are added over batches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.usercode import blaming

Loss = Callable[[Any, Any], Tensor | tuple[Tensor, Tensor | float]]
"""``loss(output, target)``: the mean over the samples, or (sum, weight)."""
Weighted = tuple[Tensor, Tensor]
"""A sum over samples and its weight, both with one entry; the weight follows from the targets alone."""

IGNORED = -100
"""The label that cross-entropy leaves out."""


def cross_entropy(output: Tensor, target: Tensor) -> Weighted:
    """The cross-entropy of ``output`` [n, classes, ...] against integer labels [n, ...], and how many are not ignored.

    Raises ``PKC506``. Where the labels have the shape of the output without its last dimension alone (a language model), that
    holds the classes.
    """
    if output.dim() > 2 and target.shape == output.shape[:-1] != (output.shape[0], *output.shape[2:]):
        output = output.movedim(-1, 1)
    check_labels(output, target)
    return F.cross_entropy(output, target.long(), reduction="sum"), counted(target)


def counted(target: Tensor) -> Tensor:
    """How many labels cross-entropy reads, with one entry."""
    return (target != IGNORED).sum()


def mean_of(total: Tensor, weight: Tensor) -> Tensor:
    """Sum by weight. Raises ``PKC506`` for a weight of 0."""
    if not bool(weight > 0):
        raise fail(
            "PKC506",
            "the samples weigh 0 in the loss: every target is ignored, or every class has the weight 0",
            f"give targets that count; {IGNORED} is ignored",
        )
    return total / weight


def evaluated(loss: Loss, output: Any, target: Any) -> Tensor | Weighted:
    """What a loss of the user's gives for some samples: their mean, or (sum, weight). Raises ``PKC412``, and
    ``PKC243`` for what it raises.

    Where it returns what ``F.cross_entropy`` or ``F.nll_loss`` did (``nn.CrossEntropyLoss`` too), the weight is their own
    denominator: the class weights of all labels that are not ignored.
    """
    with _Denominators() as seen, blaming("calling loss(output, target)"):
        value = loss(output, target)
    return seen.weighted(value) or parted(value)


class _Denominators(TorchFunctionMode):
    """Notes the calls of torch's means whose denominator is not the number of samples; class weights follow the logits' type."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[tuple[Any, Callable[..., Tensor], dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.cross_entropy, F.nll_loss):
            return func(*args, **(kwargs or {}))
        bound = inspect.signature(func).bind(*args, **(kwargs or {}))
        bound.apply_defaults()
        given = bound.arguments
        if given["weight"] is not None:
            given["weight"] = given["weight"].to(given["input"])
        value = func(**given)
        if given["reduction"] == "mean" and given["size_average"] is None and given["reduce"] is None:
            self.means.append((value, func, given))
        return value

    def weighted(self, value: Any) -> Weighted | None:
        """Sum and weight of what is itself one of the means; else None."""
        found = next(((func, given) for mean, func, given in self.means if mean is value), None)
        if found is None:
            return None
        func, given = found
        return func(**{**given, "reduction": "sum"}), _denominator(given)


def _denominator(given: dict[str, Any]) -> Tensor:
    """What torch divides by: all class weights of labels that are not ignored; of probabilities the number of distributions."""
    logits, target, weight = given["input"], given["target"], given["weight"]
    if target.is_floating_point():
        return torch.tensor(logits.numel() // logits.shape[1 if logits.dim() > 1 else 0])
    kept = target != given["ignore_index"]
    return kept.sum() if weight is None else (weight[torch.where(kept, target, 0)] * kept).sum()


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


def own_loss() -> str:
    """Where who is spoken to gives a loss of their own."""
    return typed_or_called("define loss(output, target) in the model's file", "give loss=, a function of (output, target)")


def check_labels(output: Tensor, target: Tensor) -> None:
    """Raises ``PKC506`` where ``target`` [n, ...] holds no class labels of ``output`` [n, classes, ...]."""
    if output.dim() < 2:
        raise fail(
            "PKC506",
            f"the output has shape {tuple(output.shape)}: cross-entropy reads one score per class, [sample, class]",
            own_loss(),
        )
    wanted = (output.shape[0], *output.shape[2:])
    if target.is_floating_point() or tuple(target.shape) != wanted:
        kind = f"{str(target.dtype).removeprefix('torch.')} {tuple(target.shape)}"
        raise fail(
            "PKC506",
            f"the targets are no class labels of this output: they are {kind}, the output is {tuple(output.shape)}",
            f"give integer labels of shape {wanted}, or {own_loss()}",
        )
    _within(target[target != IGNORED], output.shape[1])


def parted(value: object, name: str = "loss") -> Tensor | Weighted:
    """What a loss of the user's returned: a scalar, or two of them.

    Raises ``PKC412`` for anything but a tensor with one entry or (sum, weight), and for a weight that has a derivative.
    """
    match value:
        case Tensor() if value.numel() == 1:
            return value.reshape(()) if value.dim() else value
        case (Tensor() as total, Tensor() | float() | int() as given) if total.numel() == 1:
            weight = torch.as_tensor(given)
            if weight.numel() == 1 and not weight.requires_grad:
                return total.reshape(()), weight.reshape(())
            kind = "a weight with a derivative" if weight.requires_grad else f"a weight {_kind(weight)}"
        case tuple() | list():
            kind = f"({', '.join(_kind(part) for part in value)})"
        case _:
            kind = _kind(value)
    note = "return the mean over the samples, a tensor with one entry; or (sum, weight), the weight from the targets alone"
    raise fail("PKC412", f"{name}(output, target) returned {kind}", note)


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def weight_of(found: Weighted, again: Tensor | Weighted) -> Tensor:
    """The weight of some samples. ``again``: what the loss gives for the same targets and other outputs. Raises ``PKC412``."""
    weight = found[1]
    if not bool(torch.isfinite(weight)) or bool(weight < 0):
        raise fail("PKC412", f"the weight that the loss returned is {float(weight):g}", "return a weight that is 0 or more")
    if isinstance(again, Tensor) or not bool(again[1] == weight):
        note = "compute it from the targets alone"
        raise fail("PKC412", f"the weight that the loss returned, {float(weight):g}, changes with the output", note)
    return weight


def check_mean(whole: Tensor, parts: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Raises ``PKC412`` where the loss of all samples of two parts is not the mean of theirs, weighed by their ``sizes``."""
    mean = (parts[0] * sizes[0] + parts[1] * sizes[1]) / sum(sizes)
    near = torch.finfo(whole.dtype).eps ** 0.5
    if not bool((whole - mean).abs() <= near * (1 + whole.abs())):
        raise fail(
            "PKC412",
            f"the loss of {sum(sizes)} samples is {float(whole):.6g}, and the mean over two parts of them {float(mean):.6g}: "
            "it is no mean over samples, and changes with the size of a batch",
            "return (sum, weight), the weight from the targets alone",
            typed_or_called("or leave --batch out, where the pass reads loss, not losses", "or score without batches"),
        )


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
