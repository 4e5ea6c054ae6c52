"""Diagnostics for people (the line, carets, help) and for programs (one JSON object to a line)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pkcompiler.diagnostics import Diagnostic, excerpt, position, printable
from pkcompiler.files import escaped

FORMATS = ("text", "json")
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "help": "\x1b[1;36m", "bold": "\x1b[1m", "frame": "\x1b[1;34m"}


def render(diagnostics: Iterable[Diagnostic], form: str = "text", *, colour: bool = False) -> str:
    """All diagnostics in one of FORMATS, ending with a newline; '' when there is none."""
    if form == "json":
        return "".join(escaped(json.dumps(_record(d), ensure_ascii=False)) + "\n" for d in diagnostics)
    return "\n".join(_text(d, colour) for d in diagnostics)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 warning``; '' when there is none."""
    found = [d.severity for d in diagnostics]
    counts = [(found.count(kind), kind) for kind in ("error", "warning")]
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in counts if n)


def _record(diagnostic: Diagnostic) -> dict[str, object]:
    record: dict[str, object] = {"code": diagnostic.code, "severity": diagnostic.severity, "message": diagnostic.message}
    if diagnostic.span is not None:
        line, column, end_line, end_column = position(diagnostic.span)
        record |= {"file": diagnostic.span.file, "line": line, "column": column, "end_line": end_line, "end_column": end_column}
    return record | {"label": diagnostic.label, "help": list(diagnostic.notes)}


def _text(diagnostic: Diagnostic, colour: bool) -> str:
    def paint(kind: str, text: str) -> str:
        return f"{_COLOURS[kind]}{text}\x1b[0m" if colour and text else text

    head = paint(diagnostic.severity, f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [f"{head}{paint('bold', ': ' + printable(diagnostic.message))}"]
    width = 1
    if diagnostic.span is not None:
        number, column, *_ = position(diagnostic.span)
        width = len(str(number))
        pad = " " * width
        shown, indent, carets = excerpt(diagnostic.span)
        label = f" {printable(diagnostic.label)}" if diagnostic.label else ""
        lines += [
            f"{pad}{paint('frame', '-->')} {printable(diagnostic.span.file)}:{number}:{column}",
            f"{pad} {paint('frame', '|')}",
            f"{paint('frame', str(number) + ' |')} {shown}".rstrip(),
            f"{pad} {paint('frame', '|')} {indent}{paint(diagnostic.severity, carets + label)}",
        ]
    pad = " " * width
    lines += [f"{pad} {paint('frame', '=')} {paint('help', 'help')}: {printable(note)}" for note in diagnostic.notes]
    return "".join(line + "\n" for line in lines)
