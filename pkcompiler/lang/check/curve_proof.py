"""The proof that a curve falls from at most 1 to rho: by signs of polynomials, or not at all.

With k = n t, t = 1 / (1 + u), rho = 1 / (1 + v)^q and n = 1 + m the domain is every u, v, m >= 0 (k between rounds, too). The
derivative by u is brought over one denominator; if numerator and denominator are polynomials whose coefficients have one sign, in
generators that are never negative there (u, v, m, powers of positive numbers, logarithms of numbers above 1), its sign is known.
That is a proof; what cannot be decided so is refused, and so is what takes more than a bounded number of steps (not of seconds:
whether a curve is accepted does not depend on how fast a machine is).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from inspect import CO_GENERATOR
from types import FrameType
from typing import Any

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Unary
from pkcompiler.lang.check.curves import MAX_PARTS, check_words, parts, value_of
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.syntax.format import print_expr

MAX_STEPS = 1_500_000
"""Calls of functions within one proof: about half a second at most; the usual curves take a tenth of it."""

MAX_EXPONENT = 64.0
"""The largest exponent that is tried: numbers stay small, whatever is computed with them exactly."""

POWERS = (1, 2, 6)
"""What q is tried: roots of rho become whole powers of 1 + v."""

ROUNDS = (1, 2, 3, 4, 5, 7, 10, 20, 50, 100)
DENSITIES = (0.5, 0.1, 0.01, 0.001, 0.9, 0.99, 1.0)
SLACK = 1e-9
"""Rounding of the values in the search for a counterexample."""


def check_curve(expr: Expr, findings: Findings) -> str | None:
    """The canonical text of a curve that is proved; None after an error that is reported."""
    if not check_words(expr, findings):
        return None
    shown = print_expr(expr)
    wrong = refutation(expr)
    if wrong:
        note = "a curve falls from at most 1 at k = 0 to rho at k = n, as rho^(k / n) does"
        findings.error("PKC420", f"{shown} is no curve: {wrong}", expr.span, "not a density after round k of n", note)
        return None
    if not proved(expr):
        note = "write it more simply, or write curve = exponential, linear or cubic"
        message = f"it cannot be proved that {shown} falls from at most 1 to rho"
        findings.error("PKC420", message, expr.span, "no counterexample was found, and no proof", note)
        return None
    return shown


def refutation(expr: Expr) -> str:
    """A round that a curve cannot have, in words; '' where the search finds none."""
    return next(_wrong_rounds(expr), "")


def _wrong_rounds(expr: Expr) -> Iterator[str]:
    for n in ROUNDS:
        for rho in DENSITIES:
            before = math.inf
            for k in range(n + 1):
                where = f"at k = {k}, n = {n}, rho = {rho:g}"
                try:
                    now = value_of(expr, {"k": float(k), "n": float(n), "rho": rho})
                except (ValueError, ZeroDivisionError, OverflowError):
                    yield f"it has no value {where}"
                    return
                if not now <= 1 + SLACK:
                    yield f"it is {now:.6g}, above 1, {where}"
                if now > before + SLACK:
                    yield f"it rises from {before:.6g} to {now:.6g} {where}"
                before = now
            if not abs(before - rho) <= SLACK:
                yield f"it ends at {before:.6g}, not at rho = {rho:g}, for n = {n}"


def proved(expr: Expr) -> bool:
    """Whether a curve is proved to fall from at most 1 at k = 0 to rho at k = n, for every n >= 1 and 0 < rho <= 1."""
    if parts(expr) > MAX_PARTS:
        return False
    _warm()
    try:
        if not all(_small_powers(expr, float(n), rho) for n in (1, 2, 10) for rho in (0.5, 0.01)):
            return False
        with _bounded_steps(MAX_STEPS):
            return any(_proved(expr, power) for power in POWERS)
    except (_TooLong, RecursionError, ArithmeticError, TypeError, ValueError):
        return False


def _warm() -> None:
    """Import what a proof needs, and forget what others have found: every one counts all of its own steps."""
    from sympy.core.cache import clear_cache

    _imported()
    clear_cache()


@cache
def _imported() -> bool:
    return _proved(Binary("^", Name("rho"), Binary("/", Name("k"), Name("n"))), 1)


class _TooLong(BaseException):
    """More steps than a proof may take: no ``except Exception`` on the way holds it up."""


@contextmanager
def _bounded_steps(most: int) -> Iterator[None]:
    """Raises ``_TooLong`` after so many calls of functions within: in a function of sympy that was called.

    Elsewhere Python might swallow it (where a generator is torn down, say), and would no longer count.
    """
    left = most

    def step(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        left -= 1
        if left < 0 and event == "call" and not frame.f_code.co_flags & CO_GENERATOR and _of_sympy(frame):
            raise _TooLong

    before = sys.getprofile()
    sys.setprofile(step)
    try:
        yield
    finally:
        sys.setprofile(before)


def _of_sympy(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("sympy.")


def _small_powers(expr: Expr, n: float, rho: float) -> bool:
    """Whether no exponent in an expression is large, at k = n / 2 and these values."""
    match expr:
        case Unary(_, operand) | Call(_, (operand,), _):
            return _small_powers(operand, n, rho)
        case Binary(op, left, right):
            if op == "^" and not abs(value_of(right, {"k": n / 2, "n": n, "rho": rho})) <= MAX_EXPONENT:
                return False
            return _small_powers(left, n, rho) and _small_powers(right, n, rho)
    return True


def _proved(expr: Expr, power: int) -> bool:
    from sympy import Symbol, diff

    u, v, m = (Symbol(name, positive=True) for name in "uvm")
    n, rho = 1 + m, (1 + v) ** -power
    curve = _symbolic(expr, {"k": n / (1 + u), "n": n, "rho": rho})
    start = _symbolic(expr, {"k": 0 * n, "n": n, "rho": rho})
    end = _symbolic(expr, {"k": n, "n": n, "rho": rho})
    return _is_zero(end - rho) and _nonnegative(1 - start) and _nonnegative(diff(curve, u))


def _symbolic(expr: Expr, at: dict[str, Any]) -> Any:
    """The expression with exact numbers."""
    from sympy import Rational, exp, log, sqrt

    match expr:
        case Number(value):
            exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
            return Rational(exact.numerator, exact.denominator)
        case Name(name):
            return at[name]
        case Unary(_, operand):
            return -_symbolic(operand, at)
        case Call(function, (argument,), _):
            return {"exp": exp, "log": log, "sqrt": sqrt}[function](_symbolic(argument, at))
        case Binary(op, left, right):
            one, other = _symbolic(left, at), _symbolic(right, at)
            return {"+": one + other, "-": one - other, "*": one * other}[op] if op in "+-*" else _ratio(op, one, other)
    raise AssertionError(f"unchecked curve {expr}")


def _ratio(op: str, one: Any, other: Any) -> Any:
    if op == "/":
        if other.is_zero:
            raise ZeroDivisionError
        return one / other
    return one**other


def _is_zero(value: Any) -> bool:
    from sympy import fraction, simplify, together

    numerator = fraction(together(value))[0].expand()
    return bool(numerator == 0 or simplify(numerator) == 0)


def _nonnegative(value: Any) -> bool:
    """Whether signs prove that a value is nowhere negative for positive symbols."""
    from sympy import factor_terms, fraction, powsimp, together

    top, bottom = fraction(together(powsimp(factor_terms(value))))
    over, under = _sign(top), _sign(bottom)
    return over == 0 or (over is not None and under not in (None, 0) and over * under > 0)


def _sign(value: Any) -> int | None:
    """1, 0 or -1: the sign of a product of powers and polynomials, where it is the same everywhere; None where not known."""
    if value.is_zero:
        return 0
    if value.is_nonnegative:
        return 1
    if value.is_nonpositive:
        return -1
    if value.is_Mul:
        signs = [_sign(factor) for factor in value.args]
        return None if None in signs else math.prod(s for s in signs if s is not None)
    if value.is_Pow and value.exp.is_even:
        return 1
    if value.is_Pow and value.exp.is_odd:
        return _sign(value.base)
    return _coefficients(value)


def _coefficients(value: Any) -> int | None:
    """The one sign of all coefficients of a polynomial in generators that are never negative."""
    from sympy import Poly
    from sympy.polys.polyerrors import PolynomialError

    try:
        polynomial = Poly(value.expand())
    except PolynomialError:
        return None
    if not all(generator.is_nonnegative for generator in polynomial.gens):
        return None
    coefficients = polynomial.coeffs()
    if all(c.is_nonnegative for c in coefficients):
        return 1
    return -1 if all(c.is_nonpositive for c in coefficients) else None
