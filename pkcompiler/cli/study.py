"""``pkc study``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkcompiler.cli.output import put, say, table
from pkcompiler.cli.streams import stderr

if TYPE_CHECKING:
    from pkcompiler.driver.study.grid import Cell
    from pkcompiler.driver.study.run import State, Studied
    from pkcompiler.driver.study.store import Record

SHOWN = 5
"""Failed cells that are named."""


@click.command()
@click.argument("file", metavar="FILE")
@click.option("-o", "--out", metavar="DIR", help="The study's folder.  [default: ./study-<name>]")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes.  [default: one for each core]")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each process.  [default: cores / jobs]")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Where networks are pruned and trained.")
@click.option("--retry-failed", is_flag=True, help="Do the cells again that failed.")
@click.option("--dry-run", is_flag=True, help="Say which cells there are and which are done; run and write nothing.")
@click.option("--plot", is_flag=True, help="Draw the figures into the study's folder, as PNG and SVG.")
def study(
    file: str, *, out: str | None, jobs: int | None, threads: int | None, device: str, retry_failed: bool, dry_run: bool, plot: bool
) -> None:
    """Run a study: every pass at every target with every seed, trained.

    FILE declares it (file.pkc:name picks one of several). Each cell has a file of its own in DIR/cells; the same command again
    does what is left. The results are DIR/results.csv and DIR/results.parquet.
    """
    from pkcompiler.driver.study.run import check_study, require_study, run_study, state_of_study
    from pkcompiler.lang.library import find_study, split_path

    found = find_study(file)
    folder, where = Path(split_path(file)[0]).parent, Path(out or f"study-{found.name}")
    require_study()
    if plot:
        from pkcompiler.show.extra import need

        need("matplotlib", "--plot")
    again = _command(file, {"-o": out, "--jobs": jobs, "--threads": threads, "--device": device if device != "cpu" else None})
    state = state_of_study(found, folder, where, device)
    _announce(found.name, state, retry_failed)
    if dry_run:
        check_study(state, retry_failed)
        _cells(state)
        return
    started = time.monotonic()
    with _bar(len(state.todo(retry_failed))) as update, _interruptible(again):
        done = run_study(
            found,
            where,
            folder=folder,
            jobs=jobs,
            threads=threads,
            device=device,
            retry_failed=retry_failed,
            update=update,
            cells=state.cells,
        )
    if done.ran:
        say(f"{done.ran} cells took {time.monotonic() - started:.0f} s")
    _results(done)
    if plot:
        _draw(done)
    _failures(again, done)


def _announce(name: str, state: State, retry_failed: bool) -> None:
    parts = [f"{state.count('done') + state.count('collapsed')} done"]
    if failed := state.count("failed"):
        parts.append(f"{failed} failed" + (", which are done again" if retry_failed else ""))
    left = state.todo(retry_failed)
    parts.append(f"{len(left)} to do")
    seconds = [sum(r["seconds"].values()) for r in state.records if r is not None and r["status"] == "done"]
    took = f", about {len(left) * sum(seconds) / len(seconds):.0f} s on one process" if seconds and left else ""
    count = len(state.cells)
    say(f"{name}: {count} {'cell' if count == 1 else 'cells'}, {', '.join(parts)}{took}")


def _cells(state: State) -> None:
    """What each cell is, and how it stands."""
    pairs = zip(state.cells, state.records, strict=True)
    rows = [(c.model_name, c.method, _times(c.compression), str(c.seed), "to do" if r is None else r["status"]) for c, r in pairs]
    table(("model", "method", "compression", "seed", "status"), rows)


def _times(compression: float | None) -> str:
    return "" if compression is None else f"{compression:g}x"


@contextmanager
def _interruptible(again: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; finished cells are kept, and what is left is done by: {again}")
        raise


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Cell, Record], None] | None]:
    """A line on stderr, where that is a terminal."""
    if (stream := stderr()) is None or not stream.isatty() or not total:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("cell {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task("study", total=total, state="")

        def update(cell: Cell, record: Record) -> None:
            progress.update(task, advance=1, state=f"{cell.name}: {record['status']}")

        yield update


def _results(done: Studied) -> None:
    """The mean of the first number that train returns, for every method and compression."""
    from pkcompiler.driver.study.results_table import metric_of, summary

    metric = metric_of(done.rows)
    if metric is not None:
        header, rows = summary(done.rows, metric)
        put(f"{metric.removeprefix('train: ')}, mean over seeds +- standard deviation")
        put()
        table(header, rows)
    collapsed = done.state.count("collapsed")
    if collapsed:
        say(f"{collapsed} cells collapsed: no path was left to train")
    if done.rows:
        say(f"results: {done.out / 'results.csv'}, {done.out / 'results.parquet'}")


def _draw(done: Studied) -> None:
    from pkcompiler.driver.study.results_table import measures_of, metric_of
    from pkcompiler.show.study import write_study_plots

    metric = metric_of(done.rows)
    if metric is None:
        say("nothing is drawn: no cell has a number of train")
        return
    paths = write_study_plots(done.out, done.rows, metric, measures_of(done.rows))
    say(f"figures: {', '.join(str(path) for path in paths if path.suffix == '.png')}, and as SVG")


def _command(file: str, options: Mapping[str, object]) -> str:
    """The command that goes on with the same study, the same way."""
    given = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return shlex.join(["pkc", "study", file, *given])


def _failures(again: str, done: Studied) -> None:
    """Raise ``PKC478`` where cells failed."""
    from pkcompiler.diagnostics import fail

    failed = done.failures
    if not failed:
        return
    lines = [f"{r['model']} {r['method']} {_times(r['compression'])} seed {r['seed']}: {r['message']}" for r in failed[:SHOWN]]
    more = [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
    where = f"their files in {done.out / 'cells'} hold the tracebacks"
    note = f"{again} --retry-failed does these cells again"
    raise fail("PKC478", f"{len(failed)} of {len(done.state.cells)} cells failed", *lines, *more, where, note)
