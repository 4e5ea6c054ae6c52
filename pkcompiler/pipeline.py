"""The driver: from what a user types to a graph, a certificate, masks, an artifact. Reads as the table of contents.

open_model    spec, inputs, weights -> a module with its inputs
graph         -> trace, export, lift
certificate   -> is the lift the model?
job           a plan, data and a loss -> a run, ready to start
prune_to      -> rounds, checkpoints, an artifact
compare       artifacts -> densities, overlaps, norms
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler import usercode
from pkcompiler.artifact.resume import Work, begin
from pkcompiler.artifact.write import write
from pkcompiler.data import LoadedData, load_data
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.frontend.inputs import Inputs, example_inputs
from pkcompiler.frontend.load_weights import load_weights
from pkcompiler.frontend.spec import LoadedModel, load_model, rebuilt
from pkcompiler.ir.graphs import crossed_factors
from pkcompiler.ir.text import print_graph
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.plan import Plan, refuse_training
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.certificate import Certificate, certify_capture
from pkcompiler.paths.topology import topology
from pkcompiler.pruning.collapse import Collapsed
from pkcompiler.pruning.progress import bar
from pkcompiler.pruning.provenance import Provenance, describe_data, describe_inputs, make_recipe, state_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.pruning.state import Pruned, Round
from pkcompiler.scoring.losses import Loss
from pkcompiler.scoring.total_loss import load_loss

Say = Callable[[str], None]
"""Takes one line for the reader of stderr."""


def quiet(message: str) -> None:
    """Says nothing."""


# a model -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that a spec names, ready to be traced. ``weights_sha256``: of the file given; ``plugins``: name to sha256."""

    module: nn.Module
    inputs: Inputs
    loaded: LoadedModel
    output: str | int | None
    seed: int
    args: Mapping[str, object]
    gates: tuple[str, ...]
    plugins: Mapping[str, str]
    weights_sha256: str | None
    say: Say

    @property
    def name(self) -> str:
        """The stem of the file or module."""
        return self.loaded.name

    @cached_property
    def captured(self) -> Capture:
        """Traced and lifted in the model's own precision."""
        return self.capture(None)

    @property
    def graph(self) -> PathGraph:
        """The path graph."""
        return self.captured.graph

    @property
    def initialise(self) -> Callable[[int], nn.Module] | None:
        """Seed to a fresh model by the factory; None where there is none, or where the weights are given."""
        if self.loaded.built or self.weights_sha256 is not None:
            return None
        return lambda seed: rebuilt(self.loaded, self.args, seed)

    def capture(self, dtype: torch.dtype | None, inputs: Any = None) -> Capture:
        """Trace and lift in another precision, or at other inputs; says which output was chosen and what a static batch means."""
        chosen = self.inputs if inputs is None else inputs
        found = capture(self.module, chosen, dtype=dtype, output=self.output, gates=self.gates, name=self.name)
        if self.output is None and found.call.output_name != "output":
            self.say(f"several outputs: '{found.call.output_name}' is analysed; --output NAME chooses another")
        for text in found.remarks:
            self.say(text)
        return found

    def describe(self) -> dict[str, Any]:
        """The manifest's entry ``model``."""
        return {
            "class": type(self.module).__name__,
            "spec": self.loaded.spec,
            "factory": self.loaded.factory,
            "built": self.loaded.built,
            "args": {key: repr(value) for key, value in self.args.items()},
            "sha256": self.loaded.sha256,
            "seed": self.seed,
            "weights_sha256": self.weights_sha256,
            "output": None if self.output is None else str(self.output),
            "gates": list(self.gates),
            "plugins": dict(self.plugins),
        }


@in_own_modes
def open_model(
    spec: str,
    *,
    args: Sequence[str] = (),
    inputs: Sequence[str] = (),
    output: str | int | None = None,
    seed: int = 0,
    weights: str | None = None,
    plugins: Sequence[str] = (),
    gates: Sequence[str] = (),
    say: Say = quiet,
) -> Opened:
    """A model from the words of a command line: plugins are imported first, then the model is built, fed and weighted.

    Raises what :mod:`~pkcompiler.frontend.spec`, ``inputs`` and ``weights`` raise, all with the user's own words.
    """
    registered = {Path(plugin).name: import_plugin(plugin) for plugin in plugins}
    arguments = usercode.parse_arguments(args)
    loaded = load_model(spec, arguments, seed)
    fed = example_inputs(loaded, inputs, seed)
    digest = None if weights is None else load_weights(loaded.module, weights)
    if weights is None:
        say(f"no --weights given: the network is a random initialisation (seed {seed})")
    return Opened(loaded.module, fed, loaded, output, seed, arguments, tuple(gates), registered, digest, say)


def import_plugin(file: str) -> str:
    """Import a file with ``@path_op`` entries; returns the sha256 of its source."""
    python = usercode.import_spec(usercode.parse_spec(file, "plugin"))
    return usercode.source_hash(usercode.source_of(python))


# its certificate -----------------------------------------------------------------------------------------------------------


@in_own_modes
def certificate(opened: Opened) -> Certificate:
    """The certificates in float64, at standard normal inputs of the example's shapes (integer inputs as they are)."""
    return certify_capture(opened.capture(torch.float64, random_inputs(opened.inputs, opened.seed)))


def random_inputs(inputs: Inputs, seed: int) -> Inputs:
    """Floating tensors drawn anew from a standard normal distribution."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

    return Inputs(tuple(drawn(t) for t in inputs.args), {name: drawn(t) for name, t in inputs.kwargs.items()})


# pruning -------------------------------------------------------------------------------------------------------------------


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
    pair = None if data is None else data.on(where)
    run = Run(captured, plan, dtype, pair, objective, data.batch if data else None, state=state, initialise=opened.initialise)
    run.foresee({})
    if remark := run.remark():
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


def objective_of(opened: Opened, spec: str | None) -> tuple[Loss | None, str | None]:
    """The loss that ``spec`` names, else ``loss`` of the model's file, else None (cross-entropy); and the hash of its source."""
    if spec is not None:
        return load_loss(spec)
    found = getattr(opened.loaded.python, "loss", None)
    if not callable(found):
        return None, None
    return load_loss(found, opened.loaded.source), opened.loaded.sha256


def captured_on(opened: Opened, where: torch.device, dtype: torch.dtype) -> Capture:
    """The model, moved to a device, traced and lifted at its inputs there."""
    opened.module.to(where)
    args, kwargs = tuple(t.to(where) for t in opened.inputs.args), {n: t.to(where) for n, t in opened.inputs.kwargs.items()}
    return opened.capture(dtype, Inputs(args, kwargs))


def find_device(name: str, dtype: torch.dtype = torch.float64) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` ... Raises ``PKC411`` where it is not there, or holds no numbers of this precision."""
    try:
        found = torch.device(name)
        torch.ones(1, device=found, dtype=dtype).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise fail("PKC411", f"the device '{name}' cannot be used: {first}", "leave it out, or --device cpu") from None
    return found


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
