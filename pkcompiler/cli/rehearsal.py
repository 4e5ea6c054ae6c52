"""What ``pkc prune --dry-run`` does: the rounds before training as in the real run, those in training as they are planned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pkcompiler.cli.output import deliver_json, say
from pkcompiler.cli.summary import densities, densities_json, planned_json

if TYPE_CHECKING:
    from torch import Tensor

    from pkcompiler.driver.prune import Job


def show_rehearsal(task: Job, json_file: str | None, folder: str | None) -> None:
    """Print the rounds and, where ``folder`` is given, draw them; nothing else is written."""
    from pkcompiler.driver.prune import rehearse
    from pkcompiler.training.agenda import trains
    from pkcompiler.training.planned import before_training, planned

    stages = task.run.plan.stages
    number, trained = before_training(stages), any(trains(stage) for stage in stages)
    computed = f"scores of {number} round{'s' * (number != 1)} are computed as in the real run; " if number else ""
    say(f"dry run: {computed}nothing is written")
    started = time.monotonic()
    states, masks = [], dict[str, "Tensor"]()
    for state in islice(rehearse(task), number):
        states.append(densities_json(state))
        masks = state.masks
        for remark in state.remarks:
            say(remark)
    if number:
        say(_took(number, time.monotonic() - started, trained))
    if trained:
        states += [planned_json(found) for found in planned(task.run.aims, masks)]
        later = len(states) - number
        say(f"{later} round{'s' * (later != 1)} in training: what is left of each layer depends on the weights then")
    _deliver(states, json_file, folder)


def _took(number: int, seconds: float, trained: bool) -> str:
    took = f"{number} round{'s' * (number != 1)} took {seconds:.1f} s"
    return took if trained else f"{took}; the real run takes about as long"


def _deliver(states: Sequence[Mapping[str, Any]], json_file: str | None, folder: str | None) -> None:
    if deliver_json({"schema": 1, "rounds": states}, json_file):
        densities(states)
    if folder is not None:
        from pkcompiler.show.densities import write_densities

        say(f"plots: {', '.join(str(path) for path in write_densities(folder, states))}")
