"""The state of a run after a round, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkcompiler.arguments import methods_checked
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Pass
from pkcompiler.lang.plan import Plan
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.pruning.provenance import Provenance
from pkcompiler.pruning.regrowth import Ground, Masks
from pkcompiler.pruning.target import Aim
from pkcompiler.report.analyze import analyze_graph
from pkcompiler.report.report import Report


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The state after one round: everything that the next one needs."""

    stage: int  # from 0
    round: int  # from 1
    rounds: int
    density: float
    kept: int
    total: int
    masks: Masks
    log10_mass: float | None = None
    start: float | None = None  # the part of its quantity at which the stage began
    stopped: str = ""  # why the rest of the stage changes nothing
    begun: Masks = field(default_factory=dict)  # see Ground
    left: Masks = field(default_factory=dict)
    missed: str = ""  # of the last round of a stage: by how much it misses its target
    uncertain: str = ""  # of the last round of a stage: how far its scores are estimates
    by_position: int = 0  # of the last round of a stage: kept weights of score 0, which position chose among equals
    arbitrary: str = ""  # the same in words, with the reason

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the masks at the end of a stage."""
        missed = (f"stage {self.stage + 1} misses its target: {self.missed}",) * bool(self.missed)
        return missed + (f"stage {self.stage + 1}: {self.arbitrary}",) * bool(self.arbitrary)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say at the end of a stage."""
        return self.faults + (f"stage {self.stage + 1}: {self.uncertain}",) * bool(self.uncertain)

    @property
    def ground(self) -> Ground:
        """What pruned weights may come back."""
        return Ground(self.begun, self.left)


def misfit(state: Round, aims: Sequence[Aim], tensors: Mapping[str, Tensor]) -> str:
    """Why a state that was read back is none that a run with these stages has left; '' where it may be one.

    ``tensors``: the parameters that masks may be of.
    """
    if not (0 <= state.stage < len(aims) and 1 <= state.round <= state.rounds == (aims[state.stage].stage.rounds or 1)):
        return f"round {state.round} of {state.rounds} of stage {state.stage + 1} is none of the schedule"
    for name, mask in (pair for masks in (state.masks, state.begun, state.left) for pair in masks.items()):
        if name not in tensors or mask.dtype != torch.bool or mask.shape != tensors[name].shape:
            return f"the mask of '{str(name)[:60]}' is {mask.dtype} {list(mask.shape)}, and of no parameter of this shape"
    sizes = aims[state.stage].found.sizes
    kept = sum(int(state.masks[n].sum()) if n in state.masks else sizes[n] for n in sizes)
    if (state.kept, state.total) != (kept, aims[state.stage].found.total):
        return f"it keeps {state.kept} of {state.total} weights, and its masks {kept} of {aims[state.stage].found.total}"
    if not 0 <= state.density <= 1 or not 0 < (1 if state.start is None else state.start) <= 1:
        return f"its density is {state.density}, from {state.start} on"
    if not 0 <= state.by_position <= kept:
        return f"{state.by_position} of {kept} weights were chosen by position"
    return ""


def estimated(pass_: Pass, error: float) -> str:
    """How far the scores of a pass are estimates. ``error``: of the means over its draws, as a part of their size."""
    return (
        f"the scores of '{pass_.name}' are means of {pass_.repeat} random draws; their standard error is {error:.2g} of their size"
    )


@methods_checked
@methods_in_own_modes
@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """The result of pruning. ``masks``: boolean tensors of what a stage could prune, on the CPU; ``total``: all their entries.

    ``by_position``: how many of the kept weights had score 0 in the last round, and were chosen by position among equals.
    """

    masks: Masks
    plan: Plan
    graph: PathGraph
    tensors: Mapping[str, Tensor]
    seconds: float
    total: int
    origin: Provenance | None = None
    packed: tuple[str, ...] = ()  # the parameters of which a sparse file is written, where a target counts its bytes
    by_position: int = 0
    inputs: Any = None  # the example inputs, with which pkcompiler.lower records a model
    _report: list[Report] = field(default_factory=list)

    def __repr__(self) -> str:
        passes = ", ".join(dict.fromkeys(p.name for p in self.plan.passes)) or self.plan.schedule.name
        return f"Pruned({passes}: {self.kept:,} of {self.total:,} kept, density {self.density:.4g})"

    @property
    def kept(self) -> int:
        """The number of entries that the masks keep."""
        return sum(int(m.sum()) for m in self.masks.values())

    @property
    def density(self) -> float:
        """``kept / total``."""
        return self.kept / self.total

    @property
    def report(self) -> Report:
        """The analysis of the masked network (computed once, when first read)."""
        if not self._report:
            self._report.append(analyze_graph(self.graph, self.tensors, self.masks))
        return self._report[0]

    def save(self, path: str | Path) -> Path:
        """Write the artifact folder (see :mod:`pkcompiler.artifact.write`); an existing folder is an error."""
        from pkcompiler.artifact.write import save

        return save(self, Path(path))
