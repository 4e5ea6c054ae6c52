"""Schedules that prune while a network trains, driven from the user's own loop."""

from __future__ import annotations

from pkcompiler.training.cycle import Cycle
from pkcompiler.training.cycles import Cycles
from pkcompiler.training.schedule import TrainingSchedule, load_schedule
from pkcompiler.training.visit import Visit

__all__ = ["Cycle", "Cycles", "TrainingSchedule", "Visit", "load_schedule"]
