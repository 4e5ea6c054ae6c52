"""The cycles of training under a schedule: rounds at their moments, rewinding, checkpoints (docs/training.md)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.pruning.state import Round
from pkcompiler.training.agenda import Agenda, Appointment, Moment, counted, shown
from pkcompiler.training.checkpoint import Checkpoint
from pkcompiler.training.contents import problem
from pkcompiler.training.cycle import Cycle, require_midway
from pkcompiler.training.position import Position
from pkcompiler.training.randomness import random_state, set_random_state, untouched_random
from pkcompiler.training.run_state import NotTaken, Trained
from pkcompiler.training.visit import Pruner, Visit


@methods_in_own_modes
@dataclass(slots=True, eq=False, repr=False)
class Cycles:
    """Iterates over the cycles of training: one, and one more after every rewinding.

    ``masks``: now, by parameter name (bool, on the CPU). ``visits``: the rounds done. ``position``: epochs and steps that have
    ended. ``back``: where training goes back to next. ``resumed``: whether a checkpoint was found. ``finished``: nothing is left.
    """

    trained: Trained
    pruner: Pruner
    agenda: Agenda
    epochs: int
    checkpoint: Checkpoint | None = None
    checkpoint_steps: int | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    number: int = 1
    back: Moment | None = None
    finished: bool = False
    resumed: bool = False
    current: Cycle | None = None
    _after: Round | None = None
    _snapshots: dict[Moment, dict[str, Any]] = field(default_factory=dict)
    _random: dict[str, Any] | None = None
    _found: dict[str, Any] | None = None
    _within: Mapping[str, Any] | None = None  # the state within an epoch that training went back to, until its batches are read

    def __repr__(self) -> str:
        rounds = f"{len(self.visits)} of {len(self.agenda.appointments)} rounds"
        return f"Cycles(cycle {self.number}, {self._ended()}, {rounds}{', finished' * self.finished})"

    def __iter__(self) -> Iterator[Cycle]:
        return self

    def __next__(self) -> Cycle:
        if self.finished and self._found is None:
            raise StopIteration
        if self.current is not None:
            self.current.close()
            self._turn()
        elif self._found is not None:
            self._go_back(self._found)
            self._found = None
        else:
            self._start()
        if self.finished:
            raise StopIteration
        self._random = random_state(self.trained.generators)
        self.current = Cycle(self, self.number)
        return self.current

    def is_current(self, cycle: object) -> bool:
        """Whether a cycle is the one that runs."""
        return self.current is cycle

    def restore_random(self) -> None:
        """Before the first epoch of a cycle: what was drawn since the cycle was asked for does not count."""
        if self._random is not None:
            set_random_state(self._random, self.trained.generators)

    @checked
    def follow(self, average: nn.Module) -> nn.Module:
        """Hold the masks of every round on an average of the weights, too, from now on; returns it.

        ``average``: a ``torch.optim.swa_utils.AveragedModel``, or any network with the model's parameters. Raises ``PKC461`` where
        it has others.
        """
        network = average.module if isinstance(average, AveragedModel) else average
        expected = {n: p.shape for n, p in self.trained.model.named_parameters()}
        found = {n: p.shape for n, p in network.named_parameters()}
        if wrong := [n for n in {**expected, **found} if expected.get(n) != found.get(n)]:
            message = f"the average is not of the model that is trained: they differ in the parameter '{wrong[0]}'"
            raise fail("PKC461", message, "average = cycles.follow(torch.optim.swa_utils.AveragedModel(model))")
        self.trained.averages.append(network)
        self.trained.keep(self.masks)
        return average

    @property
    def within(self) -> bool:
        """Whether training went back to a state within an epoch, and has not come to it again."""
        return self._within is not None

    def restore_within(self) -> bool:
        """Within an epoch, after the batches that were read before: the state of that place, once; whether there is one."""
        state, self._within = self._within, None
        if state is not None:
            self.trained.restore(state, self.masks)
        return state is not None

    def reached(self, moment: Moment, position: Position) -> Visit | None:
        """An epoch or a step has ended: do the round that is due, record the state where a stage goes back to it."""
        self.position = position
        done = self._rounds(moment)
        if self.back is not None and moment[0] == "steps":
            require_midway(position, f"rewinding {shown(moment)}")
        if self.back is None:
            self._record(moment)
        if moment[0] == "epochs":
            self.save()
        elif self._saves_within(moment[1]) and (position.midway is None or position.midway.amid):
            require_midway(position, "a checkpoint")
            self.save()
        return done[-1] if done else None

    def needs_midway(self, step: int) -> bool:
        """Whether the place within the epoch is to be known after a step."""
        moment = ("steps", step)
        due = self.agenda.due(len(self.visits), moment)
        return moment in self.agenda.rewinds or (due is not None and due.rewind is not None) or self._saves_within(step)

    def _saves_within(self, step: int) -> bool:
        return self.checkpoint is not None and self.checkpoint_steps is not None and step % self.checkpoint_steps == 0

    def save(self) -> None:
        """Write the checkpoint, if one is wanted."""
        if self.checkpoint is not None:
            self.checkpoint.write(self._tree())

    def _start(self) -> None:
        """Before training: hold the masks that the model comes with, do the rounds before training, record and save."""
        self.trained.keep(self.masks)
        self._rounds(("start", 0))
        for unit in ("epochs", "steps"):
            self._record((unit, 0))
        self.save()

    def _turn(self) -> None:
        """After a cycle: the rounds after training, then back to where the last round says, or the end."""
        if self.back is None:
            self._rounds(("end", 0))
        if self.back is None:
            self._refuse_unmet()
            self.pruner.conclude(self.masks)
            self.finished = True
        else:
            self._rewind(self.back)
        self.save()

    def _rewind(self, moment: Moment) -> None:
        snapshot = self._snapshots.get(moment)
        if snapshot is None:
            message = f"training is to go back to {counted(moment)}, which it had not come to after {self._ended()}"
            raise fail("PKC451", message, "rewind to an earlier moment")
        self.position = Position.of(snapshot["position"])
        self._go_back(snapshot["state"])
        self.number += 1
        self.back = None

    def _go_back(self, state: Mapping[str, Any]) -> None:
        try:
            self.trained.restore(state, self.masks)
        except NotTaken as error:
            if self.checkpoint is None or not self.resumed:
                assert error.__cause__ is not None
                raise error.__cause__ from None
            raise self.checkpoint.damaged(str(error)) from error.__cause__
        self._within = None if self.position.midway is None else state

    def _rounds(self, moment: Moment) -> list[Visit]:
        """All rounds that are due now, until one goes back; the random states stay as they are."""
        done: list[Visit] = []
        due = self.agenda.due(len(self.visits), moment)
        if due is None:
            return done
        with untouched_random(self.trained.generators):
            states = self.pruner.rounds(self._after)
            while due is not None and self.back is None:
                done.append(self._round(due, next(states)))
                due = self.agenda.due(len(self.visits), moment)
        self.pruner.refuse_undefined(self.masks)
        self.trained.keep(self.masks)
        return done

    def _round(self, due: Appointment, state: Round) -> Visit:
        assert (state.stage, state.round) == (due.stage, due.round)
        self._after, self.masks, self.back = state, state.masks, due.rewind
        for fault in state.faults:
            warnings.warn(fault, stacklevel=2)
        name, position = self.agenda.stages[due.stage].pass_name, self.position
        visit = Visit(
            name, state.round, state.rounds, self.number, position.epoch, position.step, state.density, state.kept, state.total
        )
        self.visits.append(visit)
        return visit

    def _record(self, moment: Moment) -> None:
        """Keep the state if some stage goes back to this moment: the first time that training comes to it."""
        if moment not in self.agenda.rewinds or moment in self._snapshots:
            return
        if moment[0] == "steps" and moment[1]:
            require_midway(self.position, counted(moment))
        self._snapshots[moment] = {"state": self.trained.record(), "position": self.position.tree()}

    def _refuse_unmet(self) -> None:
        if len(self.visits) == len(self.agenda.appointments):
            return
        due = self.agenda.appointments[len(self.visits)]
        name = self.agenda.stages[due.stage].pass_name
        message = f"the stage '{name}' runs {shown(due.moment)}, but training ended after {self._ended()}"
        raise fail("PKC451", message, "train longer, or give the stage earlier moments")

    def _ended(self) -> str:
        return f"epoch {self.position.epoch}, step {self.position.step:,}"

    # checkpoints ------------------------------------------------------------------------------------------------------

    def _tree(self) -> dict[str, Any]:
        last = self._after
        facts = None if last is None else {f.name: getattr(last, f.name) for f in fields(Round) if f.name != "masks"}
        return {
            "number": self.number,
            "back": self.back,
            "finished": self.finished,
            "position": self.position.tree(),
            "round": facts,
            "masks": dict(self.masks),
            "initial": dict(self.pruner.initial),
            "visits": [asdict(v) for v in self.visits],
            "snapshots": [[moment, snapshot] for moment, snapshot in self._snapshots.items()],
            "state": self.trained.record(),
        }

    def resume(self, tree: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds; the model follows when the first cycle is asked for.

        Raises ``PKC456``, before anything is taken, where this run cannot have written it.
        """
        if self.checkpoint is not None and (wrong := problem(tree, self)):
            raise self.checkpoint.damaged(wrong)
        self.number, self.back, self.finished = tree["number"], tree["back"], tree["finished"]
        self.position = Position.of(tree["position"])
        self.masks = tree["masks"]
        self.pruner.initial = tree["initial"]
        self.visits = [Visit(**v) for v in tree["visits"]]
        self._after = None if tree["round"] is None else Round(**tree["round"], masks=dict(self.masks))
        self._snapshots = dict(tree["snapshots"])
        self._found, self.resumed = tree["state"], True
