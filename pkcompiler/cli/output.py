"""What the commands write: tables and data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from pkcompiler.diagnostics import Diagnostic, fail
from pkcompiler.render import FORMATS, render, summary

__all__ = ["FORMATS", "TYPED", "deliver_json", "failed", "misused", "say", "table", "typed", "warn", "write_json"]

TYPED = "pkcompiler.typed"
"""Where the context of a command keeps the line that was typed."""


def failed(diagnostics: Iterable[Diagnostic], form: str) -> None:
    """Write diagnostics to stderr, in text with their number below."""
    found = tuple(diagnostics)
    click.echo(render(found, form, colour=_coloured()), nl=False, err=True)
    if form == "text" and len(found) > 1:
        click.echo(f"\n{summary(found)}", err=True)


def misused(error: click.ClickException, form: str) -> None:
    """Write a usage error to stderr."""
    if form == "text":
        error.show()
        return
    _line({"code": "usage", "severity": "error", "message": error.format_message()})


def warn(diagnostics: Iterable[Diagnostic]) -> None:
    """Write diagnostics that do not end the command."""
    failed(diagnostics, _form())


def say(message: str) -> None:
    """Write one line for the reader of stderr."""
    if _form() == "text":
        click.echo(message, err=True)
    else:
        _line({"severity": "info", "message": message})


def write_json(data: object) -> None:
    """Write data to stdout, as JSON without NaN or infinity."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def deliver_json(data: object, target: str | None) -> bool:
    """Write JSON to a file, or to stdout for ``-``; returns whether stdout is left for the table.

    Raises ``PKC631`` where the file cannot be written.
    """
    if target is None:
        return True
    if target == "-":
        write_json(data)
        return False
    try:
        Path(target).write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise fail("PKC631", f"cannot write '{target}': {error.strerror}", "give a file that can be written, or --json -") from None
    return True


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
        shown.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if console.is_terminal:
        console.print(shown)
        return
    console.width = max(1, console.measure(shown, options=console.options.update(max_width=1_000_000)).maximum)
    with console.capture() as text:
        console.print(shown)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def typed() -> str | None:
    """The command line, as it was typed."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(TYPED)


def _form() -> str:
    context = click.get_current_context(silent=True)
    return context.obj if context is not None and context.obj in FORMATS else FORMATS[0]


def _line(record: dict[str, Any]) -> None:
    click.echo(json.dumps(record, ensure_ascii=False), err=True)


def _coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
