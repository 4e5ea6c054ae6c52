"""What the lines of an analysis compute, in the usual letters (docs/theory.md, sections 2 and 3)."""

from __future__ import annotations

from pkcompiler.lang.ast import Analysis, Call, ReportLine, Typed
from pkcompiler.lang.check.facts import show_axes
from pkcompiler.lang.explain.notation import Notation, by_function
from pkcompiler.lang.functions.table import FUNCTIONS


def legend(analysis: Analysis) -> list[str]:
    """One line for every ``let`` in order, and what the letters in them mean."""
    lines = [f"{name} = {_meaning(value)}" for (name, _), value in zip(analysis.lets, analysis.typed, strict=True)]
    for function, calls in by_function((*analysis.typed, *(line.typed for line in analysis.reports))):
        lines += function.letters(calls)
    return list(dict.fromkeys(lines))


def shown_kind(line: ReportLine) -> str:
    """How the value of a line is shown."""
    if line.axes == {"param"}:
        return "per parameter tensor" + ("" if line.spread else ", summed over its entries")
    return {"layer": "per parameter tensor", "rank": "eigenvalues", "step": "one value per step"}.get(
        next(iter(line.axes), ""), show_axes(line.axes)
    )


def line_formula(line: ReportLine) -> str:
    """The expression of a line in the usual letters; its ``let`` names stay."""
    return _meaning(line.typed)


def _meaning(node: Typed) -> str:
    writer = Notation()
    said = FUNCTIONS[node.expr.function].meaning(writer, node) if isinstance(node.expr, Call) else None
    return writer.text(node) if said is None else said
