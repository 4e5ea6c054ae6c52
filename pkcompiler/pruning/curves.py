"""Densities over the rounds of a stage (docs/theory.md, section 7)."""

from __future__ import annotations

from pkcompiler.lang.check.curves import curve_value


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
