"""``squares(output, u)``: what its arguments may be. See docs/language.md, "Passes"."""

from __future__ import annotations

from typing import Protocol

from pkcompiler.lang.ast import Call, Expr, Name
from pkcompiler.lang.check.facts import PARAM, UNKNOWN, Facts, Scope, edge_of, resolve, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.syntax.format import print_expr


class Checker(Protocol):
    """What this module needs of the checker of expressions."""

    scope: Scope
    findings: Findings

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with."""


def square_facts(checker: Checker, call: Call) -> Facts:
    """The facts of a ``squares`` call: [param], a derivative of the model's run."""
    of, by = call.args
    facts = checker.operand(of)
    if isinstance(by, Name) and by.value in checker.scope.facts:
        checker.scope.used.add(by.value)
    if facts.axes is None:
        return UNKNOWN
    lets, example = checker.scope.lets, "write squares(output, theta)"
    if resolve(of, lets) not in (Name("output"), Name("losses")):
        message = f"squares() of {print_expr(of)}, which is {show_axes(facts.axes)}"
        note = "the square of one derivative is grad(F, theta)^2" if not facts.axes else example
        checker.findings.error("PKC111", message, of.span, "needs output or losses itself", note)
    elif resolve(by, lets) != Name("mask") and edge_of(by, lets) != "theta":
        message = f"squares() by '{print_expr(by)}'"
        checker.findings.error("PKC112", message, by.span, "must be theta or mask", example)
    return Facts(PARAM, theta=True, data=True, second=True, varies=True, deep=True)
