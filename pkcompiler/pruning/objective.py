"""The loss of a run over all its samples, in batches; a function ``loss(output, target)`` of the user's, blamed at their own line.

Where the loss is no plain mean over samples, it is the sum of all batches by the sum of their weights, whatever the batches are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from pkcompiler import usercode
from pkcompiler.diagnostics import fail
from pkcompiler.kernel.initial import seeded
from pkcompiler.pruning.labels import Loss, Weighted, check_mean, counted, cross_entropy, evaluated, mean_of, parted, weight_of

Batch = tuple[Tensor, Any]
"""Outputs and targets of some samples."""


class Work(Protocol):
    """What the loss of all samples is computed with. ``weights_of_losses``: their weight, once it is known."""

    loss_function: Loss | None
    target: Tensor | None
    draws: int
    weights_of_losses: dict[str, Tensor | None]

    @property
    def count(self) -> int:
        """How many samples there are."""

    def batches(self) -> list[tuple[Sequence[Any], Tensor | None]]:
        """The samples and targets in batches."""

    def effective(self) -> dict[str, Tensor]:
        """Weights at which the model can be run."""

    def call(self, weights: Mapping[str, Tensor], samples: Sequence[Any]) -> Tensor:
        """The model's output."""


def loss_of(work: Work, output: Tensor, target: Tensor | None) -> Tensor | Weighted:
    """The loss of some samples' outputs: their mean, or their sum and weight."""
    if work.loss_function is not None:
        return evaluated(work.loss_function, output, target)
    if target is None or target.is_floating_point():
        raise fail(
            "PKC506",
            "the pass reads loss, and the targets are no class labels"
            if target is not None
            else "the pass reads loss, and the data have no targets",
            "give labelled data, or define loss(output, target) in the model's file",
        )
    return cross_entropy(output, target)


def share(work: Work, output: Tensor, target: Tensor | None, n: int) -> Tensor:
    """What the outputs of ``n`` samples add to the loss of all samples: the mean, or the sum of all by their weight."""
    found = loss_of(work, output, target)
    whole = None if n == work.count else weight(work)
    if isinstance(found, Tensor):
        return found * (n / work.count)
    return mean_of(found[0], found[1] if whole is None else whole)


def alone(work: Work, output: Tensor, target: Tensor | None) -> Tensor:
    """The loss of one sample; where losses are weighed, its sum times the samples by the weight of all: the mean is the loss."""
    found, whole = loss_of(work, output, target), weight(work)
    if isinstance(found, Tensor):
        return found
    return mean_of(found[0] * work.count, found[1] if whole is None else whole)


def weight(work: Work) -> Tensor | None:
    """The weight of all samples in the loss, which follows from the targets alone; None where the loss is their mean.

    Where the loss is the user's, costs one pass over the data, once. Raises ``PKC412`` for weights that are below 0 or change
    with the output, and for a mean that is none over the samples.
    """
    known = work.weights_of_losses
    if "all" not in known:
        if work.loss_function is None:
            known["all"] = counted(torch.as_tensor(work.target))
        else:
            with torch.no_grad(), seeded(work.draws):
                known["all"] = _added(work)
    return known["all"]


def _added(work: Work) -> Tensor | None:
    weights, found = work.effective(), []
    before: Batch | None = None
    for samples, target in work.batches():
        output = work.call(weights, samples)
        value = loss_of(work, output, target)
        if isinstance(value, Tensor):
            _check(work, _parts((output, target), before))
        found.append(None if isinstance(value, Tensor) else weight_of(value, loss_of(work, output.roll(1, 0), target)))
        before = output, target
    known = [w for w in found if w is not None]
    if known and len(known) < len(found):
        note = "return (sum, weight) for every batch"
        raise fail("PKC412", "the loss returned (sum, weight) for some batches, and a number for others", note)
    return torch.stack(known).sum() if known else None


def _parts(batch: Batch, before: Batch | None) -> list[Batch]:
    """Two parts of a batch; one of a single sample is taken together with the batch before it."""
    output, target = batch
    half = len(output) // 2
    if not half:
        return [before, batch] if before else []
    cut = (slice(half), slice(half, None))
    return [(output[c], None if target is None else target[c]) for c in cut]


def _check(work: Work, parts: Sequence[Batch]) -> None:
    if not parts:
        return
    outputs, targets = zip(*parts, strict=True)
    whole = torch.cat(outputs), None if targets[0] is None else torch.cat(targets)
    values = [loss_of(work, *batch) for batch in (whole, *parts)]
    plain = [v for v in values if isinstance(v, Tensor)]
    if len(plain) == len(values):
        check_mean(plain[0], plain[1:], [len(output) for output in outputs])


@overload
def load_loss(spec: str) -> tuple[Loss, str]: ...
@overload
def load_loss(spec: Callable[..., Any], source: Path | None) -> Loss: ...
def load_loss(spec: str | Callable[..., Any], source: Path | None = None) -> Any:
    """The function that ``path/file.py:name`` names, with the sha256 of its file; or a given function, made to blame its file.

    Raises ``PKC412`` where it is no function, and when called ``PKC243`` (it raised) or ``PKC412`` (it gave neither a number
    nor a sum and its weight).
    """
    if not isinstance(spec, str):
        return _blamed(spec, getattr(spec, "__name__", "loss"), source)
    parsed = usercode.parse_spec(spec, "loss")
    if parsed.name is None:
        raise fail("PKC412", f"'{spec}' names no function", f"try --loss {spec}:loss")
    python = usercode.import_spec(parsed)
    found = getattr(python, parsed.name, None)
    if not callable(found):
        known = [name for name, value in vars(python).items() if callable(value) and not name.startswith("_")]
        raise fail("PKC412", f"{parsed.place} has no function '{parsed.name}'", usercode.nearest(parsed.name, known))
    origin = usercode.source_of(python)
    return _blamed(found, parsed.name, origin), usercode.source_hash(origin)


def _blamed(function: Callable[..., Any], name: str, source: Path | None) -> Loss:
    def loss(output: Any, target: Any) -> Tensor | Weighted:
        try:
            value = function(output, target)
        except Exception as error:
            raise usercode.blame(error, source, f"calling {name}(output, target)") from error
        return parted(value, name)

    return loss
