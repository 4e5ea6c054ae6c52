"""``pkc prune``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.model import model_options, opened
from pkcompiler.cli.output import deliver_json, put, say, typed
from pkcompiler.cli.target import Bytes, Factor, Part, Word, short

if TYPE_CHECKING:
    from pkcompiler.driver.open import Opened
    from pkcompiler.driver.prune import Job
    from pkcompiler.lang.ast import DataSpec, Schedule
    from pkcompiler.lang.plan import Plan

PASS = "synflow-l2"


@click.command()
@model_options
@click.option("--pass", "pass_", metavar="PASS", help="How weights are scored: a name of 'pkc passes', or a file.")
@click.option("--schedule", metavar="FILE", help="A schedule in place of a pass and a target.")
@click.option("--sparsity", type=Part(zero=True, one=False), help="What is removed: 98% or 0.98.")
@click.option("--density", type=Part(zero=False, one=True), help="What is kept: 2% or 0.02.")
@click.option("--compression", type=Factor(), help="Weights per kept weight: 50x or 50.")
@click.option("--flops", type=Part(zero=False, one=True), help="Multiply-adds that are left: 30% or 0.3.")
@click.option("--size", type=Bytes(), help="Bytes of the sparse file of the weights: 4MB, 500KB.")
@click.option("--data", metavar="DATA", help="Samples: digits, mnist5k, file.npz, module:factory, with (per_class = 10).")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples per forward pass.  [default: all]")
@click.option("--loss", metavar="SPEC", help="path/file.py:function, called with output and target.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Rounds of every stage.  [default: those of the pass]")
@click.option("--curve", metavar="CURVE", help="Over the rounds: exponential, linear, cubic, or in k, n, rho: 'rho^(k/n)'.")
@click.option("--scope", type=click.Choice(["global", "layer", "uniform", "erk"]), help="Where weights compete.")
@click.option("--select", type=Word(["exact", "kth-le"]), help="How survivors are chosen.")
@click.option("--structure", metavar="SHAPE", help="What goes together: 2:4, 'block(16, 16)', channel, unstructured.")
@click.option("--include", multiple=True, metavar="GLOB", help="Prune these parameters too (or: bias, norm, embedding).")
@click.option(
    "--except", "exclude", multiple=True, metavar="GLOB", help="Keep these parameters whole (or: bias, norm, embedding, frozen)."
)
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True, help="Of the scores.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Where scores are computed: cpu, cuda, cuda:1.")
@click.option("-o", "--out", metavar="DIR", help="The artifact's folder.  [default: ./<model>-<pass>-<target>-s<seed>]")
@click.option("--force", is_flag=True, help="Replace the artifact, or the unfinished run, that is there.")
@click.option("--fresh", is_flag=True, help="Begin an unfinished run again.")
@click.option("--dry-run", is_flag=True, help="Print the densities of every round, by layer; write nothing.")
@click.option("--plot", metavar="DIR", help="With --dry-run: draw these densities there, densities.png and densities.svg.")
@click.option("--print-schedule", is_flag=True, help="Print the schedule that equals these options; do nothing.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the result as JSON (- is stdout, in place of the text).")
@click.pass_context
def prune(ctx: click.Context, /, force: bool, fresh: bool, json_file: str | None, **given: Any) -> None:
    """Prune a model: score its weights, keep the best, write an artifact.

    Give a pass with one of --sparsity, --density, --compression, --flops and --size, or a schedule. The same command
    again goes on where an unfinished run stopped.
    """
    if force and fresh:
        raise click.UsageError("--force and --fresh exclude each other: --force replaces whatever is there, type only --force.")
    if given["plot"] and not given["dry_run"]:
        raise click.UsageError("--plot draws the densities of a dry run: type --dry-run --plot DIR.")
    model = {key: given.pop(key) for key in ("model", "args", "inputs", "output", "seed", "weights", "plugins", "gates")}
    chosen_seed = model["seed"] if ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT else None
    plan, source = planned(seed=chosen_seed, model=model["model"], **given)
    if given["print_schedule"]:
        put(plan.schedule.text, nl=False, exact=True)
        return
    network = opened(**{**model, "seed": plan.seed})
    task = _job(network, plan, source, given)
    if given["dry_run"]:
        from pkcompiler.cli.rehearsal import show_rehearsal

        show_rehearsal(task, json_file, given["plot"])
        return
    out = Path(given["out"] or default_folder(network.name, plan))
    _run(task, out, force, fresh, json_file, model["model"])


def planned(
    *,
    pass_: str | None,
    schedule: str | None,
    sparsity: float | None,
    density: float | None,
    compression: float | None,
    flops: float | None,
    size: float | None,
    data: str | None,
    batch: int | None,
    seed: int | None,
    model: str,
    include: Sequence[str],
    exclude: Sequence[str],
    **options: Any,
) -> tuple[Plan, str | None]:
    """The plan of the options, and where its data lie (the plan names no absolute path). Raises a usage error, or ``PkcError``."""
    targets = {"sparsity": sparsity, "density": density, "compression": compression, "flops": flops, "size": size}
    target = _target(model, pass_, schedule, {word: value for word, value in targets.items() if value is not None})
    from pkcompiler.data import parse_data
    from pkcompiler.lang.library import find_schedule
    from pkcompiler.lang.plan import plan_of, require_data

    found = None if schedule is None else find_schedule(schedule)
    spec = parse_data(data) if data else found.data if found else None
    spec = _with_batch(spec, batch)
    named = None if spec is None else replace(spec, source=portable(spec.source))
    plan = plan_of(
        pass_,
        schedule=None if found is None else replace(found, data=None),
        target=target,
        include=include,
        exclude=exclude,
        seed=seed,
        data=named,
        **{key: options[key] for key in ("rounds", "curve", "scope", "select", "structure")},
    )
    require_data(plan)
    return plan, spec.source if spec else None


def _target(model: str, pass_: str | None, schedule: str | None, targets: dict[str, float]) -> tuple[str, float] | None:
    """The one target; every other combination is a usage error that says what to type."""
    flags = " and ".join(f"--{word}" for word in targets)
    if pass_ is None and schedule is None and targets:
        raise click.UsageError(f"No pass: type how weights are scored, such as --pass {PASS}; 'pkc passes' lists them.")
    if pass_ is None and schedule is None:
        example = f"pkc prune {model} --pass {PASS} --sparsity 98%"
        raise click.UsageError(f"Nothing says how to prune: type a pass and a target, {example}, or --schedule FILE.")
    if pass_ is not None and schedule is not None:
        raise click.UsageError("--pass and --schedule exclude each other: type one of them.")
    if schedule is not None and targets:
        raise click.UsageError(f"A schedule names its own targets: leave out {flags}.")
    if schedule is not None:
        return None
    if not targets:
        raise click.UsageError(f"No target: type how much, such as --sparsity 98% (--pass {pass_} --sparsity 98%).")
    if len(targets) > 1:
        raise click.UsageError(f"{len(targets)} targets, {flags}: type only one of them.")
    return next(iter(targets.items()))


def _with_batch(spec: DataSpec | None, batch: int | None) -> DataSpec | None:
    if batch is None:
        return spec
    if spec is None:
        raise click.UsageError("--batch needs samples: type --data, such as --data digits.")
    options = tuple((key, value) for key, value in spec.options if key != "batch")
    return replace(spec, options=(*options, ("batch", batch)))


def portable(source: str) -> str:
    """A data source without an absolute path: relative to the current folder, or the name alone."""
    place, colon, name = source.partition(":")
    path = Path(place)
    if not path.is_absolute():
        return source
    here = path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name
    return here + colon + name


def default_folder(model: str, plan: Plan) -> str:
    """``<model>-<pass or schedule>-<target>-s<seed>``; of several stages the last one's target."""
    schedule: Schedule = plan.schedule
    return f"{model}-{schedule.name}-{short(schedule.stages[-1].target)}-s{plan.seed}"


def _job(network: Opened, plan: Plan, source: str | None, given: dict[str, Any]) -> Job:
    import torch

    from pkcompiler.driver.prune import job

    dtype = {"float64": torch.float64, "float32": torch.float32}[given["dtype"]]
    return job(
        network,
        plan,
        data_source=source,
        loss=given["loss"],
        dtype=dtype,
        device=given["device"],
        rehearsed=given["dry_run"],
    )


def _run(task: Job, out: Path, force: bool, fresh: bool, json_file: str | None, spec: str) -> None:
    from pkcompiler.artifact.read import load
    from pkcompiler.cli.summary import result, result_json
    from pkcompiler.driver.prune import prune_to

    outcome = prune_to(task, out, force=force, fresh=fresh, command=typed(), say=say)
    if outcome.found == "complete":
        say(f"up to date: {out}")
    artifact = load(out)
    if deliver_json({**result_json(artifact), "status": outcome.found}, json_file):
        result(artifact, spec)
