"""What a score stands on: questions put to the records of the functions that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pkcompiler.lang.ast import Call, Expr, Pass
from pkcompiler.lang.check.search import walk
from pkcompiler.lang.functions.record import Function
from pkcompiler.lang.functions.table import FUNCTIONS

Lets = Mapping[str, Expr]
BY_LAYER = "write scope = erk, or scope = layer or uniform"
"""What to do where values of different parameters cannot be compared."""


def calls(exprs: tuple[Expr, ...], lets: Lets | None = None) -> list[Call]:
    """All calls of functions in expressions, in the order of their text; through ``let`` names where ``lets`` are given."""
    return [part for expr in exprs for part in walk(expr, lets or {}) if isinstance(part, Call) and part.function in FUNCTIONS]


def reads_all(pass_: Pass) -> bool:
    """Whether the score of one entry stands on derivatives or values of all others: then none may be left out."""
    return any(
        FUNCTIONS[node.call.function].reads_all(node) or node.words.get("over") == "param"
        for node in pass_.typed.walk()
        if isinstance(node.expr, Call)
    )


def uncomparable(calls: Iterable[Call]) -> Function | None:
    """The first function in a score whose values of different parameters cannot be compared; None without one."""
    return next((FUNCTIONS[c.function] for c in calls if FUNCTIONS[c.function].by_layer), None)
