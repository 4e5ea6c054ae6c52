"""What the commands write: tables and data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from io import StringIO
from traceback import walk_tb
from typing import Any, TextIO

import click

from pkcompiler.cli.streams import abandon, apart, fall_back, stderr, stdout
from pkcompiler.diagnostics import Diagnostic, printable
from pkcompiler.files import deliver, escaped, json_text, reason
from pkcompiler.render import FORMATS, render, summary

__all__ = [
    "FORMATS",
    "TYPED",
    "Lost",
    "deliver_json",
    "failed",
    "losses",
    "misused",
    "put",
    "results_apart",
    "say",
    "table",
    "typed",
    "warn",
    "write_json",
]

TYPED = "pkcompiler.typed"
"""Where the context of a command keeps the line that was typed."""


def results_apart(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command during which stdout is stderr, for the user's code may write anywhere; :func:`put` writes the results."""

    @wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        with apart():
            return command(*args, **kwargs)

    return called


def put(text: str = "", *, nl: bool = True, exact: bool = False) -> None:
    """Write a result to stdout. What a terminal might obey is replaced; of a text to be read back only on a terminal."""
    if (stream := stdout()) is not None:
        click.echo(text if exact and not stream.isatty() else _safe(text), file=stream, nl=nl)


def failed(diagnostics: Iterable[Diagnostic], form: str) -> None:
    """Write diagnostics to stderr, in text with their number below."""
    found = tuple(diagnostics)
    more = f"\n{summary(found)}\n" if form == "text" and len(found) > 1 else ""
    _err(render(found, form, colour=_coloured()) + more, nl=False)


def misused(error: click.ClickException, form: str) -> None:
    """Write a usage error to stderr."""
    if form == "text":
        _told(error.show)
        return
    _line({"code": "usage", "severity": "error", "message": error.format_message()})


def warn(diagnostics: Iterable[Diagnostic]) -> None:
    """Write diagnostics that do not end the command."""
    failed(diagnostics, _form())


def say(message: str) -> None:
    """Write one line for the reader of stderr."""
    if _form() == "text":
        _err(_safe(message))
    else:
        _line({"severity": "info", "message": message})


def write_json(data: object) -> None:
    """Write data to stdout, as JSON without NaN or infinity."""
    put(json_text(data), nl=False, exact=True)


def deliver_json(data: object, target: str | None) -> bool:
    """Write JSON to a file, or to stdout for ``-``; returns whether stdout is left for the table.

    Raises ``PKC631`` where the file cannot be written.
    """
    if target is None:
        return True
    if target == "-":
        write_json(data)
        return False
    deliver(target, json_text(data), "PKC631", "give a file that can be written, or --json -")
    return True


class Lost(Exception):
    """What was written to stdout could not leave it: the disk behind it is full, or its reader is gone."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        super().__init__(reason(error))


@contextmanager
def losses() -> Iterator[None]:
    """Inside, what :func:`click.echo` cannot write raises :class:`Lost`. (Click would make a gone reader an exit with 1.)"""
    try:
        yield
    except OSError as error:
        if any(frame.f_code is click.echo.__code__ for frame, _ in walk_tb(error.__traceback__)):
            raise Lost(error) from error
        raise


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to stdout: as wide as it needs to be when piped, folded to the width of a terminal otherwise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for title in header:
        shown.add_column(title, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    stream = stdout()
    if stream is not None and stream.isatty():
        Console(file=stream, highlight=False, markup=False).print(shown)
        return
    console = Console(file=StringIO(), highlight=False, markup=False)
    console.width = max(1, console.measure(shown, options=console.options.update(max_width=1_000_000)).maximum)
    with console.capture() as text:
        console.print(shown)
    put("\n".join(line.rstrip() for line in text.get().splitlines()))


def typed() -> str | None:
    """The command line, as it was typed."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(TYPED)


def _form() -> str:
    context = click.get_current_context(silent=True)
    return context.obj if context is not None and context.obj in FORMATS else FORMATS[0]


def _line(record: dict[str, Any]) -> None:
    _err(escaped(json.dumps(record, ensure_ascii=False)))


def _safe(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _err(text: str, *, nl: bool = True) -> None:
    _told(lambda stream: click.echo(text, file=stream, nl=nl))


def _told(write: Callable[[TextIO], object]) -> None:
    """Where stderr cannot be written, by no way, nobody can be told, and nothing stops for it."""
    while (stream := stderr()) is not None:
        try:
            write(stream)
            return
        except (OSError, ValueError):  # of a stream that the user's code has closed: ValueError
            abandon(stream)
            if not fall_back():
                return


def _coloured() -> bool:
    stream = stderr()
    if stream is None or stream.closed:
        return False
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
