"""How a closed form grows: its degree in a width, or in all hidden widths scaled together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pkcompiler.diagnostics import fail
from pkcompiler.measured import Measured
from pkcompiler.symbolic.closed import ClosedForm, ClosedForms, Symbols, measured
from pkcompiler.symbolic.monomial import Monomial

SCALE = "k"
"""The factor by which widths are scaled together."""


@dataclass(frozen=True, slots=True)
class Growth:
    """``form`` ~ ``coefficient`` * ``by`` ^ ``degree`` to leading order, the other widths as in the model.

    ``by``: a width's symbol, or ``k``, the factor of all hidden widths. The degree is exact: all terms are positive, so none
    cancel. ``coefficient`` is None while standard deviations are symbols.
    """

    form: str
    by: str
    degree: int
    coefficient: Measured | None

    def __str__(self) -> str:
        power = {0: "", 1: self.by}.get(self.degree, f"{self.by}^{self.degree}")
        factor = "" if self.coefficient is None else str(self.coefficient)
        return f"{self.form} ~ {' '.join(part for part in (factor, power) if part) or 'constant'}"


def growth(forms: ClosedForms, by: str) -> tuple[Growth, ...]:
    """The leading order of the three forms in the width ``by``, or in all hidden ``widths`` scaled together by k.

    Raises ``PKC538`` for a symbol that is no width.
    """
    chosen = {w.symbol for w in forms.widths if by == w.symbol or (by == "widths" and w.hidden)}
    if not chosen:
        known = ", ".join(w.symbol for w in forms.widths)
        if by == "widths":
            raise fail("PKC538", f"{forms.name} has no hidden width to scale", f"name a width: growth('n1'); it has {known}")
        raise fail("PKC538", f"{forms.name} has no width '{by}' to scale", f"expected 'widths' or one of {known}")
    return tuple(_grown(form, chosen, SCALE if by == "widths" else by) for form in forms.forms)


def _grown(form: ClosedForm, chosen: set[str], by: str) -> Growth:
    symbols = form.symbols
    bindings = {w.symbol: Monomial.number(w.value) for w in symbols.widths if w.symbol not in chosen}
    if by == SCALE:
        bindings |= {w.symbol: Monomial(Fraction(w.value), ((SCALE, 1),)) for w in symbols.widths if w.symbol in chosen}
    bindings |= {s: Monomial(value) for s, (value, _) in symbols.factors.items()}
    bindings |= {s: Monomial() for s in symbols.deviations}
    bindings |= {s: _leading_fan(symbols, s, bindings, by) for s in symbols.fans}
    try:
        with np.errstate(over="raise", under="raise"):
            terms = form.program.run(bindings, exact=False, leading=by) or {}
    except ArithmeticError:
        terms = form.program.run(bindings, leading=by) or {}
    degree, coefficient = max(((dict(powers).get(by, 0), c) for powers, c in terms.items()), default=(0, 0))
    unknown = bool(form.free() & set(symbols.deviations))
    return Growth(form.name, by, degree, None if unknown else measured(Fraction(coefficient)))


def _leading_fan(symbols: Symbols, name: str, bindings: Mapping[str, Monomial], by: str) -> Monomial:
    """2 / fan-in where the largest power of the fan-in's sum rules."""
    by_degree: dict[int, Fraction] = {}
    for count, product in symbols.fans[name]:
        bound = product.substituted(bindings)
        degree = dict(bound.powers).get(by, 0)
        by_degree[degree] = by_degree.get(degree, Fraction(0)) + count * bound.coefficient
    degree = max(by_degree)
    return Monomial(2 / by_degree[degree], ((by, -degree),) if degree else ())
