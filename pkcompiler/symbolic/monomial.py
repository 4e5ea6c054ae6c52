"""Monomials with rational coefficients and whole exponents, and polynomials whose coefficients are arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Powers = tuple[tuple[str, int], ...]
"""Symbols by name with their exponents (negative ones too), sorted, none of them 0."""

Terms = dict[Powers, Any]
"""A polynomial: an array (or a number) of coefficients for every product of powers."""


@dataclass(frozen=True, slots=True)
class Monomial:
    """``coefficient`` times a product of powers of symbols."""

    coefficient: Fraction = Fraction(1)
    powers: Powers = ()

    @staticmethod
    def of(symbol: str, exponent: int = 1) -> Monomial:
        """A power of one symbol."""
        return Monomial(Fraction(1), ((symbol, exponent),))

    @staticmethod
    def number(value: int | float | Fraction) -> Monomial:
        """A number, exactly as it is stored."""
        return Monomial(Fraction(value))

    def __mul__(self, other: Monomial) -> Monomial:
        return Monomial(self.coefficient * other.coefficient, multiplied(self.powers, other.powers))

    def __pow__(self, exponent: int) -> Monomial:
        return Monomial(self.coefficient**exponent, tuple((s, e * exponent) for s, e in self.powers if e * exponent))

    def substituted(self, bindings: Mapping[str, Monomial]) -> Monomial:
        """The monomial with symbols replaced by monomials."""
        found = Monomial(self.coefficient, tuple((s, e) for s, e in self.powers if s not in bindings))
        for symbol, exponent in self.powers:
            if symbol in bindings:
                found = found * bindings[symbol] ** exponent
        return found


def multiplied(first: Powers, second: Powers) -> Powers:
    """The product of two products of powers."""
    if not first or not second:
        return first or second
    exponents = dict(first)
    for symbol, exponent in second:
        exponents[symbol] = exponents.get(symbol, 0) + exponent
    return tuple(sorted((s, e) for s, e in exponents.items() if e))


def added(terms: Terms, powers: Powers, value: Any) -> None:
    """Add one term in place."""
    terms[powers] = terms[powers] + value if powers in terms else value


def mapped(terms: Terms, function: Callable[..., Any]) -> Terms:
    """A linear function of every coefficient."""
    return {powers: function(value) for powers, value in terms.items()}


def paired(first: Terms, second: Terms, function: Callable[..., Any]) -> Terms:
    """A bilinear function of two polynomials."""
    found: Terms = {}
    for left, x in first.items():
        for right, y in second.items():
            added(found, multiplied(left, right), function(x, y))
    return found


def dominant(terms: Terms, symbol: str) -> Terms:
    """In every entry the term with the largest power of ``symbol``; zeros elsewhere, and no term of zeros alone."""
    found: Terms = {}
    taken: Any = False
    for powers in sorted(terms, key=lambda p: dict(p).get(symbol, 0), reverse=True):
        here = np.asarray(terms[powers])
        live = (here != 0) & ~np.asarray(taken)
        if live.any():
            found[powers] = np.where(live, here, 0 * here)
        taken = taken | (here != 0)
    return found
