"""When a schedule prunes: its rounds laid out in the order of the text, each at a moment of training. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pkcompiler.diagnostics import Diagnostic, PkcError, fail
from pkcompiler.lang.ast import At, Stage

Kind = Literal["start", "epochs", "steps", "end"]
Moment = tuple[str, int]
"""``("epochs", 3)``: after epoch 3; ``("steps", 500)``: after step 500; ``("start", 0)`` and ``("end", 0)``."""

PER_EPOCH = "steps_per_epoch=..."
UNITS = {"epoch": "epochs", "step": "steps"}


@dataclass(frozen=True, slots=True)
class Appointment:
    """One round of a stage: ``stage`` from 0, ``round`` from 1, when, and where training goes back to afterwards."""

    stage: int
    round: int
    moment: Moment
    rewind: Moment | None = None

    def __str__(self) -> str:
        back = "" if self.rewind is None else f", then back to {counted(self.rewind)}"
        return shown(self.moment) + back


@dataclass(frozen=True, slots=True)
class Agenda:
    """All rounds of a schedule in their order; ``stages`` have their ``rounds`` filled in."""

    stages: tuple[Stage, ...]
    appointments: tuple[Appointment, ...]

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Agenda:
        """The agenda of stages in the order of the text."""
        return cls(tuple(stages), tuple(_laid_out(stages)))

    @property
    def rewinds(self) -> frozenset[Moment]:
        """The moments whose state is to be recorded."""
        return frozenset(a.rewind for a in self.appointments if a.rewind is not None)

    @property
    def by_step(self) -> bool:
        """Whether the schedule counts steps anywhere."""
        moments = [*(a.moment for a in self.appointments), *self.rewinds]
        return any(kind == "steps" for kind, _ in moments)

    def due(self, done: int, moment: Moment) -> Appointment | None:
        """The round to do at a moment, after ``done`` rounds; None where there is none.

        Raises ``PKC459`` where a round of a later stage is due, and an earlier one still waits for its moment.
        """
        waiting = self.appointments[done] if done < len(self.appointments) else None
        if waiting is None:
            return None
        if waiting.moment == moment:
            return waiting
        if moment[0] in ("epochs", "steps"):
            self._missed(done, waiting, moment)
        return None

    def _missed(self, done: int, waiting: Appointment, moment: Moment) -> None:
        late = next((a for a in self.appointments[done:] if a.stage > waiting.stage and a.moment == moment), None)
        if late is None:
            return
        name, other = self.stages[late.stage].pass_name, self.stages[waiting.stage].pass_name
        raise fail(
            "PKC459",
            f"the stage '{name}' runs {shown(moment)}, but the stage '{other}' before it still waits for {counted(waiting.moment)}",
            "stages run in the order of the text: give both in epochs, or both in steps",
        )


def stage_at(stage: Stage) -> At:
    """When a stage runs: before training, unless it says otherwise."""
    return stage.at or At("start")


def stretched(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages with as many rounds as they have visits."""
    return tuple(replace(stage, rounds=len(stage_at(stage).visits) or stage.rounds) for stage in stages)


def trains(stage: Stage) -> bool:
    """Whether a stage runs in training or after it."""
    return stage_at(stage).kind != "start"


def shown(moment: Moment) -> str:
    """``after epoch 3``, ``after step 500``, ``before training``, ``after training``."""
    return {"start": "before training", "end": "after training"}.get(moment[0]) or f"after {counted(moment)}"


def counted(moment: Moment) -> str:
    """``epoch 3``, ``step 500``."""
    kind, number = moment
    return f"{kind.removesuffix('s')} {number:,}" if kind in ("epochs", "steps") else f"the {kind} of training"


def _laid_out(stages: Sequence[Stage]) -> Iterator[Appointment]:
    for i, stage in enumerate(stages):
        at = stage_at(stage)
        back = None if stage.rewind is None else (UNITS[stage.rewind[0]], stage.rewind[1])
        numbers = at.visits or (0,) * (stage.rounds or 1)
        for k, number in enumerate(numbers, 1):
            yield Appointment(i, k, (at.kind, number), back)


def check_agenda(agenda: Agenda, epochs: int, per_epoch: int | None) -> None:
    """Refuse what training never comes to, before any work (``PKC451``); ``per_epoch``: steps of an epoch, where that is known."""
    length = {"epochs": epochs, "steps": None if per_epoch is None else epochs * per_epoch}
    errors = []
    for i, stage in enumerate(agenda.stages):
        last = next(a for a in reversed(agenda.appointments) if a.stage == i)
        first = next(a for a in agenda.appointments if a.stage == i)
        most = length.get(last.moment[0])
        if most is not None and last.moment[1] > most:
            note = f"train longer, or write at = {_fitting(stage_at(stage), most)}" if most else "train longer"
            errors.append(_beyond(f"the stage '{stage.pass_name}' runs {shown(last.moment)}", last.moment[0], most, note))
        if first.rewind is None:
            continue
        most = length.get(first.rewind[0])
        what = f"the stage '{stage.pass_name}' rewinds to {counted(first.rewind)}"
        if most is not None and first.rewind[1] >= most:
            errors.append(_beyond(what, first.rewind[0], most, "train longer, or rewind to an earlier moment"))
        elif not _before(first.rewind, first.moment, per_epoch):
            message = f"{what}, but runs {shown(first.moment)} already{_where(first.rewind, first.moment, per_epoch)}"
            errors.append(Diagnostic("PKC451", message, stage.span, notes=(_earlier(first.rewind, first.moment, per_epoch),)))
    if errors:
        raise PkcError(*errors)


def _before(back: Moment, moment: Moment, per_epoch: int | None) -> bool:
    """Whether training has come to ``back`` when it comes to ``moment``, as far as that is known.

    After the last step of an epoch come the rounds of that step, then those of the epoch.
    """
    if back[0] == moment[0]:
        return back[1] < moment[1]
    if per_epoch is None or moment[0] == "end":
        return True
    back_step, step = (number * (per_epoch if kind == "epochs" else 1) for kind, number in (back, moment))
    return back_step < step or (back_step == step and moment[0] == "epochs")


def _where(back: Moment, moment: Moment, per_epoch: int | None) -> str:
    """Of a round by epochs and a state by steps, or the reverse: how many steps it is counted with."""
    if back[0] == moment[0] or per_epoch is None:
        return ""
    if moment[0] == "epochs":
        return f", which ends with step {moment[1] * per_epoch:,}"
    return f", in epoch {-(-moment[1] // per_epoch):,} of {per_epoch:,} steps"


def _earlier(back: Moment, moment: Moment, per_epoch: int | None) -> str:
    note = "rewind to an earlier moment"
    return note if back[0] == moment[0] else f"{note}; where an epoch has other than {per_epoch:,} steps, say so: {PER_EPOCH}"


def _beyond(what: str, kind: str, most: int, note: str) -> Diagnostic:
    note = f"{note}; where an epoch has more steps than the loader batches, say so: {PER_EPOCH}" if kind == "steps" else note
    return Diagnostic("PKC451", f"{what}, but training has {most:,} {kind if most != 1 else kind.removesuffix('s')}", notes=(note,))


def _fitting(at: At, most: int) -> str:
    every = f", every = {at.every}" if at.every != 1 else ""
    return f"{at.kind}({min(at.first, most)}..{most}{every})"
