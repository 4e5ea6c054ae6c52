"""Diagnostics for people (the line, carets, help) and for programs (one JSON object to a line)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from unicodedata import east_asian_width

from pkcompiler.diagnostics import Diagnostic, Span

FORMATS = ("text", "json")
_LINE = 160  # columns of a source line that are shown
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "help": "\x1b[1;36m", "bold": "\x1b[1m", "frame": "\x1b[1;34m"}


def render(diagnostics: Iterable[Diagnostic], form: str = "text", *, colour: bool = False) -> str:
    """All diagnostics in one of FORMATS, ending with a newline; '' when there is none."""
    if form == "json":
        return "".join(json.dumps(_record(d), ensure_ascii=False) + "\n" for d in diagnostics)
    return "\n".join(_text(d, colour) for d in diagnostics)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 warning``; '' when there is none."""
    found = [d.severity for d in diagnostics]
    counts = [(found.count(kind), kind) for kind in ("error", "warning")]
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in counts if n)


def position(span: Span) -> tuple[int, int, int, int]:
    """Line, column, end line and end column of a span; counted from 1, columns in characters, the end excluded."""
    return (*_place(span.text, span.start), *_place(span.text, max(span.start, span.end)))


def _place(text: str, at: int) -> tuple[int, int]:
    at = min(max(at, 0), len(text))
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1


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
        shown, indent, carets = _excerpt(diagnostic.span)
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


def _excerpt(span: Span) -> tuple[str, str, str]:
    """The first line of a span, the blanks below what is before it, and its carets. A long line is cut around the span."""
    start = min(max(span.start, 0), len(span.text))
    first = span.text.rfind("\n", 0, start) + 1
    last = span.text.find("\n", start)
    last = len(span.text) if last < 0 else last
    end = min(max(span.end, start + 1), max(last, start + 1))
    left = max(first, start - _LINE // 2) if last - first > _LINE else first
    right = min(last, left + _LINE)
    before = printable(span.text[left:start])
    inside = printable(span.text[start : min(end, right)])
    after = printable(span.text[min(end, right) : right])
    lead, trail = ("..." if left > first else ""), ("..." if right < last else "")
    return lead + before + inside + after + trail, " " * _columns(lead + before), "^" * max(1, _columns(inside))


def printable(text: str) -> str:
    """Tabs become four blanks; what a terminal might obey becomes a replacement character."""
    return "".join(c if c.isprintable() else "    " if c == "\t" else "" if c == "\r" else "\ufffd" for c in text)


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)
