"""A run of training under a schedule, as one cycle of it and the check of a checkpoint see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from pkcompiler.training.agenda import Agenda, Moment
from pkcompiler.training.position import Position
from pkcompiler.training.run_state import Trained
from pkcompiler.training.visit import Pruner, Visit


class Driven(Protocol):
    """What :class:`~pkcompiler.training.cycles.Cycles` is to those that it drives."""

    trained: Trained
    pruner: Pruner
    agenda: Agenda
    epochs: int
    masks: Mapping[str, Tensor]
    position: Position
    back: Moment | None

    @property
    def within(self) -> bool:
        """Whether a state within an epoch is to be gone back to."""

    def is_current(self, cycle: object) -> bool:
        """Whether a cycle is the one that runs."""

    def restore_random(self) -> None:
        """Set the random state of the place that training went back to."""

    def restore_within(self) -> bool:
        """Take up the state within an epoch; False where there is none."""

    def needs_midway(self, step: int) -> bool:
        """Whether the place within the epoch is to be recorded after a step."""

    def reached(self, moment: Moment, position: Position) -> Visit | None:
        """A moment has come: its round is done."""

    def save(self) -> None:
        """Write a checkpoint."""
