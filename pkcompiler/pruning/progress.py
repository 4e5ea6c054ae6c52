"""The progress line of long runs: on stderr, and only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pkcompiler.pruning.state import Round

EFFECTIVE_EVERY = 3.0  # seconds between two computations of the effective sparsity
EFFECTIVE_SHARE = 10  # and at most one part in so many of the time


@contextmanager
def bar(total: int, *, done: int = 0, effective: Callable[[Round], float] | None = None) -> Iterator[Callable[[Round], None]]:
    """Yields a function to call after every round; nothing is shown, and nothing computed, when stderr is no terminal.

    ``done``: rounds that an earlier run has finished. ``effective``: the effective sparsity of a state, asked for now and then.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda state: None
        return
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("round {task.completed}/{task.total}"),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    sometimes = Sometimes(effective) if effective else None
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("prune", total=total, completed=done, state="")

        def update(state: Round) -> None:
            progress.update(task, advance=1, state=describe(state, sometimes(state) if sometimes else None))

        yield update


def shown(states: Iterator[Round], total: int, progress: bool) -> Iterator[Round]:
    """The states, with a progress bar on stderr where that is a terminal."""
    if not progress:
        yield from states
        return
    with bar(total) as update:
        for state in states:
            update(state)
            yield state


def describe(state: Round, effective: float | None) -> str:
    """``density 0.1234  log10 mass 45.6  effective sparsity 98.12%``, without what is not known."""
    parts = [f"density {state.density:.4g}"]
    if state.log10_mass is not None:
        parts.append(f"log10 mass {state.log10_mass:.1f}")
    if effective is not None:
        parts.append(f"effective sparsity {effective:.2%}")
    return "  ".join(parts)


class Sometimes:
    """The last value of a function, computed anew every few seconds and never for more than a tenth of the time."""

    def __init__(self, function: Callable[[Round], float], clock: Callable[[], float] = time.monotonic) -> None:
        self.function, self.clock = function, clock
        self.next = clock() + EFFECTIVE_EVERY
        self.value: float | None = None

    def __call__(self, state: Round) -> float | None:
        """The value at ``state``, or the last one while it is too early for another; None before the first."""
        started = self.clock()
        if started < self.next:
            return self.value
        self.value = self.function(state)
        ended = self.clock()
        self.next = ended + max(EFFECTIVE_EVERY, EFFECTIVE_SHARE * (ended - started))
        return self.value
