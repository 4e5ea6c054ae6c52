"""A dense model as a straight-line program over positions, in symbolic widths and variances; one program, several readings.

Every value of the program is an array over the *positions* of a value of the graph (its pixels, tokens, heads): the channels of a
group are alike in a dense model, so one entry stands for all of them, and a sum over them is a factor ``n``. A statement is a sum
of terms, each a monomial in the symbols times a fixed operator on positions (a sum over windows, a selection) applied to values
before. Nothing is expanded, so the program of a deep residual network is as long as the network; expanded, its polynomial may
have exponentially many terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from pkcompiler.symbolic.monomial import Monomial, Terms, added, dominant, mapped, paired


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A fixed map of arrays of numbers, linear in each operand; none for a source. ``name`` empty: the identity."""

    name: str
    apply: Callable[..., Any]


IDENTITY = Operator("", lambda x: x)


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """``coefficient * operator(operands)``."""

    coefficient: Monomial
    operator: Operator
    operands: tuple[str, ...]

    def scaled(self, factor: Monomial) -> Term:
        """The term times a monomial."""
        return replace(self, coefficient=self.coefficient * factor)


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """``target = sum of terms``, an array of ``shape``."""

    target: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Statements in order; the last one is the result, a number."""

    statements: tuple[Statement, ...]

    def run(
        self, bindings: Mapping[str, Monomial] | None = None, *, limit: int = 0, exact: bool = True, leading: str = ""
    ) -> Terms | None:
        """The result as a polynomial in the symbols that have no binding; None above ``limit`` terms in one value (0: no limit).

        ``exact``: rational numbers of any size; otherwise float64. ``leading``: the one symbol without a binding, of whose powers
        only the largest is followed in every entry (nothing is negative, so what is smaller there stays smaller).
        """
        values: dict[str, Terms] = {}
        last = {name: i for i, s in enumerate(self.statements) for t in s.terms for name in t.operands}
        for i, statement in enumerate(self.statements):
            found: Terms = {}
            for term in statement.terms:
                _accumulate(found, term, values, bindings or {}, exact)
            if leading:
                found = dominant(found, leading)
            if limit and len(found) > limit:
                return None
            values[statement.target] = found
            for name in {name for t in statement.terms for name in t.operands}:
                if last[name] == i:
                    del values[name]
        return mapped(values[self.statements[-1].target], lambda x: np.asarray(x, dtype=object).reshape(-1)[0])

    def bound(self, bindings: Mapping[str, Monomial]) -> Program:
        """The program with symbols replaced, without terms that are 0, values that no one reads, and mere renamings."""
        return _shortened(
            replace(s, terms=tuple(replace(t, coefficient=t.coefficient.substituted(bindings)) for t in s.terms))
            for s in self.statements
        )

    def differentiated(self, slots: Iterable[str]) -> Program:
        """The sum of the derivatives by the symbols ``slots``: each value is followed by its derivative (forward mode)."""
        among, found = frozenset(slots), []
        moving: set[str] = set()
        for s in self.statements:
            terms = [d for t in s.terms for d in _derivatives(t, among, moving)]
            found.append(s)
            if terms:
                moving.add(s.target)
                found.append(Statement(prime(s.target), s.shape, tuple(terms)))
        last = self.statements[-1]
        if last.target not in moving:
            found.append(Statement(prime(last.target), last.shape, ()))
        return Program(tuple(found))


def prime(target: str) -> str:
    """The name of a value's derivative."""
    return f"{target}'"


def _accumulate(found: Terms, term: Term, values: Mapping[str, Terms], bindings: Mapping[str, Monomial], exact: bool) -> None:
    factor = term.coefficient.substituted(bindings)
    if factor.coefficient == 0:
        return
    number = _plain(factor.coefficient) if exact else float(factor.coefficient)
    operands = [values[name] for name in term.operands]
    base = {factor.powers: number}
    for powers, array in _applied(term.operator, operands, exact).items():
        for p, value in paired(base, {powers: array}, lambda x, y: y if x == 1 else y * x).items():
            added(found, p, value)


def _plain(number: Fraction) -> int | Fraction:
    return number.numerator if number.denominator == 1 else number


def _applied(operator: Operator, operands: list[Terms], exact: bool) -> Terms:
    dtype: Any = object if exact else np.float64
    match operands:
        case []:
            return {(): np.asarray(operator.apply(), dtype=dtype)}
        case [x]:
            return mapped(x, lambda a: np.asarray(operator.apply(a), dtype=dtype))
        case [x, y]:
            return paired(x, y, lambda a, b: np.asarray(operator.apply(a, b), dtype=dtype))
    raise AssertionError("an operator has at most two operands")


def _derivatives(term: Term, among: frozenset[str], moving: set[str]) -> list[Term]:
    found = [
        term.scaled(Monomial(Fraction(exponent), ((symbol, -1),)))
        for symbol, exponent in term.coefficient.powers
        if symbol in among
    ]
    for i, name in enumerate(term.operands):
        if name in moving:
            found.append(replace(term, operands=(*term.operands[:i], prime(name), *term.operands[i + 1 :])))
    return found


def _shortened(statements: Iterable[Statement]) -> Program:
    """Drops zeros, then renamings, then what nobody reads."""
    zero: set[str] = set()
    alias: dict[str, Term] = {}
    kept: list[Statement] = []
    for s in statements:
        live = (t for t in s.terms if t.coefficient.coefficient != 0 and not zero.intersection(t.operands))
        terms = tuple(_renamed(t, alias) for t in live)
        if not terms:
            zero.add(s.target)
        if len(terms) == 1 and terms[0].operator is IDENTITY:
            alias[s.target] = terms[0]
        kept.append(Statement(s.target, s.shape, terms))
    return Program(tuple(read(kept)))


def _renamed(term: Term, alias: Mapping[str, Term]) -> Term:
    factor, names = term.coefficient, []
    for name in term.operands:
        names.append(alias[name].operands[0] if name in alias else name)
        factor = factor * alias[name].coefficient if name in alias else factor
    return replace(term, coefficient=factor, operands=tuple(names))


def read(statements: Sequence[Statement]) -> list[Statement]:
    """The statements that the last one depends on."""
    needed, kept = {statements[-1].target}, []
    for s in reversed(statements):
        if s.target in needed:
            needed.update(name for t in s.terms for name in t.operands)
            kept.append(s)
    return kept[::-1]
