"""Numbers of any size in the typography of a page, and the ticks of an axis of powers of ten."""

from __future__ import annotations

import math

from pkcompiler.markup import superscript

LEADING = 10**11
"""A logarithm of this size, held as a float, says no more than four digits of the number behind it."""


def power(log10: float | None) -> str:
    """A number of any size by its logarithm (None: 0): ``1.234``, or ``1.234 × 10²⁵``.

    >>> power(25.5)
    '3.162 × 10²⁵'
    """
    if log10 is None or log10 == -math.inf:
        return "0"
    if math.isnan(log10):
        return "-"
    if -3 <= log10 < 5:
        return f"{10**log10:,.4g}" if log10 < 4 else f"{10**log10:,.0f}"
    whole = math.floor(log10)
    if abs(whole) >= LEADING:
        return f"10{superscript(whole)}"
    leading = 10 ** (log10 - whole)
    if leading >= 9.9995:
        leading, whole = 1.0, whole + 1
    return f"{leading:.3f} × 10{superscript(whole)}"


def decades(low: float, high: float) -> tuple[float, float]:
    """The range, widened until it holds two whole powers of ten."""
    return (low, high) if len(whole(low, high)) >= 2 else (min(low, float(-(-low // 1)) - 1), max(high, float(high // 1) + 1))


def whole(low: float, high: float) -> list[int]:
    """The whole numbers of a range, at most a dozen of them, evenly."""
    first, last = int(-(-low // 1)), int(high // 1)
    step = max(1, -(-(last - first) // 10))
    return list(range(first, last + 1, step))
