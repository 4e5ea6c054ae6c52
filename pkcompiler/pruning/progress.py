"""The progress bar of long runs: on stderr, and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pkcompiler.pruning.rounds import Round


@contextmanager
def bar(total: int) -> Iterator[Callable[[Round], None]]:
    """Yields a function to call after every round; nothing is shown when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("round {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("prune", total=total, state="")

        def update(state: Round) -> None:
            mass = "" if state.log10_mass is None else f"  log10 mass {state.log10_mass:.1f}"
            progress.update(task, advance=1, state=f"density {state.density:.4g}{mass}")

        yield update
