"""What ``walks(E)`` and ``balance(E)`` share: both order the weights, by an E that is [param] or a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pkcompiler.lang.ast import Call, Expr
from pkcompiler.lang.check.facts import NUMBER, PARAM, Facts, resolve, show_axes
from pkcompiler.lang.check.findings import Findings


class Checker(Protocol):
    """What the functions that order weights need of the checker of expressions."""

    findings: Findings

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with."""


def order_facts(checker: Checker, call: Call, said: str, example: str) -> Facts:
    """The facts of such a call: [param], a constant for grad. ``said``: how E stands in it; ``example``: a right one."""
    inner = checker.operand(call.args[0])
    if inner.axes is not None and inner.axes not in (PARAM, NUMBER):
        message = f"{said}, which is {show_axes(inner.axes)}"
        checker.findings.error("PKC111", message, call.args[0].span, "must be [param], or a number", f"write {example}")
    return Facts(PARAM, data=inner.data, model=inner.model, varies=True)


def as_order(expr: Expr, lets: Mapping[str, Expr], function: str) -> Call | None:
    """The call of this function that an expression is; None for any other expression."""
    found = resolve(expr, lets)
    return found if isinstance(found, Call) and found.function == function else None
