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
from pkcompiler.predict.initial import seeded
from pkcompiler.scoring.losses import (
    Loss,
    Weighted,
    check_mean,
    counted,
    cross_entropy,
    evaluated,
    mean_of,
    own_loss,
    parted,
    weight_of,
)

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
    """The loss of some samples' outputs: their mean, or their sum and weight. Raises ``PKC506`` without class labels."""
    if work.loss_function is not None:
        return evaluated(work.loss_function, output, target)
    if target is None or target.is_floating_point():
        raise fail(
            "PKC506",
            "the pass reads loss, and the targets are no class labels"
            if target is not None
            else "the pass reads loss, and the data have no targets",
            f"give labelled data, or {own_loss()}",
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
        batch = work.call(weights, samples), target
        value = loss_of(work, *batch)
        if isinstance(value, Tensor):
            _check(work, value, batch, before)
        found.append(None if isinstance(value, Tensor) else weight_of(value, loss_of(work, batch[0].roll(1, 0), target)))
        before = batch
    known = [w for w in found if w is not None]
    if known and len(known) < len(found):
        note = "return (sum, weight) for every batch"
        raise fail("PKC412", "the loss returned (sum, weight) for some batches, and a number for others", note)
    return torch.stack(known).sum() if known else None


def _check(work: Work, value: Tensor, batch: Batch, before: Batch | None) -> None:
    """Refuse a mean that is none over the samples: by two parts of the batch, of one sample alone with the batch before it."""
    output, target = batch
    half = len(output) // 2
    if half:
        cut = (slice(half), slice(half, None))
        whole, parts = value, [(output[c], None if target is None else target[c]) for c in cut]
    elif before is not None and (target is None or isinstance(target, Tensor)):
        joined = torch.cat([before[0], output]), None if target is None else torch.cat([before[1], target])
        of_both = loss_of(work, *joined)
        if not isinstance(of_both, Tensor):
            return
        whole, parts = of_both, [before, batch]
    else:
        return
    values = [v for part in parts if isinstance(v := loss_of(work, *part), Tensor)]
    if len(values) == len(parts):
        check_mean(whole, values, [len(part[0]) for part in parts])


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
