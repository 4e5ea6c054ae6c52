"""Prune: words -> a plan; a model, a plan, data and a loss -> a run -> rounds, checkpoints, an artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pkcompiler.arguments import checked
from pkcompiler.artifact.resume import Work, begin
from pkcompiler.artifact.write import write
from pkcompiler.data import LoadedData, load_data
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.driver.open import Opened, Say, captured_on, find_device, objective_of, quiet
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.frontend.pruned import both, unpruned
from pkcompiler.ir.graphs import crossed_factors
from pkcompiler.ir.text import print_graph
from pkcompiler.lang.ast import Pass, Schedule
from pkcompiler.lang.plan import Plan, plan_of, refuse_training
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.sources import device_of
from pkcompiler.paths.topology import topology
from pkcompiler.predict.initial import Factory
from pkcompiler.pruning.collapse import Collapsed
from pkcompiler.pruning.progress import bar
from pkcompiler.pruning.provenance import Provenance, describe_data, describe_inputs, make_recipe, origin_of, state_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.pruning.state import Pruned, Round, misfit
from pkcompiler.scoring.evidence import Evidence, planned_data
from pkcompiler.scoring.losses import Loss


def target_of(given: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The one target of a call, None for none. Raises ``PKC404`` for several."""
    found = [(word, value) for word, value in given.items() if value is not None]
    if len(found) > 1:
        names = " and ".join(f"{word}={value:g}" for word, value in found)
        raise fail("PKC404", f"{len(found)} targets are given: {names}", "give one of them")
    return found[0] if found else None


@checked
@in_own_modes
def prune(
    model: nn.Module,
    example_inputs: Any,
    pass_: str | Path | Pass | None = None,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    compression: float | None = None,
    flops: float | None = None,
    size: float | None = None,
    schedule: str | Path | Schedule | None = None,
    rounds: int | None = None,
    curve: str | None = None,
    scope: str | None = None,
    select: str | None = None,
    structure: str | None = None,
    include: str | Sequence[str] = (),
    except_: str | Sequence[str] = (),
    data: Any = None,
    loss: Loss | None = None,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    output: str | int | None = None,
    progress: bool = False,
    initialise: Factory | None = None,
) -> Pruned:
    """Prune a model by a pass to a target, or by a schedule: the words of ``pkc prune``. The model is not changed.

    ``pass_``: a name of the library, a ``.pkc`` file or its text; ``schedule``: a file or text. One target: ``density`` (the part
    that is kept), ``sparsity`` (that is removed), ``compression`` (weights per kept weight), ``flops`` (the part of the
    multiply-adds at the example that is left) or ``size`` (bytes of the sparse file). ``rounds``, ``curve``, ``scope`` (``global``,
    ``layer``, ``uniform``, ``erk``), ``select`` (``exact``, ``kth-le``) and ``structure`` (``2:4``, ``block(16, 16)``,
    ``channel``) override what pass and schedule say. ``include`` and ``except_``: names, globs or words (``bias``, ``norm``,
    ``embedding``; ``frozen`` for ``except_``) of parameters that are pruned too, and that are kept whole. ``data``: as of
    :func:`score`; default what the schedule names. ``masks``: where to start from; masks that
    ``torch.nn.utils.prune`` has put on the model hold, too. ``dtype``: of the sweeps, default float64.
    ``device``: where scores are computed, default where the model is. ``output``: which, where the model returns several.
    ``initialise(seed)`` builds a fresh model, for passes with ``init = fresh``. Raises PkcError: ``PKC4xx`` for targets and layer
    collapse, else as :func:`score`.
    """
    targets = {"sparsity": sparsity, "density": density, "compression": compression, "flops": flops, "size": size}
    plan = plan_of(
        pass_,
        schedule=schedule,
        target=target_of(targets),
        rounds=rounds,
        curve=curve,
        scope=scope,
        select=select,
        structure=structure,
        include=include,
        exclude=except_,
        seed=seed,
    )
    refuse_training(plan)
    model, held = unpruned(model, example_inputs)
    precision = dtype or torch.float64
    captured = _captured(model, example_inputs, precision, device, output)
    found = planned_data(data, plan)
    evidence = Evidence.of(found, plan.seed, loss, initialise)
    run = Run(captured, plan, precision, evidence, state=model.state_dict())
    pruned = replace(run.finish(both(masks, held), progress=progress), inputs=example_inputs)
    where = device_of(captured.graph, captured.tensors).type
    given: dict[str, Any] = {"schedule": plan.text, "dtype": precision, "device": where, "data": found, "loss": loss}
    return replace(pruned, origin=origin_of(model, example_inputs, captured.graph, **given))


def _captured(
    model: nn.Module, inputs: Any, dtype: torch.dtype, device: str | torch.device | None, output: str | int | None
) -> Capture:
    if device is None:
        return captured_for_caller(model, inputs, dtype=dtype, output=output)
    where = find_device(str(device), dtype)
    there = tree_map(lambda value: value.to(where) if isinstance(value, Tensor) else value, inputs)
    return captured_for_caller(faithful_copy(model, inputs).to(where), there, dtype=dtype, output=output)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A run that can start, and the provenance of its result."""

    run: Run
    origin: Provenance
    data: LoadedData | None

    def effective_sparsity(self, state: Round) -> float:
        """The part of N that lies on no path under the masks of a state."""
        captured = self.run.captured
        effective = topology(captured.graph, captured.tensors, state.masks).effective
        counted = self.run.aims[state.stage].found.sizes
        return 1 - sum(int(effective[name].sum()) for name in counted) / state.total


@in_own_modes
def job(
    opened: Opened,
    plan: Plan,
    *,
    data_source: str | None = None,
    loss: str | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    rehearsed: bool = False,
) -> Job:
    """Everything that a run needs, checked before any work: data drawn, loss found, targets reachable.

    ``data_source``: where the plan's data really lies (the plan itself names no absolute path). ``rehearsed``: the rounds that
    training comes to are not done. Raises ``PKC425`` where there are any that would be, ``PKC411`` for a device
    that is not there, what :func:`~pkcompiler.data.load_data` raises, and what :class:`Run` raises.
    """
    if not rehearsed:
        refuse_training(plan)
    where = find_device(device, dtype)
    spec = plan.schedule.data
    needed = plan.needs_data and spec is not None
    data = load_data(replace(spec, source=data_source or spec.source), plan.seed) if needed and spec else None
    if spec is not None and not needed:
        opened.say("the passes read no data: none is loaded")
    objective, objective_hash = objective_of(opened, loss) if plan.needs_data else (None, None)
    state = state_of(opened.module)
    captured = captured_on(opened, where, dtype)
    split = crossed_factors(captured.graph, "either", at_data=False)
    for name, word in plan.products.items() if split else ():
        opened.say(f"products of activations: {len(split)}, read by '{name}' as products = {word} (docs/theory.md, section 1)")
    evidence = Evidence(data and data.on(where), objective, data.batch if data else None, opened.initialise)
    run = Run(captured, plan, dtype, evidence, state=state)
    if remark := run.foresee({}):
        opened.say(remark)
    inputs = describe_inputs(opened.inputs)
    recipe = make_recipe(
        state,
        graph=print_graph(captured.graph),
        schedule=plan.text,
        inputs=inputs,
        dtype=dtype,
        device=where.type,
        data=data,
        batch=data.batch if data else None,
        loss=objective_hash,
        model={"source": opened.loaded.sha256, "seed": opened.seed, "args": str(sorted(opened.describe()["args"].items()))},
    )
    return Job(run, Provenance(state, opened.describe(), inputs, describe_data(data), recipe), data)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """``found``: ``new``, ``resumed`` or ``complete`` (the artifact was there; ``pruned`` is None then)."""

    folder: Path
    found: str
    pruned: Pruned | None


@in_own_modes
def prune_to(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    fresh: bool = False,
    progress: bool = True,
    command: str | None = None,
    say: Say = quiet,
) -> Outcome:
    """Run a job in ``<out>.partial`` and rename it when it is whole; go on where an earlier run of the same recipe stopped.

    ``command``: what was typed, kept beside an unfinished run. Raises :class:`Collapsed` with the last good state (which is kept),
    ``PKC62x`` for what lies in the way. On an interrupt the state is written first.
    """
    work = begin(out, job.origin.recipe, force=force, fresh=fresh)
    if work.found == "complete":
        return Outcome(out, "complete", None)
    try:
        if command is not None:
            work.typed(command)
        if work.after is not None and misfit(work.after, job.run.aims, job.run.captured.tensors):
            work.forget()
        if work.after is not None:
            _resumed(work, work.after, say)
        last, seconds = _run(job, work, progress, say)
        pruned = replace(job.run.result(last, work.spent + seconds), origin=job.origin)
        with work.writing():
            write(pruned, work.partial)
        work.finish()
    finally:
        work.release()
    return Outcome(out, work.found, pruned)


def _resumed(work: Work, after: Round, say: Say) -> None:
    say(f"resuming after round {after.round} of {after.rounds} ({after.density:.4g} kept): {work.partial}")
    if work.collapse:
        say(f"the last run of this command ended here in {work.collapse}; the same settings end in the same: change one of them")


def _run(job: Job, work: Work, progress: bool, say: Say) -> tuple[Round, float]:
    """The rounds that are left, each followed by a checkpoint; the last state and the seconds that it took."""
    started, last = time.monotonic(), work.after
    try:
        with _bar(job, work.after, progress) as update:
            for state in job.run.rounds(after=work.after):
                if state.stopped and not (last and last.stage == state.stage and last.stopped):
                    say(f"stage {state.stage + 1} stops at round {state.round} of {state.rounds}: {state.stopped}")
                for remark in state.remarks:
                    say(remark)
                last = state
                work.checkpoint(state, time.monotonic() - started)
                update(state)
    except BaseException as stop:
        _stopped(work, last, time.monotonic() - started, stop, say)
        raise
    assert last is not None
    work.checkpoint(last, time.monotonic() - started, now=True)
    return last, time.monotonic() - started


def _stopped(work: Work, last: Round | None, seconds: float, stop: BaseException, say: Say) -> None:
    """Keep what was done, and say how to go on."""
    if last is None:
        work.discard()
    else:
        _kept(work, last, seconds, say)
    if isinstance(stop, KeyboardInterrupt):
        done = f"after round {last.round} of {last.rounds}" if last else "before the first round was done"
        say(f"interrupted {done}; the same command goes on from there" + (f" ({work.partial})" if last else ""))
    if isinstance(stop, Collapsed) and last is not None:
        with suppress(PkcError):  # the collapse is the news, whether or not there is room to keep it
            work.collapsed(stop.diagnostics[0].message.partition(":")[0])
            good = stop.state
            if good is not None:
                say(f"the masks of round {good.round} ({good.kept:,} of {good.total:,} kept): {work.keep_masks(good)}")


def _kept(work: Work, last: Round, seconds: float, say: Say) -> None:
    """Write the last state, whatever has ended the run; where that cannot be done, an earlier one stays."""
    try:
        work.checkpoint(last, seconds, now=True)
    except PkcError as error:
        say(f"the state after round {last.round} is not kept: {error.diagnostics[0].message}")


def _bar(job: Job, after: Round | None, progress: bool) -> AbstractContextManager[Callable[[Round], None]]:
    if not progress:
        return nullcontext(lambda state: None)
    done = sum(s.rounds or 1 for s in job.run.plan.stages[: after.stage]) + after.round if after else 0
    return bar(job.run.total_rounds, done=done, effective=job.effective_sparsity)


@in_own_modes
def rehearse(job: Job) -> Iterator[Round]:
    """The state after every round; nothing is written (``--dry-run``)."""
    with _bar(job, None, True) as update:
        for state in job.run.rounds():
            update(state)
            yield state
