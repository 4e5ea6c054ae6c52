"""What the lines of an analysis compute, in the usual letters (docs/theory.md, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping

from pkcompiler.lang.ast import Analysis, Call, Expr, Name, ReportLine
from pkcompiler.lang.check.facts import edge_of, show_axes
from pkcompiler.lang.explain.formula import arguments, notation
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.syntax.format import print_expr

_VALUE = {"abs(theta)": "|v_p|", "theta^2": "v_p^2", "theta": "v_p", "1": "1"}


def legend(analysis: Analysis) -> list[str]:
    """One line for every ``let`` in order, and what the letters in them mean."""
    lets = dict(analysis.lets)
    lines = [f"{name} = {_meaning(expr, lets)}" for name, expr in analysis.lets]
    calls = [c for c in (*lets.values(), *(r.value for r in analysis.reports)) if isinstance(c, Call)]
    functions = {c.function for c in calls}
    if "paths" in functions:
        lines.append("v_p = c_p times the product of the weights on p, at theta * mask")
    for call in calls:
        lines += [line for line in (arguments(call) if call.function == "paths" else ()) if line not in lines]
    if "gram" in functions:
        lines.append("J = d v_p / d theta_i, one row for each path, one column for each weight")
    return lines


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
    match expr:
        case Call("paths", _, kwargs):
            return _sum(dict(kwargs), lets)
        case Call("gram", (inner,), _):
            return f"J^T J of the paths of {print_expr(inner)}"
        case Call("ntk", _, _):
            return "(d f / d theta) (d f / d theta)^T over samples and outputs"
    return notation(expr, lets)


def _sum(given: Mapping[str, Expr], lets: Mapping[str, Expr]) -> str:
    edge = edge_of(given["edge"], lets) if "edge" in given else DEFAULTS["edge"]
    factors = [_VALUE[edge]]
    if given.get("input", Name("ones")) != Name("ones"):
        factors.append(f"({notation(given['input'], lets, '')})[s(p)]")
    if print_expr(given.get("gates", Name("open"))) != "open":
        factors.append("a_p")
    if given.get("output", Name("ones")) not in (Name("ones"), Name("each")):
        factors.append(f"({notation(given['output'], lets, '')})[k(p)]")
    return f"sum over paths p of {' '.join(factors)}"
