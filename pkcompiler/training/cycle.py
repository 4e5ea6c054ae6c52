"""One cycle of training, as the user's loop sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.training.driven import Driven
from pkcompiler.training.position import Midway, Position, Reading
from pkcompiler.training.randomness import random_state, set_random_state
from pkcompiler.training.visit import Visit

Batch = TypeVar("Batch")

LOOP = "for epoch in cycle: for x, y in loader: ...; optimizer.step(); cycle.step(); then cycle.epoch_end()"


@methods_in_own_modes
class Cycle:
    """Iterates over the epochs of one cycle, by their numbers from 1; after rewinding the first is not 1.

    In the body of the loop, call :meth:`step` after every ``optimizer.step()`` and :meth:`epoch_end` last.
    """

    def __init__(self, run: Driven, number: int) -> None:
        self.number = number
        self._run = run
        self._open = False
        self._first = True
        self._readings: list[Reading] = []  # the loops over batches in this epoch
        self._before: list[Reading] = []  # those of the state within it that training went back to, not yet begun again

    def __repr__(self) -> str:
        position = self._run.position
        return f"Cycle({self.number}: epoch {position.epoch} of {self._run.epochs}, step {position.step})"

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks now, by parameter name: bool tensors on the CPU."""
        return dict(self._run.masks)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        position = self._run.position
        if self._open:
            raise _misused(
                f"epoch {position.epoch + 1} has not ended", "call cycle.epoch_end() last in the body of the loop over epochs"
            )
        if self.over:
            raise StopIteration
        if self._first:
            self._run.restore_random()
        self._before = [*position.midway.readings] if self._first and position.midway is not None else []
        self._open, self._first, self._readings = True, False, []
        return position.epoch + 1

    @property
    def over(self) -> bool:
        """Whether the cycle has no further epoch: all are done, or training is to go back."""
        return self._run.back is not None or self._run.position.epoch >= self._run.epochs

    @checked
    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of a loader, as iterating over it gives them.

        Needed where a state within an epoch is gone back to (``rewind = step(500)``, ``checkpoint_steps``). The body of the epoch
        then runs again from its beginning: loops that had ended give nothing, the others what follows the batches that were read
        before, and before the first of these everything that training changes is what it was there. Ends early where a round
        within the epoch is followed by rewinding.
        """
        self._require_open("cycle.batches(loader)")
        return self._batches(loader)

    def _batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        if self._run.back is not None:
            return
        again = bool(self._before)
        reading = self._before.pop(0) if again else Reading(random_state(self._run.trained.generators))
        self._readings.append(reading)
        if reading.ended:
            return
        batches = self._after(loader, reading) if again else iter(loader)
        try:
            for batch in batches:
                reading.batches += 1
                yield batch
                if self._run.back is not None:
                    return
        finally:
            reading.ended = True

    def _after(self, loader: Iterable[Batch], reading: Reading) -> Iterator[Batch]:
        """What follows the batches that were read before: these are read again and dropped."""
        generators = self._run.trained.generators
        now = random_state(generators)
        set_random_state(reading.before, generators)
        batches = iter(loader)
        for read in range(reading.batches):
            if next(batches, _NOTHING) is _NOTHING:
                raise _misused(f"the loader has {read} batches, {reading.batches} were read before", "give the same loader")
        if not self._run.restore_within():
            set_random_state(now, generators)
        return batches

    def step(self) -> Visit | None:
        """A step of training has ended: the round that is due now, if any, is done."""
        self._require_open("cycle.step()")
        run = self._run
        if run.back is not None:
            raise _midway_needed("the last step was followed by rewinding, and the loop over batches went on")
        self._require_read("cycle.step()", not self._before)
        step = run.position.step + 1
        midway = self._midway() if run.needs_midway(step) else None
        return run.reached(("steps", step), Position(run.position.epoch, step, midway))

    def epoch_end(self) -> Visit | None:
        """An epoch has ended: the round that is due now, if any, is done, and a checkpoint written."""
        self._require_open("cycle.epoch_end()")
        run, position = self._run, self._run.position
        self._require_read("cycle.epoch_end()", not run.within)
        self._open = False
        if run.back is not None:
            run.save()
            return None
        if run.agenda.by_step and position.step == 0:
            raise _misused("the schedule counts steps, and epoch 1 had none", "call cycle.step() after every optimizer.step()")
        return run.reached(("epochs", position.epoch + 1), Position(position.epoch + 1, position.step))

    def close(self) -> None:
        """The loop asks for the next cycle. Raises ``PKC452`` where this one has not ended."""
        if self._open or not self.over:
            position = self._run.position
            message = f"the loop left cycle {self.number} after epoch {position.epoch} of {self._run.epochs}"
            raise _misused(message, "train all epochs of a cycle, or leave both loops", LOOP)

    def _midway(self) -> Midway | None:
        return Midway([replace(reading) for reading in self._readings]) if self._readings else None

    def _require_read(self, call: str, met: bool) -> None:
        """Refuse (``PKC453``) to go on from within an epoch where the loops over its batches are not begun again."""
        if not met:
            read = sum(reading.batches for reading in self._before)
            epoch = self._run.position.epoch + 1
            raise _midway_needed(
                f"{call} in epoch {epoch}, of which {read} batches were read before, and not through the cycle now"
            )

    def _require_open(self, call: str) -> None:
        if not self._open or not self._run.is_current(self):
            where = "before the first epoch or after the end of one" if self._run.is_current(self) else "of a cycle that has ended"
            raise _misused(f"{call} {where}", LOOP)


_NOTHING = object()


def _misused(message: str, *notes: str) -> PkcError:
    return fail("PKC452", message, *notes)


def _midway_needed(message: str) -> PkcError:
    return fail("PKC453", message, "read the batches so: for x, y in cycle.batches(loader)")


def require_midway(position: Position, what: str) -> None:
    """Refuse (``PKC453``) to record a state within an epoch of which only the user's loop knows the place."""
    if position.midway is None or not position.midway.amid:
        raise _midway_needed(f"{what} is within an epoch, outside of a loop over batches that the cycle reads")
