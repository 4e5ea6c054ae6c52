"""A curve as an expression in k, n and rho: which expressions are one, and their values.

It is the density after round k of n on the way from 1 to rho. The proof that it falls is in ``curve_proof.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache

from pkcompiler.lang import words
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Setting, Unary
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.lang.syntax.parse import parse

VARIABLES = ("k", "n", "rho")
FUNCTIONS = {"sqrt": math.sqrt, "exp": math.exp, "log": math.log}
MAX_PARTS = 60
"""The most operations, numbers and names in one curve: so many can be proved at once."""


def curve_expr(text: str) -> Expr:
    """The expression that the text of a curve is; a named curve is a Name."""
    item = parse(f"curve = {text}")[0].items[0]
    assert isinstance(item, Setting), text
    return item.values[0]


def is_named(curve: str) -> bool:
    """Whether a curve is one of the words of the table."""
    return words.find(curve, "value", "curve") is not None


def check_words(expr: Expr, findings: Findings) -> bool:
    """Whether an expression is made of k, n, rho, numbers and functions of numbers; the first part that is not is reported."""
    match expr:
        case Number(_, ""):
            return True
        case Name(name) if name in VARIABLES:
            return True
        case Unary(_, operand):
            return check_words(operand, findings)
        case Binary(_, left, right):
            return check_words(left, findings) & check_words(right, findings)
        case Call(function, (argument,), ()) if function in FUNCTIONS:
            return check_words(argument, findings)
        case Name(name) if any(part in VARIABLES for part in name.split("-")) and "-" in name:
            note = f"names may contain hyphens; a minus has spaces: {' - '.join(name.split('-'))}"
            findings.error("PKC104", f"unknown name '{name}' in a curve", expr.span, "read as one name", note)
        case Name(name):
            findings.unknown("PKC104", "name", name, expr.span, [*VARIABLES], where=" in a curve")
        case Call(function, _, _) if function not in FUNCTIONS:
            findings.unknown("PKC103", "function", function, expr.span, [*FUNCTIONS], where=" in a curve")
        case _:
            message = f"{print_expr(expr)} in a curve"
            note = "write curve = rho^(k / n), or curve = exponential, linear or cubic"
            findings.error("PKC105", message, expr.span, "a curve is computed from k, n and rho", note)
    return False


def parts(expr: Expr) -> int:
    """How many operations, numbers and names an expression has."""
    match expr:
        case Unary(_, operand):
            return 1 + parts(operand)
        case Binary(_, left, right):
            return 1 + parts(left) + parts(right)
        case Call(_, args, _):
            return 1 + sum(parts(a) for a in args)
    return 1


def curve_value(curve: str, k: float, n: float, rho: float) -> float:
    """The value of an expression of a curve. Raises ValueError, ZeroDivisionError or OverflowError where it has none."""
    return value_of(_parsed(curve), {"k": k, "n": n, "rho": rho})


@lru_cache(64)
def _parsed(curve: str) -> Expr:
    return curve_expr(curve)


def value_of(expr: Expr, at: dict[str, float]) -> float:
    """The value of a checked expression at numbers for k, n and rho."""
    match expr:
        case Number(value):
            return float(value)
        case Name(name):
            return at[name]
        case Unary(_, operand):
            return -value_of(operand, at)
        case Call(function, (argument,), _):
            return FUNCTIONS[function](value_of(argument, at))
        case Binary(op, left, right):
            return _combine(op, value_of(left, at), value_of(right, at))
    raise AssertionError(f"unchecked curve {expr}")


def _combine(op: str, left: float, right: float) -> float:
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
    if left < 0 and right != int(right):
        raise ValueError("a power of a negative number")
    return float(left**right)


def density_at(curve: str, k: int, n: int, rho: float, start: float = 1.0) -> float:
    """The density after round k of n, from ``start`` to rho: exponential, linear, cubic, or the text of an expression.

    ``start`` is the density that the stage begins at; with 1 these are rho^(k/n), 1-(1-rho)k/n and 1-(1-rho)(1-(1-k/n)^3). An
    expression is taken at rho / start and multiplied by start, which for the named curves comes to the same.
    """
    if k >= n:
        return rho
    match curve:
        case "exponential":
            return start * float((rho / start) ** (k / n))
        case "linear":
            return start - (start - rho) * k / n
        case "cubic":
            return start - (start - rho) * (1 - (1 - k / n) ** 3)
    part = min(1.0, rho / start)
    return start * min(1.0, max(part, curve_value(curve, k, n, part)))
