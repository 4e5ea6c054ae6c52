"""Errors that a user can act on: a code, the user's own text, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    severity: str = "error"


class PkcError(Exception):
    """One or more diagnostics, raised together. As text: each message, and below it what to do."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics
        super().__init__("\n".join(line for d in diagnostics for line in _lines(d)))

    def __reduce__(self) -> tuple[Any, ...]:
        """As another process gets it: the diagnostics, whatever the kind of the error."""
        return PkcError, self.diagnostics


def _lines(diagnostic: Diagnostic) -> list[str]:
    return [f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}", *(f"  help: {note}" for note in diagnostic.notes)]


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
