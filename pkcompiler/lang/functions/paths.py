"""The arguments of ``paths(...)``: what each may be, and what the functional reads. See docs/theory.md, section 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from pkcompiler.lang import words
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number
from pkcompiler.lang.check.facts import EDGES, Facts, Scope, edge_of, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.syntax.format import print_expr

DEFAULTS: Mapping[str, str] = {w.name: w.default for w in words.rows("argument", "paths")}
LOSS_GRADIENT = Name("loss_gradient")


class Checker(Protocol):
    """What this module needs of the checker of expressions."""

    scope: Scope
    findings: Findings

    def facts(self, expr: Expr) -> Facts:
        """The facts of any expression."""

    def keywords(self, call: Call, allowed: list[str]) -> bool:
        """Report keywords that are unknown or given twice."""


def path_facts(checker: Checker, call: Call) -> Facts:
    """Check every argument of a ``paths`` call.

    Its axes are [output] with ``output = each``, plus [sample] where un-averaged data is read.
    """
    if call.args:
        example = "write paths(edge = abs(theta))"
        checker.findings.error("PKC110", "paths() takes named arguments only", call.args[0].span, "which argument?", example)
    checker.keywords(call, list(DEFAULTS))
    given = dict(call.kwargs)
    edge = _edge(checker, given.get("edge"))
    choices = {
        key: _choice(checker, key, given[key]) for key in ("gates", "pools", "norms", "products", "constants") if key in given
    }
    run = any(choices.get(key, "").startswith("data") for key in ("gates", "pools", "norms"))
    entries = _input(checker, given.get("input"))
    ends = _output(checker, given.get("output"))
    sample = run or "sample" in (entries.axes or ()) or given.get("output") == LOSS_GRADIENT
    axes = None
    if ends.axes is not None and entries.axes is not None and edge and all(choices.values()) and not call.args:
        axes = (frozenset({"sample"}) if sample else frozenset()) | ends.axes
    both = entries.join(ends, axes)
    edges = both.edges | ({edge} if edge else set())
    return replace(both, axes=axes, edges=edges, data=both.data or run, varies=False)


def _edge(checker: Checker, expr: Expr | None) -> str:
    if expr is None:
        return DEFAULTS["edge"]
    edge = edge_of(expr, checker.scope.lets)
    facts = checker.facts(expr)
    if edge or facts.axes is None:
        return edge
    message = f"'{print_expr(expr)}' is not an edge"
    checker.findings.error("PKC105", message, expr.span, f"must be {', '.join(EDGES[:-1])} or 1", "write edge = abs(theta)")
    return ""


def _choice(checker: Checker, key: str, expr: Expr) -> str:
    """The word given, ``data^2`` included; '' after an error."""
    if key == "gates" and expr == Binary("^", Name("data"), Number(2)):
        return "data^2"
    rows = words.rows("value", key)
    row = next((w for w in rows if expr == Name(w.name)), None)
    if row is not None and row.due:
        return row.name
    known = [w.name for w in rows if w.due] + (["data^2"] if key == "gates" else [])
    if row is not None:
        checker.findings.later(row, expr.span, f"write {key} = {known[0]}")
        return ""
    close = words.suggest(print_expr(expr), known)
    note = f"did you mean '{close}'?" if close else f"write {key} = {known[0]}"
    checker.findings.error("PKC105", f"{key} = {print_expr(expr)}", expr.span, f"must be {' | '.join(known)}", note)
    return ""


def _input(checker: Checker, expr: Expr | None) -> Facts:
    if expr is None or expr == Name("ones"):
        return Facts(frozenset())
    facts = checker.facts(expr)
    if facts.axes is None or "input" in facts.axes:
        return facts
    message = f"input = {print_expr(expr)} has no axis of the input, it is {show_axes(facts.axes)}"
    checker.findings.error("PKC111", message, expr.span, "must be ones, or have [input]", "write input = mean(data)")
    return Facts(None, data=facts.data)


def _output(checker: Checker, expr: Expr | None) -> Facts:
    if expr is None or expr == Name("ones"):
        return Facts(frozenset())
    if expr == Name("each"):
        return Facts(frozenset({"output"}))
    if expr == LOSS_GRADIENT:
        return Facts(frozenset(), data=True)
    row = words.find(expr.value, "value", "output") if isinstance(expr, Name) else None
    if row is not None and not row.due:
        checker.findings.later(row, expr.span, "write output = ones")
        return Facts(None)
    facts = checker.facts(expr)
    if facts.axes is None:
        return facts
    if facts.axes == {"output"}:
        return replace(facts, axes=frozenset())
    message = f"output = {print_expr(expr)} is {show_axes(facts.axes)}"
    note = f"write output = sum({print_expr(expr)}, over = sample)" if facts.axes == {"sample", "output"} else "write output = ones"
    checker.findings.error("PKC111", message, expr.span, "must be ones, each, or have the axis [output]", note)
    return Facts(None, data=facts.data)
