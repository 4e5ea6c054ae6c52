"""One round of a schedule on the model as training has made it: its weights are copied, scored, and new masks chosen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import raise_all
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.lang.plan import Plan
from pkcompiler.lowering.zero_rows import undefined_faults
from pkcompiler.pruning.rounds import Run
from pkcompiler.pruning.state import Round, misfit
from pkcompiler.scoring.evidence import Evidence, as_pair


@dataclass(frozen=True, slots=True)
class Visit:
    """A round that was done. ``epoch``, ``step``: how many had ended; ``density``: what the curve asked for, of ``total`` weights.

    ``cycle`` counts from 1, ``round`` of ``rounds`` too; ``stage`` is the pass that the stage names.
    """

    stage: str
    round: int
    rounds: int
    cycle: int
    epoch: int
    step: int
    density: float
    kept: int
    total: int

    def __str__(self) -> str:
        when = f"epoch {self.epoch}, step {self.step}" if self.epoch or self.step else "before training"
        left = f"{self.kept:,} of {self.total:,} kept, density {self.kept / self.total:.4g}"
        return f"{self.stage} {self.round}/{self.rounds} ({when}): {left}"


@dataclass(slots=True, eq=False)
class Pruner:
    """Scores a model with a plan; the model itself is never touched.

    The data of ``evidence`` are a pair, or a function of no arguments that gives one (or a Dataset) for each round. ``initial``:
    the first masks.
    """

    model: nn.Module
    example_inputs: Any
    plan: Plan
    evidence: Evidence
    dtype: torch.dtype
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    _captured: Capture | None = None

    def rounds(self, after: Round | None) -> Iterator[Round]:
        """The rounds that follow ``after`` (None: the first), at the model's weights as they are now.

        Raises PkcError as :func:`pkcompiler.prune`: ``PKC410`` for layer collapse, ``PKC405`` for weights that are not finite.
        """
        given = self.evidence.data
        drawn = replace(self.evidence, data=as_pair(given(), self.plan.seed)) if callable(given) else self.evidence
        return self._run(drawn).rounds(masks=self.initial, after=after)

    def check(self) -> None:
        """Refuse at once what would fail later: models that do not lift, globs without a match, targets out of reach, also of
        the masks that are there already, what ``lower`` demands and no stage makes, no data."""
        run = self._run(self.evidence)
        if remark := run.foresee(self.initial):
            warnings.warn(remark, stacklevel=5)

    def misfit(self, after: Round) -> str:
        """Why no round of this model can follow a state that was read back; '' where one can."""
        run = self._run(self.evidence)
        return misfit(after, run.aims, run.captured.tensors)

    def refuse_undefined(self, masks: Mapping[str, Tensor]) -> None:
        """After a round: raises ``PKC462`` where the masks leave a computed weight of the model 0/0."""
        raise_all(undefined_faults(self.model, masks, self._captured))

    def conclude(self, masks: Mapping[str, Tensor]) -> None:
        """After the last round: raises ``PKC424`` where the masks are not as ``lower`` demands."""
        if self.plan.schedule.lower:
            self._run(self.evidence).demands(masks)

    def _run(self, evidence: Evidence) -> Run:
        return Run(self._refreshed(), self.plan, self.dtype, evidence, state=self.model.state_dict())

    def _refreshed(self) -> Capture:
        """The capture of a copy, which gets the model's values; captured anew where they may have changed the graph."""
        if self._captured is None or not self._same_graph(self._captured):
            self._captured = capture(faithful_copy(self.model, self.example_inputs), self.example_inputs, dtype=self.dtype)
            return self._captured
        module = self._captured.module
        with torch.no_grad():
            for mine, theirs in ((module.parameters(), self.model.parameters()), (module.buffers(), self.model.buffers())):
                for copy, live in zip(mine, theirs, strict=True):
                    copy.copy_(live)
        for copy, live in zip(module.parameters(), self.model.parameters(), strict=True):
            copy.requires_grad_(live.requires_grad)
        return self._captured

    def _same_graph(self, captured: Capture) -> bool:
        """Whether the graph holds for other weights: it followed no branch on data, and no constant comes from a changed buffer."""
        if captured.recorded:
            return False
        buffers = zip(captured.module.buffers(), self.model.buffers(), strict=True)
        return not captured.lifted.constants or all(torch.equal(a, b.to(a)) for a, b in buffers)
