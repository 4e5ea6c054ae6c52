"""What grad sees of an expression, and whose entries it stands on: questions put to the records of its functions."""

from __future__ import annotations

from collections.abc import Mapping

from pkcompiler.lang.ast import Call, Expr, Name, Pass
from pkcompiler.lang.check.search import children, walk
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.record import Function
from pkcompiler.lang.functions.table import FUNCTIONS

Lets = Mapping[str, Expr]
BY_LAYER = "write scope = erk, or scope = layer or uniform"
"""What to do where values of different parameters cannot be compared."""


def calls(exprs: tuple[Expr, ...], lets: Lets | None = None) -> list[Call]:
    """All calls of functions in expressions, in the order of their text; through ``let`` names where ``lets`` are given."""
    return [part for expr in exprs for part in walk(expr, lets or {}) if isinstance(part, Call) and part.function in FUNCTIONS]


def has_entries(expr: Expr, lets: Lets) -> bool:
    """Whether an expression surely has one value per parameter entry, by its form."""

    def entrywise(part: Expr) -> tuple[Expr, ...]:
        return () if isinstance(part, Call) and not FUNCTIONS[part.function].entrywise else children(part)

    return any(
        FUNCTIONS[part.function].entries(part)
        if isinstance(part, Call)
        else isinstance(part, Name) and part.value in NAMES and NAMES[part.value].entries
        for part in walk(expr, lets, entrywise)
    )


def _seen_by_grad(part: Expr) -> tuple[Expr, ...]:
    return () if isinstance(part, Call) and FUNCTIONS[part.function].constant else children(part)


def holds_derivative(expr: Expr, lets: Lets) -> bool:
    """Whether grad would see a derivative in it."""
    return any(isinstance(part, Call) and FUNCTIONS[part.function].derives for part in walk(expr, lets, _seen_by_grad))


def moves(expr: Expr, lets: Lets) -> bool:
    """Whether grad would see theta in it, or what is computed from it."""

    def arguments(part: Expr) -> tuple[Expr, ...]:
        seen = _seen_by_grad(part)
        return seen[: len(part.args)] if isinstance(part, Call) else seen

    return any(
        FUNCTIONS[part.function].moves
        if isinstance(part, Call)
        else isinstance(part, Name) and part.value in NAMES and NAMES[part.value].moves
        for part in walk(expr, lets, arguments)
    )


def reads_all(pass_: Pass) -> bool:
    """Whether the score of one entry stands on derivatives or values of all others: then none may be left out."""
    return any(
        FUNCTIONS[node.call.function].reads_all(node) or node.words.get("over") == "param"
        for node in pass_.typed.walk()
        if isinstance(node.expr, Call)
    )


def uncomparable(score: Expr, lets: Lets) -> Function | None:
    """The first function in a score whose values of different parameters cannot be compared; None without one."""
    return next((FUNCTIONS[c.function] for c in calls((score,), lets) if FUNCTIONS[c.function].by_layer), None)
