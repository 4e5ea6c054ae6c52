"""Closed forms as a table, as plain data, and their programs as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sympy

from pkcompiler.diagnostics import first_few
from pkcompiler.symbolic.closed import ClosedForm, ClosedForms
from pkcompiler.symbolic.monomial import Monomial
from pkcompiler.symbolic.program import Program, Term
from pkcompiler.symbolic.variances import SCHEMES

SHOWN = 12
"""A polynomial of more terms is not printed."""


def closed_text(forms: ClosedForms) -> str:
    """The table of ``pkc analyze --symbolic``."""
    lines = [f"closed forms of {forms.name} (dense, open gates)", "widths"]
    lines += [f"  {w.symbol} = {w.value}: {first_few(w.of, 3)}" for w in forms.widths]
    lines.append(f"variances: {SCHEMES.get(forms.scheme, 'as given')}")
    lines += [f"  {s}^2 = E[theta^2] of {first_few(slots, 3)}" for s, slots in forms.symbols.deviations.items()]
    lines += [f"  {s} = {meaning}" for s, (_, meaning) in forms.symbols.factors.items()]
    for form in forms.forms:
        lines += [f"{form.name} = {shown(form)}", *_number(form), *_status(form)]
    return "\n".join([*lines, *(f"note: {note}" for note in forms.notes)])


def shown(form: ClosedForm) -> str:
    """The expression where it is short, else its size."""
    terms = form.program.run(limit=SHOWN)
    if terms is not None:
        return str(compact(form))
    return f"a polynomial of more than {SHOWN} terms, by a program of {len(form.program.statements)} lines"


def compact(form: ClosedForm) -> Any:
    """The expression with what all its terms share pulled out."""
    return sympy.factor_terms(form.expression)


def _number(form: ClosedForm) -> Iterator[str]:
    if form.free() & set(form.symbols.deviations):
        return
    if form.name == "paths":
        count = int(form.subs())
        yield "  here " + (f"{count:,}" if count < 10**21 else str(form.value()))
    else:
        yield f"  here {form.value()}"


def _status(form: ClosedForm) -> Iterator[str]:
    if form.status != "exact":
        yield f"  {form.status}: {form.note}"


def closed_json(forms: ClosedForms) -> dict[str, Any]:
    """Plain data."""
    return {
        "name": forms.name,
        "variances": forms.scheme,
        "widths": [{"symbol": w.symbol, "value": w.value, "of": list(w.of)} for w in forms.widths],
        "deviations": {s: list(slots) for s, slots in forms.symbols.deviations.items()},
        "factors": {s: {"value": float(v), "meaning": m} for s, (v, m) in forms.symbols.factors.items()},
        "forms": [_form_json(form) for form in forms.forms],
        "notes": list(forms.notes),
    }


def _form_json(form: ClosedForm) -> dict[str, Any]:
    terms = form.program.run(limit=SHOWN)
    numeric = not (form.free() & set(form.symbols.deviations))
    return {
        "name": form.name,
        "expression": str(compact(form)) if terms is not None else None,
        "terms": None if terms is None else len(terms),
        "program": program_text(form.program).splitlines(),
        "here": form.value().to_json() if numeric else None,
        "status": form.status,
        "note": form.note,
    }


def program_text(program: Program) -> str:
    """One assignment a line; ``x0`` is the first value, ``total`` the result."""
    names = value_names(program)
    lines = []
    for s in program.statements:
        right = " + ".join(_term(t, names) for t in s.terms) or "0"
        shape = "x".join(str(n) for n in s.shape if n != 1)
        lines.append(
            f"{names[s.target]} = {right}"
            + (f"  # {s.target}" if s.target != names[s.target] else "")
            + (f" [{shape}]" if shape else "")
        )
    return "\n".join(lines)


def value_names(program: Program) -> dict[str, str]:
    """Short names in order; a derivative has the name of its value and a prime."""
    found: dict[str, str] = {}
    for s in program.statements:
        plain = s.target.rstrip("'")
        name = found.get(plain) or ("total" if plain == "total" else f"x{sum(1 for k in found if not k.endswith(chr(39)))}")
        found.setdefault(plain, name)
        found[s.target] = name + s.target[len(plain) :]
    return found


def _term(term: Term, names: Mapping[str, str]) -> str:
    operands = [names[n] for n in term.operands]
    value = f"{term.operator.name}({', '.join(operands)})" if term.operator.name and operands else operands[0] if operands else ""
    factor = monomial_text(term.coefficient)
    if not value:
        return factor
    return value if factor == "1" else f"{factor}*{value}"


def monomial_text(monomial: Monomial) -> str:
    """``9*n1*sigma_conv1^2``"""
    powers = [s if e == 1 else f"{s}^{e}" for s, e in monomial.powers]
    number = [] if monomial.coefficient == 1 and powers else [str(monomial.coefficient)]
    return "*".join([*number, *powers])
