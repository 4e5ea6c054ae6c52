"""Pruning: stages of rounds, each a score and a selection; guards against layer collapse; ``prune``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pkcompiler.analysis.report import Report, analyze_graph
from pkcompiler.analysis.sources import check_masks
from pkcompiler.analysis.topology import has_path
from pkcompiler.diagnostics import Diagnostic, PkcError, fail
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Pass, Schedule, Stage
from pkcompiler.pruning.candidates import Candidates, candidates, check_reachable
from pkcompiler.pruning.curves import density_at
from pkcompiler.pruning.plan import Plan, plan_of
from pkcompiler.pruning.provenance import Provenance, origin_of
from pkcompiler.pruning.score import as_pair, evaluate, workspace
from pkcompiler.pruning.select import Masks, Survivors, select
from pkcompiler.pruning.workspace import Loss, Workspace


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


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """The result of pruning. ``masks``: boolean tensors of the prunable parameters, on the CPU."""

    masks: Masks
    plan: Plan
    graph: PathGraph
    tensors: Mapping[str, Tensor]
    seconds: float
    total: int
    origin: Provenance | None = None
    _report: list[Report] = field(default_factory=list)

    def __repr__(self) -> str:
        passes = ", ".join(dict.fromkeys(p.name for p in self.plan.passes))
        return f"Pruned({passes}: {self.kept:,} of {self.total:,} kept, density {self.density:.4g})"

    @property
    def kept(self) -> int:
        return sum(int(m.sum()) for m in self.masks.values())

    @property
    def density(self) -> float:
        return self.kept / self.total

    @property
    def report(self) -> Report:
        """The analysis of the masked network (computed once, when first read)."""
        if not self._report:
            self._report.append(analyze_graph(self.graph, self.tensors, self.masks))
        return self._report[0]

    def save(self, path: str | Path) -> Path:
        """Write the artifact folder (see :mod:`pkcompiler.pruning.write`); an existing folder is an error."""
        from pkcompiler.pruning.write import save

        return save(self, Path(path))


def prune(
    model: nn.Module,
    example_inputs: Any,
    pass_: str | Pass | None = None,
    *,
    density: float | None = None,
    schedule: str | Schedule | None = None,
    rounds: int | None = None,
    curve: str | None = None,
    scope: str | None = None,
    select: str | None = None,
    data: Any = None,
    loss: Loss | None = None,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> Pruned:
    """Prune a model by a pass to a density, or by a schedule. The model is not changed.

    ``pass_``: a name of the library, a ``.pkc`` file or its text; ``schedule``: a file or text. ``rounds``, ``curve``, ``scope``
    (``global``, ``layer``, ``uniform``, ``erk``) and ``select`` (``exact``, ``kth-le``) override what the pass says. ``data``: a
    pair (x, y), used whole, or a Dataset, from which a class-balanced subset is drawn. ``masks``: where to start from. ``dtype``:
    of the sweeps, default float64. Raises PkcError: ``PKC4xx`` for targets and layer collapse, else as :func:`score`.
    """
    plan = plan_of(
        pass_,
        schedule=schedule,
        target=None if density is None else ("density", density),
        rounds=rounds,
        curve=curve,
        scope=scope,
        select=select,
        seed=seed,
    )
    precision = dtype or torch.float64
    captured = capture(model, example_inputs, dtype=precision)
    run = Run(captured, plan, precision, None if data is None else as_pair(data, plan.seed), loss)
    pruned = run.finish(masks, progress=progress)
    return replace(pruned, origin=origin_of(model, example_inputs, captured.graph, plan.text, precision, run.data, loss))


@dataclass(slots=True, eq=False)
class Run:
    """A plan on a captured model: ``rounds()`` yields the state after every round, from any state on."""

    captured: Capture
    plan: Plan
    dtype: torch.dtype
    data: Any = None
    loss: Loss | None = None
    batch: int | None = None
    survivors: Survivors = field(default_factory=Survivors)

    def __post_init__(self) -> None:
        if self.data is None and self.plan.needs_data:
            name = next(p.name for p in self.plan.passes if p.needs_data)
            raise fail(
                "PKC502", f"the pass '{name}' reads data, and none was given", "give data, e.g. --data digits, or data=(x, y)"
            )
        refuse_non_finite(self.captured)
        for stage in self.plan.stages:
            check_reachable(self.candidates(stage), stage.density, _target(stage))

    def candidates(self, stage: Stage) -> Candidates:
        return candidates(self.captured.graph, stage.include, stage.exclude, stage.floors)

    def finish(self, masks: Mapping[str, Tensor] | None = None, *, progress: bool = False) -> Pruned:
        """All rounds at once."""
        started = time.monotonic()
        last = None
        for state in _shown(self.rounds(masks=masks), self.total_rounds, progress):
            last = state
        assert last is not None
        return self.result(last, time.monotonic() - started)

    def result(self, last: Round, seconds: float) -> Pruned:
        return Pruned(last.masks, self.plan, self.captured.graph, self.captured.tensors, seconds, last.total)

    @property
    def total_rounds(self) -> int:
        return sum(s.rounds or 1 for s in self.plan.stages)

    def rounds(self, *, masks: Mapping[str, Tensor] | None = None, after: Round | None = None) -> Iterator[Round]:
        """The state after each round, going on after ``after``; raises ``PKC410`` (with the last good state) on layer collapse."""
        check_masks(self.captured.graph, masks)
        current: Masks = dict(after.masks) if after else {n: m.bool().cpu() for n, m in (masks or {}).items()}
        last = after
        for i, (stage, pass_) in enumerate(zip(self.plan.stages, self.plan.passes, strict=True)):
            if after and i < after.stage:
                continue
            done = after.round if after and i == after.stage else 0
            found = self.candidates(stage)
            start = self._start(found, masks, i, after)
            work = self._workspace(pass_, found, current)
            for k in range(done + 1, (stage.rounds or 1) + 1):
                state = self._round(i, k, stage, pass_, found, work, current, start)
                if not self._alive(state):
                    raise collapse(state, last, self._last_good(last), pass_.name)
                current, last = state.masks, state
                yield state

    def _workspace(self, pass_: Pass, found: Candidates, current: Masks) -> Workspace:
        names = frozenset(found.competing)
        return workspace(self.captured, pass_, current, self.dtype, self.data, self.loss, self.plan.seed, self.batch, names)

    def _start(self, found: Candidates, masks: Mapping[str, Tensor] | None, stage: int, after: Round | None) -> float:
        """The density that a stage starts at: its predecessor's target, or that of the masks given."""
        if stage > 0:
            return self.plan.stages[stage - 1].density
        pruned = sum(int((~m.bool()).sum()) for n, m in (masks or {}).items() if n in found.sizes)
        return 1 - pruned / found.total

    def _round(
        self, i: int, k: int, stage: Stage, pass_: Pass, found: Candidates, work: Workspace, current: Masks, start: float
    ) -> Round:
        rounds = stage.rounds or 1
        density = density_at(stage.curve or "exponential", k, rounds, stage.density, start)
        work.masks = current
        scores = evaluate(pass_, work, self.plan.seed)
        chosen = select(
            scores,
            current,
            found,
            density,
            rule=stage.select or "exact",
            scope=stage.scope or "global",
            among=pass_.among,
            order=pass_.order,
            survivors=self.survivors,
        )
        masks = {**current, **chosen}
        kept = sum(count(masks[n]) for n in found.sizes)
        return Round(i, k, rounds, density, kept, found.total, masks, work.log10_mass())

    def _alive(self, state: Round) -> bool:
        """Whether a path from an input is left: by operations after every round, by entries at the end of a stage."""
        if not operations_connect(self.captured.graph, empty(state)):
            return False
        return state.round < state.rounds or has_path(self.captured.graph, self.captured.tensors, state.masks)

    def _last_good(self, last: Round | None) -> Round | None:
        """The state before a collapse, if entries still connected in it."""
        return last if last and has_path(self.captured.graph, self.captured.tensors, last.masks) else None


def operations_connect(graph: PathGraph, gone: frozenset[str]) -> bool:
    """Whether an input reaches the output through operations whose weights are not all pruned (necessary, and quick)."""
    reached = {v.name for v in graph.inputs}
    for op in graph.ops:
        weight = getattr(op.map, "weight", None)
        if weight not in gone and any(name in reached for name in op.inputs):
            reached.add(op.name)
    return any(name in reached for name in graph.outputs)


def count(mask: Tensor) -> int:
    """The number of kept entries (numpy's count is an order of magnitude faster than a sum of booleans)."""
    return int(np.count_nonzero(mask.numpy()))


def empty(state: Round) -> frozenset[str]:
    """The parameters of which nothing is kept."""
    return frozenset(n for n, m in state.masks.items() if not m.numpy().any())


def _target(stage: Stage) -> str:
    word, value = stage.target
    return f"{word} = {value:g}"


def refuse_non_finite(captured: Capture) -> None:
    """NaN or infinite parameters are refused by name (``PKC405``)."""
    bad = [s.name for s in captured.graph.parameters if not bool(torch.isfinite(captured.tensors[s.name]).all())]
    if bad:
        raise PkcError(
            *(
                Diagnostic(
                    "PKC405", f"parameter '{n}' holds NaN or infinite values", notes=("load other weights, or initialise it",)
                )
                for n in bad
            )
        )


class Collapsed(PkcError):
    """Layer collapse: no path is left.

    ``state`` is the last good one (None when the first round collapsed), ``reached`` the one without a path.
    """

    def __init__(self, diagnostic: Diagnostic, state: Round | None, reached: Round) -> None:
        super().__init__(diagnostic)
        self.state, self.reached = state, reached


CONSERVING = ("synflow", "synflow-l2")
"""Passes of the library that conserve path mass over layers."""


def collapse(state: Round, before: Round | None, good: Round | None, pass_name: str) -> Collapsed:
    """The diagnosis: which layers are empty, what still worked, what else to try. ``good``: ``before``, if it has paths."""
    gone = sorted(empty(state))
    named = (
        f"empty: {', '.join(gone[:3])}{' ...' if len(gone) > 3 else ''}" if gone else "no layer is empty, but they do not connect"
    )
    if good:
        worked = f"round {good.round} at density {good.density:.4g} was the last good one"
    else:
        worked = f"round {before.round} had lost its last path already" if before else "no round was done before it"
    others = ", ".join(name for name in CONSERVING if name != pass_name)
    remedy = f'try a higher density, more rounds, a pass that conserves path mass ({others}), or a floor "GLOB" = 1% in a schedule'
    return Collapsed(
        Diagnostic(
            "PKC410",
            f"layer collapse in round {state.round} of {state.rounds} at density {state.density:.4g}: no path is left ({named})",
            notes=(worked, remedy),
        ),
        good,
        state,
    )


def _shown(states: Iterator[Round], total: int, progress: bool) -> Iterator[Round]:
    """The states, with a progress bar on stderr where that is a terminal."""
    if not progress:
        yield from states
        return
    from pkcompiler.pruning.progress import bar

    with bar(total) as update:
        for state in states:
            update(state)
            yield state
