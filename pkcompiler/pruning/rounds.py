"""Pruning: stages of rounds, each a score and a selection; guards against layer collapse."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pkcompiler.diagnostics import PkcError, remark
from pkcompiler.frontend.capture import Capture
from pkcompiler.ir.weights import sides_of
from pkcompiler.lang.ast import Pass, Stage
from pkcompiler.lang.check.curves import density_at
from pkcompiler.lang.functions.seen import reads_all
from pkcompiler.lang.plan import SWAP, Plan, no_data
from pkcompiler.paths.sources import check_finite, plain_masks
from pkcompiler.paths.topology import has_path
from pkcompiler.pruning.collapse import check_connected, collapse, count, empty, operations_connect
from pkcompiler.pruning.feasible import check_aim, check_producible
from pkcompiler.pruning.met import check_given, check_order, missed
from pkcompiler.pruning.progress import shown
from pkcompiler.pruning.regrowth import Ground
from pkcompiler.pruning.require import effective_paths, required_paths, shortfall
from pkcompiler.pruning.state import Pruned, Round, estimated
from pkcompiler.pruning.target import Aim, aim_of, globbed
from pkcompiler.pruning.zeros import Zeros
from pkcompiler.scoring.evidence import NONE, Evidence
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.score import Scores, evaluate, workspace
from pkcompiler.scoring.workspace import Workspace
from pkcompiler.selection.candidates import Candidates, goal_of, pruned_frozen
from pkcompiler.selection.select import Masks, Survivors
from pkcompiler.selection.structures import Block, check_demands
from pkcompiler.selection.swap import Limit, swap


@dataclass(slots=True, eq=False)
class Run:
    """A plan on a captured model: ``rounds()`` yields the state after every round, from any state on.

    ``state``: the model's own ``state_dict``, whose element types a target in bytes counts (default: that of the capture).
    """

    captured: Capture
    plan: Plan
    dtype: torch.dtype
    evidence: Evidence = NONE
    survivors: Survivors = field(default_factory=Survivors)
    state: Mapping[str, Tensor] | None = None
    aims: tuple[Aim, ...] = ()

    def __post_init__(self) -> None:
        if self.evidence.data is None and self.plan.needs_data:
            raise no_data(self.plan.reader)
        check_finite(self.captured.graph, self.captured.tensors)
        state = self.captured.module.state_dict() if self.state is None else self.state
        model = (self.captured.graph, state, self.captured.watched, self.captured.frozen)
        self.aims = tuple(aim_of(stage, *model) for stage in self.plan.stages)
        for aim in self.aims:
            check_aim(aim)
        check_order(self.aims)
        self.demands(dict.fromkeys(n for aim in self.aims for n in aim.found.sizes))

    def candidates(self, stage: Stage) -> Candidates:
        """What competes in a stage of the plan."""
        return next(aim.found for aim in self.aims if aim.stage is stage)

    def demands(self, masks: Mapping[str, Tensor | None]) -> None:
        """What ``lower`` demands of masks (of names alone, where they are None): ``PKC402``, ``PKC422`` and ``PKC424``."""
        lower = self.plan.schedule.lower
        matching = globbed([glob for glob, _ in lower], list(masks))
        shapes = {n: shape for aim in self.aims for n, shape in aim.found.shapes.items()}
        check_demands(lower, masks, matching, shapes, sides_of(self.captured.graph))

    def foresee(self, masks: Mapping[str, Tensor]) -> str:
        """Refuse what these masks cannot lead to (``PKC423``, ``PKC424``), before any work; what there is to say of it, or ''."""
        check_connected(self.captured.graph, self.captured.tensors)
        masks = plain_masks(self.captured.graph, masks)
        if masks:
            check_given(self.aims[0], masks)
        lower = self.plan.schedule.lower
        names = list(dict.fromkeys(n for aim in self.aims for n in aim.found.sizes))
        check_producible(lower, globbed([glob for glob, _ in lower], names), self.aims, masks)
        return pruned_frozen([aim.found for aim in self.aims], self.captured.frozen)

    def finish(self, masks: Mapping[str, Tensor] | None = None, *, progress: bool = False) -> Pruned:
        """All rounds at once. Warns of a stage that misses its target, or that position decides."""
        started = time.monotonic()
        if said := self.foresee(masks or {}):
            remark(said, UserWarning)
        last = None
        for state in shown(self.rounds(masks=masks), self.total_rounds, progress):
            last = state
            for fault in state.faults:
                remark(fault, UserWarning)
        assert last is not None
        return self.result(last, time.monotonic() - started)

    def result(self, last: Round, seconds: float) -> Pruned:
        """The result of the last round. Raises ``PKC424`` where its masks are not as ``lower`` demands."""
        self.demands(last.masks)
        packed = next((tuple(aim.found.sizes) for aim in reversed(self.aims) if aim.quantity.word == "size"), ())
        sizes = {n: size for aim in self.aims for n, size in aim.found.sizes.items()}
        total = sum((sizes | {n: m.numel() for n, m in last.masks.items()}).values())  # masks that were given, too
        given = (last.masks, self.plan, self.captured.graph, self.captured.tensors, seconds, total)
        return Pruned(*given, packed=packed, by_position=last.by_position)

    @property
    def total_rounds(self) -> int:
        """The rounds of all stages together."""
        return sum(s.rounds or 1 for s in self.plan.stages)

    def rounds(self, *, masks: Mapping[str, Tensor] | None = None, after: Round | None = None) -> Iterator[Round]:
        """The state after each round, going on after ``after``; raises ``PKC410`` (with the last good state) on layer collapse.

        A stage whose requirement a round would break stops short of it, at the least that still meets it; the rest of its rounds
        change nothing. Raises ``PKC423`` where not even the masks at the beginning meet that of the first stage.
        """
        masks = plain_masks(self.captured.graph, masks)
        current: Masks = dict(after.masks if after else masks)
        last, ground = after, after.ground if after else Ground()
        for i, (aim, pass_) in enumerate(zip(self.aims, self.plan.passes, strict=True)):
            if after and i < after.stage:
                continue
            before = after if after and i == after.stage else None
            aim = replace(aim, found=aim.found.under(current))
            ground = before.ground if before else ground.next(self.plan.stages, self.plan.passes, i, current)
            start, met = self._start(aim, current, masks, i, before), self._met(aim, current, i, before)
            stage = _Stage(self, i, aim, pass_, start=start, stopped=met, ground=ground, given=masks)
            stage.by_position = before.by_position if before else 0
            for k in range((before.round if before else 0) + 1, stage.rounds + 1):
                state = stage.round(k, current)
                if not self._alive(state):
                    raise collapse(state, last, self._last_good(last), pass_.name)
                current, last = state.masks, state
                yield state

    def _start(self, aim: Aim, current: Masks, masks: Mapping[str, Tensor] | None, stage: int, before: Round | None) -> float:
        """The part that a stage starts at: its predecessor's target, that of the masks given, or what is there."""
        if before is not None and before.start is not None:
            return before.start
        if stage > 0 and aim.plain and self.aims[stage - 1].quantity.word == "density":
            return self.plan.stages[stage - 1].density
        if stage > 0 or not aim.plain:
            return aim.amount(current) / aim.quantity.whole
        pruned = sum(int((~m.bool()).sum()) for n, m in (masks or {}).items() if n in aim.found.sizes)
        return 1 - pruned / aim.found.total

    def _met(self, aim: Aim, current: Masks, stage: int, before: Round | None) -> str:
        """Why a stage has stopped already; '' where it has not. Raises ``PKC423``."""
        least = required_paths(aim.stage)
        if before is not None or not least:
            return before.stopped if before else ""
        have = effective_paths(self.captured.graph, self.captured.tensors, current)
        if have >= least:
            return ""
        if stage == 0:
            raise PkcError(shortfall(aim.stage, have))
        return f"there are {have:,} paths before it, and it requires {least:,}"

    def _alive(self, state: Round) -> bool:
        """Whether a path from an input is left: by operations after every round, by entries at the end of a stage."""
        if not operations_connect(self.captured.graph, empty(state)):
            return False
        return state.round < state.rounds or has_path(self.captured.graph, self.captured.tensors, state.masks)

    def _last_good(self, last: Round | None) -> Round | None:
        """The state before a collapse, if entries still connected in it."""
        return last if last and has_path(self.captured.graph, self.captured.tensors, last.masks) else None


class _Stage:
    """One stage of a run, from the part ``start`` on. ``stopped``: why it changes nothing any more."""

    def __init__(
        self,
        run: Run,
        place: int,
        aim: Aim,
        pass_: Pass,
        *,
        start: float,
        stopped: str,
        ground: Ground,
        given: Mapping[str, Tensor],
    ) -> None:
        self.run, self.place, self.aim, self.pass_, self.start, self.stopped = run, place, aim, pass_, start, stopped
        self.ground, self.may = ground, ground.of(aim.stage, given)
        self.stage, self.graph, self.tensors = aim.stage, run.captured.graph, run.captured.tensors
        self.rounds = self.stage.rounds or 1
        self.passes = [pass_] if self.stage.regrow is None else [pass_, self.stage.regrow]
        self.works: list[Workspace] = []
        self.zeros, self.by_position = Zeros(run.captured, aim, pass_), 0

    def round(self, k: int, current: Masks) -> Round:
        """The state after round k. Raises ``PKC507`` for NaN scores, ``PKC413`` where all are 0."""
        part = density_at(self.stage.curve or "exponential", k, self.rounds, self.aim.part, self.start)
        if self.stopped:
            return self._state(k, part, current)
        scores = self._scores(k, current, part)
        masks = {**current, **self._chosen(scores, current, part)}
        compete = current if self.pass_.among == "kept" else self.may
        self.zeros.check(scores[0], compete, current, masks, f"round {k} of {self.rounds}")
        if self._short(masks):
            masks = self._least(scores, current, part)
            have, least = effective_paths(self.graph, self.tensors, masks), required_paths(self.stage)
            self.stopped = f"it requires {least:,} paths, and {have:,} are left"
        if self.stopped or k == self.rounds:
            self.by_position = self.zeros.chosen(scores[0], compete, masks)
        return self._state(k, part, masks, self.works[0].log10_mass(), scores[0].standard_error)

    def _scores(self, k: int, current: Masks, part: float) -> Sequence[Scores]:
        run, scope = self.run, self.stage.scope or "global"
        counted = self.aim.quantity.word == "density" and self.aim.coupling is None
        known = counted and len(self.passes) == 1 and not self.stage.requires
        goal = goal_of(self.aim.found, part, scope) if known else None
        if not self.works:
            for p in self.passes:
                names = None if reads_all(p) else frozenset(self.aim.found.competing)
                prunable = frozenset(self.aim.found.sizes)
                work = workspace(run.captured, p, current, run.dtype, run.evidence, wanted=names, prunable=prunable)
                self.works.append(work)
        for work in self.works:
            work.masks, work.goal = current, goal
        anew = [Draw(run.plan.seed, (self.place, k)).number("regrow") for _ in self.passes[1:]]  # regrow draws anew in every round
        seeds = [run.plan.seed, *anew]
        return [evaluate(p, w, seed, (self.place, k)) for p, w, seed in zip(self.passes, self.works, seeds, strict=True)]

    def _chosen(self, scores: Sequence[Scores], current: Masks, part: float) -> Masks:
        """The masks of the candidates at a part of the whole, swapped where the stage regrows."""
        chosen = self.aim.choose(self.pass_, scores[0], current, part, self.run.survivors, self.may)
        if len(scores) == 1:
            return chosen
        block = self.aim.structure if isinstance(self.aim.structure, Block) else None
        return swap(
            chosen,
            scores[0],
            scores[1],
            self.aim.found,
            self.stage.swap or SWAP,
            scope=self.stage.scope or "global",
            order=self.pass_.order,
            block=block,
            limit=Limit(self.aim.quantity, self.aim.budget(part), part),
            ground=self.may,
        )

    def _short(self, masks: Masks) -> bool:
        """Whether masks break the requirement of the stage."""
        least = required_paths(self.stage)
        return bool(least) and effective_paths(self.graph, self.tensors, masks) < least

    def _least(self, scores: Sequence[Scores], current: Masks, part: float) -> Masks:
        """The masks of the least amount that were found to meet the requirement, from a part that breaks it to what is there."""
        low, high, best = part, self.aim.amount(current) / self.aim.quantity.whole, current
        while self.aim.budget(high) - self.aim.budget(low) > 1:
            middle = (low + high) / 2
            if not low < middle < high:
                break
            masks = {**current, **self._chosen(scores, current, middle)}
            if self._short(masks):
                low = middle
            else:
                high, best = middle, masks
        return best

    def _state(self, k: int, part: float, masks: Masks, mass: float | None = None, error: float | None = None) -> Round:
        found = self.aim.found
        kept = sum(count(masks[n]) if n in masks else found.sizes[n] for n in found.sizes)
        density = part if self.aim.plain and not self.stopped else kept / found.total
        short = missed(self.aim, masks) if k == self.rounds and not self.stopped else ""
        draws = "" if error is None or k < self.rounds else estimated(self.pass_, error)
        position = (self.by_position, self.zeros.said(self.by_position, kept)) if k == self.rounds else (0, "")
        told = (mass, self.start, self.stopped, self.ground.begun, self.ground.left, short, draws, *position)
        return Round(self.place, k, self.rounds, density, kept, found.total, masks, *told)
