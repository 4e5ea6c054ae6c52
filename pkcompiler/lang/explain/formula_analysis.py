"""What the lines of an analysis compute, in the usual letters (docs/theory.md, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping

from pkcompiler.lang.ast import Analysis, Call, Expr, ReportLine
from pkcompiler.lang.check.facts import show_axes
from pkcompiler.lang.explain.notation import Notation
from pkcompiler.lang.functions.table import FUNCTIONS


def legend(analysis: Analysis) -> list[str]:
    """One line for every ``let`` in order, and what the letters in them mean."""
    lets = dict(analysis.lets)
    lines = [f"{name} = {_meaning(expr, lets)}" for name, expr in analysis.lets]
    whole = [c for c in (*lets.values(), *(r.value for r in analysis.reports)) if isinstance(c, Call)]
    for name, function in FUNCTIONS.items():
        of = [call for call in whole if call.function == name]
        lines += [line for line in (function.letters(of) if of else ()) if line not in lines]
    return list(dict.fromkeys(lines))


def shown_kind(line: ReportLine) -> str:
    """How the value of a line is shown."""
    if line.axes == {"param"}:
        return "per parameter tensor" + ("" if line.spread else ", summed over its entries")
    return {"layer": "per parameter tensor", "rank": "eigenvalues", "step": "one value per step"}.get(
        next(iter(line.axes), ""), show_axes(line.axes)
    )


def line_formula(line: ReportLine, lets: Mapping[str, Expr]) -> str:
    """The expression of a line in the usual letters; its ``let`` names stay."""
    return _meaning(line.value, lets)


def _meaning(expr: Expr, lets: Mapping[str, Expr]) -> str:
    writer = Notation(lets)
    said = FUNCTIONS[expr.function].meaning(writer, expr) if isinstance(expr, Call) else None
    return writer.text(expr) if said is None else said
