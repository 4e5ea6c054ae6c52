"""The rounds of a schedule that training comes to: when each is done and what it leaves, known before any training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pkcompiler.lang.ast import Stage
from pkcompiler.lang.check.curves import density_at
from pkcompiler.pruning.target import Aim
from pkcompiler.training.agenda import Agenda, Appointment, stretched, trains


@dataclass(frozen=True, slots=True)
class PlannedRound:
    """``left``: how much of the quantity ``word`` (weights, multiply-adds, bytes) the round leaves, of ``whole``.

    ``left`` is None where it depends on what a stage of another quantity leaves in training.
    """

    appointment: Appointment
    word: str
    left: int | None
    whole: int

    @property
    def part(self) -> float | None:
        """``left / whole``; None where ``left`` is."""
        return None if self.left is None else self.left / self.whole


def before_training(stages: Sequence[Stage]) -> int:
    """How many rounds come before the first that training comes to."""
    first = next((i for i, stage in enumerate(stages) if trains(stage)), len(stages))
    return sum(stage.rounds or 1 for stage in stages[:first])


def planned(aims: Sequence[Aim], masks: Mapping[str, Tensor]) -> Iterator[PlannedRound]:
    """The rounds from the first stage that runs in training on. ``masks``: those that the stages before it leave."""
    stages = stretched([aim.stage for aim in aims])
    rounds = Agenda.of(stages).appointments
    first = next(i for i, stage in enumerate(stages) if trains(stage))
    for i in range(first, len(stages)):
        aim, stage = aims[i], stages[i]
        if i and aims[i - 1].quantity.word == aim.quantity.word:
            start = aims[i - 1].part
        else:
            start = aim.amount(masks) / aim.quantity.whole if i == first else math.nan
        for appointment in (a for a in rounds if a.stage == i):
            part = density_at(stage.curve or "exponential", appointment.round, stage.rounds or 1, aim.part, start)
            yield PlannedRound(appointment, aim.quantity.word, None if math.isnan(part) else aim.budget(part), aim.quantity.whole)
