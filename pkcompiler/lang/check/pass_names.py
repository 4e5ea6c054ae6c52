"""Passes that a declaration names: those of its own file, of the library, or of other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pkcompiler.diagnostics import PkcError, Span
from pkcompiler.lang.ast import Pass
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.rows import suggest

Resolve = Callable[[str], Pass]


class PassNames:
    """``passes``: those that the file declares (None for one with an error); ``resolve`` finds all others."""

    def __init__(self, findings: Findings, passes: Mapping[str, Pass | None], resolve: Resolve) -> None:
        self.findings, self.passes, self.resolve = findings, passes, resolve

    def find(self, label: str, span: Span | None, used: dict[str, Pass]) -> None:
        """Put the pass that ``label`` names into ``used``, or report that there is none that can be used."""
        if label in used:
            return
        if label in self.passes:
            declared = self.passes[label]
            if declared is not None:
                used[label] = declared
            return
        try:
            used[label] = self.resolve(label)
        except PkcError as error:
            first = error.diagnostics[0]
            note = first.notes[-1] if first.notes else "'pkc passes' lists the passes"
            close = suggest(label, list(self.passes))
            note = f"did you mean '{close}'?" if close else note
            message = first.message if first.span is None else f"pass file '{label}' has an error: {first.message}"
            note = note if first.span is None else f"'pkc check {label}' shows it"
            self.findings.error(first.code if first.span is None else "PKC117", message, span, "not usable", note)
