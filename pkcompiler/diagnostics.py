"""Errors that a user can act on: a code, the user's own text, what was expected, what to do."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from unicodedata import east_asian_width

LINE = 160
"""Columns of a source line that are shown."""

WORD, TEXT = 400, 2000
"""Characters of a word, and of a message, that are shown: what is longer is nobody's own sentence."""

BETWEEN = ("pkcompiler", "contextlib", "torch")
"""The packages whose frames lie between a warning and the line of the user's that leads to it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a source text: characters ``start`` (included) to ``end`` (excluded) of ``text``."""

    file: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: its code (``PKC103``), one line of message, where, a label for the caret line, and ``help:`` notes.

    ``severity`` is ``"error"`` or ``"warning"``; only errors are raised and only errors make ``pkc check`` exit with 1.

    What messages quote comes from files and models of others: it is made :func:`quotable` here, for every way out.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    severity: str = "error"

    def __post_init__(self) -> None:
        for name, text in (("message", self.message), ("label", self.label)):
            object.__setattr__(self, name, quotable(str(text)))
        notes = self.notes if isinstance(self.notes, tuple | list) else (self.notes,)
        object.__setattr__(self, "notes", tuple(quotable(str(note)) for note in notes))


class PkcError(Exception):
    """One or more diagnostics, raised together. As text: each message, the line that it is about, and below it what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        for given in diagnostics:
            if not isinstance(given, Diagnostic):
                message = f"PkcError: diagnostics holds a {type(given).__name__}, not a Diagnostic"
                raise PkcError(Diagnostic("PKC211", message, notes=('pkcompiler.PkcError(pkcompiler.Diagnostic(code, "..."))',)))
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics
        super().__init__("\n".join(line for d in diagnostics for line in _lines(d)))

    def __reduce__(self) -> tuple[Any, ...]:
        """As another process gets it: the diagnostics, whatever the kind of the error."""
        return PkcError, self.diagnostics


def _lines(diagnostic: Diagnostic) -> list[str]:
    head = f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    return [head, *_shown(diagnostic), *(f"  help: {note}" for note in diagnostic.notes)]


def _shown(diagnostic: Diagnostic) -> list[str]:
    """Where it is: file, line and column, the line itself, and carets below the piece, with the label."""
    if diagnostic.span is None:
        return []
    line, column, *_ = position(diagnostic.span)
    text, indent, carets = excerpt(diagnostic.span)
    return [
        f"  --> {quotable(diagnostic.span.file)}:{line}:{column}",
        f"  | {text}",
        f"  | {indent}{carets} {diagnostic.label}".rstrip(),
    ]


def fail(code: str, message: str, *notes: str, span: Span | None = None, label: str = "") -> PkcError:
    """A :class:`PkcError` that holds a single diagnostic (to be raised by the caller)."""
    return PkcError(Diagnostic(code, message, span, label, notes))


def raise_all(diagnostics: Iterable[Diagnostic]) -> None:
    """Raise every diagnostic at once; return when there is none."""
    found = tuple(diagnostics)
    if found:
        raise PkcError(*found)


def first_few(items: Sequence[str], most: int = 4, between: str = ", ") -> str:
    """The first ``most`` items, and how many there are beside them."""
    more = len(items) - most
    return between.join(items[:most]) + (f" and {more:,} more" if more > 0 else "")


# a place in a text ------------------------------------------------------------------------------------------------------


def position(span: Span) -> tuple[int, int, int, int]:
    """Line, column, end line and end column of a span; counted from 1, columns in characters, the end excluded."""
    return (*_place(span.text, span.start), *_place(span.text, max(span.start, span.end)))


def _place(text: str, at: int) -> tuple[int, int]:
    at = min(max(at, 0), len(text))
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1


def excerpt(span: Span) -> tuple[str, str, str]:
    """The first line of a span, the blanks below what is before it, and its carets. A long line is cut around the span."""
    start = min(max(span.start, 0), len(span.text))
    first = span.text.rfind("\n", 0, start) + 1
    last = span.text.find("\n", start)
    last = len(span.text) if last < 0 else last
    end = min(max(span.end, start + 1), max(last, start + 1))
    left = max(first, start - LINE // 2) if last - first > LINE else first
    right = min(last, left + LINE)
    before = printable(span.text[left:start])
    inside = printable(span.text[start : min(end, right)])
    after = printable(span.text[min(end, right) : right])
    lead, trail = ("..." if left > first else ""), ("..." if right < last else "")
    return lead + before + inside + after + trail, " " * _columns(lead + before), "^" * max(1, _columns(inside))


def printable(text: str) -> str:
    """Tabs become four blanks; what a terminal might obey becomes a replacement character."""
    return "".join(c if c.isprintable() else "    " if c == "\t" else "" if c == "\r" else "\ufffd" for c in text)


def quotable(text: str) -> str:
    """:func:`printable`, with every word and the whole cut in the middle where they are too long."""
    if len(text) > WORD:
        text = re.sub(rf"\S{{{WORD + 1},}}", lambda word: _cut(word[0], WORD), text)
    return printable(_cut(text, TEXT))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most * 3 // 4]}...{text[3 + most * 3 // 4 - most :]}"


def _columns(text: str) -> int:
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


# who is spoken to -------------------------------------------------------------------------------------------------------

_SAY: ContextVar[Callable[[str], None] | None] = ContextVar("say", default=None)


@contextmanager
def on_the_command_line(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, who reads messages has typed a command, and ``say`` takes a line for stderr; outside, called a function of Python."""
    token = _SAY.set(say)
    try:
        yield
    finally:
        _SAY.reset(token)


def typed_or_called(flag: str, argument: str) -> str:
    """What continues, for who is spoken to: the words of a command line, or those of Python."""
    return argument if _SAY.get() is None else flag


class Remark(UserWarning):
    """What the figures of a model depend on, and its caller may not know."""


def remark(text: str, category: type[Warning] = Remark) -> None:
    """Tell who is spoken to: a line on stderr, or a warning at the line of the call outside of this package."""
    say = _SAY.get()
    if say is not None:
        say(text)
        return
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in BETWEEN:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, category, stacklevel=depth)
