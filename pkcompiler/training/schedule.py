"""A schedule that prunes while a network trains: read, checked against the training, and driven from the user's own loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pkcompiler.arguments import checked, fits, methods_checked, plain
from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Schedule
from pkcompiler.lang.library import find_schedule
from pkcompiler.lang.plan import Plan, plan_of
from pkcompiler.lowering.apply import applied_masks, refuse_inference
from pkcompiler.modes import in_own_modes, methods_in_own_modes
from pkcompiler.paths.sources import first_sample
from pkcompiler.predict.initial import Factory
from pkcompiler.scoring.evidence import Evidence, as_pair, planned_data
from pkcompiler.scoring.losses import Loss
from pkcompiler.training.agenda import Agenda, check_agenda, stretched, trains
from pkcompiler.training.checkpoint import Checkpoint
from pkcompiler.training.cycles import Cycles
from pkcompiler.training.randomness import generators_of, untouched_random
from pkcompiler.training.recipe import length_of, recipe_of
from pkcompiler.training.run_state import Stateful, Trained
from pkcompiler.training.visit import Pruner

LR_SCHEDULER = "lr_scheduler"


@checked
@in_own_modes
def load_schedule(path_or_text: str | Path | Schedule, *, seed: int | None = None) -> TrainingSchedule:
    """The schedule of a ``.pkc`` file (``file.pkc:name`` picks one of several) or of a text, to train by.

    ``seed``: in place of the schedule's. Raises PkcError with everything wrong, and ``PKC450`` where no stage runs in training.
    """
    found = path_or_text if isinstance(path_or_text, Schedule) else find_schedule(path_or_text)
    if not any(trains(s) for s in found.stages):
        raise fail(
            "PKC450",
            f"every stage of the schedule '{found.name}' runs before training",
            "pkcompiler.prune(model, example_inputs, schedule=...).masks, then train; or write at = epochs(2..20) in a stage",
            span=found.span,
        )
    plan = plan_of(schedule=found, seed=seed)
    return TrainingSchedule(plan, Agenda.of(stretched(plan.stages)))


@methods_checked
@methods_in_own_modes
@dataclass(frozen=True, slots=True)
class TrainingSchedule:
    """A schedule with every setting filled in (``plan``), and its rounds laid out over training (``agenda``)."""

    plan: Plan
    agenda: Agenda

    def __repr__(self) -> str:
        rounds = len(self.agenda.appointments)
        return f"TrainingSchedule({self.name}: {rounds} round{'s' * (rounds != 1)})"

    @property
    def name(self) -> str:
        """The name of the schedule."""
        return self.plan.schedule.name

    @property
    def text(self) -> str:
        """The resolved schedule, with the text of every pass."""
        return self.plan.text

    def cycles(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        example_inputs: Any = None,
        *,
        epochs: int,
        loader: Iterable[Any] | None = None,
        steps_per_epoch: int | None = None,
        lr_scheduler: Stateful | None = None,
        also: Mapping[str, Stateful] | None = None,
        generators: Any = (),
        data: Any = None,
        loss: Loss | None = None,
        initialise: Factory | None = None,
        dtype: torch.dtype = torch.float64,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        checkpoint_steps: int | None = None,
    ) -> Cycles:
        """Drive the schedule from a loop over ``epochs`` epochs::

            for cycle in schedule.cycles(model, optimizer, x[:1], epochs=20, loader=loader):
                for epoch in cycle:
                    for x, y in loader:
                        ...
                        optimizer.step()
                        cycle.step()
                    cycle.epoch_end()

        The model is pruned in place, as :func:`pkcompiler.apply_masks` does. ``example_inputs``: as of
        :func:`pkcompiler.prune` (default: the first sample of ``data``). ``loader`` (and ``generators``): whose random states are
        kept; ``steps_per_epoch``: to check moments by (default: the batches of ``loader``, where it tells how many);
        ``lr_scheduler`` and ``also``: what else has ``state_dict`` and ``load_state_dict``. ``data``, ``loss``: for passes that
        read them; a function of no arguments gives the data of each round. ``initialise``: a fresh model from a seed, for
        passes with ``init = fresh``. ``dtype``: of the sweeps. ``checkpoint``: a file, written after every epoch (and every
        ``checkpoint_steps`` steps); with ``resume`` it is gone on with, by a run that is the same (:func:`recipe_of`).

        Raises PkcError: ``PKC451`` for moments that training does not come to, ``PKC454``-``PKC456`` for a checkpoint that does
        not fit, ``PKC458`` for arguments, ``PKC474`` for a model of inference tensors, ``PKC460`` for another model's optimizer;
        else as :func:`pkcompiler.prune`.
        """
        epochs = _number("epochs", epochs)
        steps_per_epoch = None if steps_per_epoch is None else _number("steps_per_epoch", steps_per_epoch)
        checkpoint_steps = None if checkpoint_steps is None else _number("checkpoint_steps", checkpoint_steps)
        refuse_inference(model)
        _check_optimizer(model, optimizer)
        check_agenda(self.agenda, epochs, steps_per_epoch or length_of(loader))
        others = {**({} if lr_scheduler is None else {LR_SCHEDULER: lr_scheduler}), **(also or {})}
        trained = Trained(model, optimizer, others, generators_of(loader, _generators(generators)))
        evidence = Evidence(self._data(data), loss, initialise=initialise)
        inputs = _example(evidence.data) if example_inputs is None else example_inputs
        masks = {n: m.cpu() for n, m in applied_masks(model).items()}
        pruner = Pruner(model, inputs, self.plan.with_stages(self.agenda.stages), evidence, dtype, masks)
        file = None if checkpoint is None else Checkpoint(Path(checkpoint), recipe_of(self.text, trained, epochs, dtype, loader))
        run = Cycles(trained, pruner, self.agenda, epochs, file, checkpoint_steps, masks)
        found = file.read(resume) if file else None
        with untouched_random(trained.generators):
            if found is not None:
                run.resume(found)
            pruner.check()
        return run

    def _data(self, given: Any) -> Any:
        """The data of the rounds: what the caller gives, else what the schedule names, if anything reads it."""
        return given if callable(given) else as_pair(planned_data(given, self.plan), self.plan.seed)


def _number(name: str, given: Any) -> int:
    found = plain(given, int)
    if not fits(found, int) or found < 1:
        raise fail("PKC458", f"{name} = {given!r}", "expected a whole number, at least 1")
    return int(found)


def _generators(given: Any) -> tuple[torch.Generator, ...]:
    found = tuple(given) if isinstance(given, Iterable) else given
    if not fits(found, tuple[torch.Generator, ...]):
        wrong = next((g for g in found if not isinstance(g, torch.Generator)), None) if isinstance(found, tuple) else found
        kind = f"holds a {type(wrong).__name__}" if isinstance(found, tuple) else f"is a {type(wrong).__name__}"
        raise fail("PKC458", f"generators {kind}, expected a list of torch.Generators", "generators=[generator]")
    return found


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise fail(
            "PKC460",
            "the optimizer holds no parameter of the model",
            "make it from this model, after moving it to its device: torch.optim.SGD(model.parameters(), lr=0.1)",
        )


def _example(samples: Any) -> Any:
    x = getattr(samples, "x", samples[0] if isinstance(samples, tuple | list) and samples else None)
    if isinstance(x, Tensor | tuple | list | Mapping):
        return first_sample(x)
    raise fail("PKC458", "no example inputs are given", "schedule.cycles(model, optimizer, example_inputs=x[:1], ...)")
