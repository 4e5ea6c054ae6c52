"""``score``: what a pass says of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.frontend.at_samples import at_samples
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.lang.ast import Pass
from pkcompiler.lang.library import find_pass
from pkcompiler.lang.plan import no_data
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.sources import check_finite, check_masks
from pkcompiler.predict.initial import Factory
from pkcompiler.scoring.evidence import NONE, Evidence
from pkcompiler.scoring.losses import Loss
from pkcompiler.scoring.repeat import repeated
from pkcompiler.scoring.workspace import Workspace, sample_inputs
from pkcompiler.selection.select import refuse_nan


@dataclass(frozen=True, slots=True, eq=False)
class Scores(Mapping[str, Tensor]):
    """Parameter name to scores of its shape, on the model's device.

    The score of entry i is ``scores[name][i] * 2**exponent`` (one exponent for all).

    ``standard_error``: of means over random draws, as a part of the scores (root mean squares of both); None without draws.
    """

    tensors: Mapping[str, Tensor]
    exponent: int
    order: str = "largest"
    standard_error: float | None = None

    def __repr__(self) -> str:
        entries = sum(t.numel() for t in self.tensors.values())
        return f"Scores({len(self)} parameters, {entries:,} entries, exponent {self.exponent}, order {self.order})"

    def __getitem__(self, name: str) -> Tensor:
        if not isinstance(name, str):  # may have no hash
            raise KeyError(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@checked
@in_own_modes
def score(
    model: nn.Module,
    example_inputs: Any,
    pass_: str | Path | Pass,
    *,
    data: Any = None,
    loss: Loss | None = None,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    initialise: Factory | None = None,
) -> Scores:
    """Score every parameter of a model by a pass (docs/theory.md, section 5), under ``masks``.

    ``pass_``: a name of the library, the path of a ``.pkc`` file, or its text. ``data``: (x, y), used whole and in order, or a
    Dataset or DataLoader, from which a class-balanced subset is drawn; x is a tensor for the first input, or a tuple or dict of
    tensors for all of them: ``((x, z), y)``. ``loss(output, target)``: the mean over samples, or (sum, weight); default
    cross-entropy.
    ``initialise(seed)`` builds a fresh model, for ``init = fresh`` (default: ``reset_parameters`` of every module). The model is
    not changed. Raises PkcError: ``PKC1xx`` for the pass, ``PKC2xx`` for the model, ``PKC5xx`` for data and numbers.
    """
    chosen = pass_ if isinstance(pass_, Pass) else find_pass(pass_)
    captured = captured_for_caller(model, example_inputs, dtype=dtype)
    check_finite(captured.graph, captured.tensors)
    check_masks(captured.graph, masks)
    kept = {n: m.detach().bool().cpu() for n, m in (masks or {}).items()}
    work = workspace(captured, chosen, kept, dtype, Evidence.of(data if chosen.needs_data else None, seed, loss, initialise))
    scores = evaluate(chosen, work, seed)
    refuse_nan(f"the scores of '{chosen.name}' are", "the pass", scores)
    return scores


def workspace(
    captured: Capture,
    chosen: Pass,
    masks: Mapping[str, Tensor],
    dtype: torch.dtype,
    evidence: Evidence = NONE,
    *,
    wanted: frozenset[str] | None = None,
    prunable: frozenset[str] | None = None,
) -> Workspace:
    """Everything that a pass is evaluated with.

    ``wanted``: the parameters to score, default all. ``prunable``: those that may be pruned, default as without ``include``.

    Raises ``PKC502`` when it reads data and there are none.
    """
    if evidence.data is None and chosen.needs_data:
        raise no_data(f"the pass '{chosen.name}'")
    samples, target = sample_inputs(captured, evidence.data) if chosen.needs_data else (None, None)
    return Workspace(
        captured,
        dtype,
        masks,
        frozenset(s.name for s in captured.graph.parameters) if wanted is None else wanted,
        samples,
        target,
        evidence.loss,
        evidence.batch,
        training=chosen.mode == "train",
        initialise=evidence.initialise,
        prunable=prunable,
    )


def evaluate(chosen: Pass, work: Workspace, seed: int, moment: tuple[int, int] = (0, 0)) -> Scores:
    """Run a pass at the workspace's masks: the mean over its repetitions. ``moment``: stage and round, for what is drawn."""
    with at_samples(work.captured, work.samples):
        term, error = repeated(chosen, work, seed, moment)
    if chosen.order != "magnitude":
        return Scores(term.tensors, term.exponent, chosen.order, error)
    return Scores({n: t.abs() for n, t in term.tensors.items()}, term.exponent, standard_error=error)
