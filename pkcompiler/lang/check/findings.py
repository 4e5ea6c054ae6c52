"""A collector of diagnostics with the few phrases that every check needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from pkcompiler.diagnostics import Diagnostic, Span
from pkcompiler.lang.rows import Word, suggest
from pkcompiler.lang.words import WORDS


@dataclass(slots=True)
class Findings:
    """What the checks found, in the order of finding."""

    items: list[Diagnostic] = field(default_factory=list)

    def errors(self) -> int:
        """How many errors so far."""
        return sum(d.severity == "error" for d in self.items)

    def error(self, code: str, message: str, span: Span | None, label: str, note: str) -> None:
        """One error; ``note`` is what to do."""
        self.items.append(Diagnostic(code, message, span, label, (note,)))

    def warning(self, code: str, message: str, span: Span | None, label: str, note: str) -> None:
        """One warning; ``note`` is what to do."""
        self.items.append(Diagnostic(code, message, span, label, (note,), "warning"))

    def unknown(
        self, code: str, what: str, name: str, span: Span | None, known: list[str], *, label: str = "", where: str = ""
    ) -> None:
        """A word that no row of the table, and no ``let``, knows; ``known`` are the words that may stand there."""
        close = suggest(name, known)
        note = f"did you mean '{close}'?" if close else f"known here: {', '.join(_due(known))}"
        self.error(code, f"unknown {what} '{name}'{where}", span, label or f"not {'an' if what[0] in 'aeio' else 'a'} {what}", note)

    def later(self, word: Word, span: Span | None, note: str = "") -> None:
        """A word of the language that this version does not carry out yet."""
        what = "setting" if word.role == "labelled" else word.role
        message = f"{what} '{word.name}' is known, but not in this version"
        note = note or f"leave it out; 'pkc explain {word.name}' says what it will do"
        self.error("PKC109", message, span, "spelled correctly, comes in a later version", note)


def _due(names: list[str]) -> list[str]:
    """Without the words that this version does not carry out."""
    later = {w.name for w in WORDS if not w.due} - {w.name for w in WORDS if w.due}
    return [name for name in names if name not in later]
