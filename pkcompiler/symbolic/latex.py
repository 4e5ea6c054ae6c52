"""Closed forms in LaTeX (amsmath): one align block for each, the program where the polynomial is long."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import sympy

from pkcompiler.symbolic.closed import ClosedForm, ClosedForms
from pkcompiler.symbolic.monomial import Monomial
from pkcompiler.symbolic.program import Program, Term
from pkcompiler.symbolic.text import SHOWN, compact, value_names

NAMES = {"paths": r"\#\text{paths}", "E[R_2]": r"\mathbb{E}[R_2]", "E[Tr Pi]": r"\mathbb{E}[\operatorname{Tr}\Pi]"}

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def closed_latex(forms: ClosedForms) -> str:
    """A list of the symbols, then the forms."""
    lines = [r"\begin{itemize}"]
    lines += [rf"\item ${symbol_latex(w.symbol)} = {w.value}$: {escaped(', '.join(w.of[:3]))}" for w in forms.widths]
    for symbol, slots in forms.symbols.deviations.items():
        lines.append(rf"\item ${symbol_latex(symbol)}^2 = \mathbb{{E}}[\theta^2]$ of {escaped(', '.join(slots[:3]))}")
    lines += [rf"\item ${symbol_latex(s)} = {sympy.latex(_meaning(m))}$" for s, (_, m) in forms.symbols.factors.items()]
    return "\n".join([*lines, r"\end{itemize}", *(form_latex(form) for form in forms.forms)])


def _meaning(text: str) -> Any:
    variance, eps = text.removeprefix("1/(").removesuffix(")").split(" + ")
    return 1 / sympy.Add(sympy.Float(variance, 6), sympy.Float(eps, 6), evaluate=False)


def form_latex(form: ClosedForm) -> str:
    """The expression, or the program in assignments."""
    terms = form.program.run(limit=SHOWN)
    if terms is not None:
        names = {symbol: symbol_latex(symbol.name) for symbol in form.expression.free_symbols}
        body = f"{NAMES[form.name]} &= {sympy.latex(compact(form), symbol_names=names)}"
    else:
        body = " \\\\\n".join(_assignments(form.program, NAMES[form.name]))
    return "\\begin{align*}\n" + body + "\n\\end{align*}"


def _assignments(program: Program, result: str) -> Iterator[str]:
    names = {target: _value(name) for target, name in value_names(program).items()}
    last = program.statements[-1].target
    for s in program.statements:
        right = " + ".join(_term(t, names) for t in s.terms) or "0"
        yield f"{result if s.target == last else names[s.target]} &= {right}"


def _value(name: str) -> str:
    plain = name.rstrip("'")
    index = plain.removeprefix("x")
    return (f"x_{{{index}}}" if index.isdigit() else rf"\mathrm{{{plain}}}") + "'" * (len(name) - len(plain))


def _term(term: Term, names: Mapping[str, str]) -> str:
    operands = ", ".join(names[n] for n in term.operands)
    factor = monomial_latex(term.coefficient)
    if not operands:
        return factor if term.operator.name == "1" else rf"{factor} \operatorname{{{escaped(term.operator.name)}}}"
    value = rf"\operatorname{{{escaped(term.operator.name)}}}({operands})" if term.operator.name else operands
    return value if factor == "1" else rf"{factor}\, {value}"


def monomial_latex(monomial: Monomial) -> str:
    """A monomial in LaTeX: its number, 1 left out before symbols, and its powers."""
    powers = [symbol_latex(s) + ("" if e == 1 else f"^{{{e}}}") for s, e in monomial.powers]
    number = monomial.coefficient
    shown = str(number) if number.denominator == 1 else rf"\tfrac{{{number.numerator}}}{{{number.denominator}}}"
    return r" ".join([*([] if number == 1 and powers else [shown]), *powers])


def symbol_latex(name: str) -> str:
    r"""``n1`` as ``n_{1}``, ``sigma_fc_1`` as ``\sigma_{\mathrm{fc\_1}}``."""
    if name.startswith("sigma_"):
        return rf"\sigma_{{\mathrm{{{escaped(name.removeprefix('sigma_'))}}}}}"
    letters, digits = re.fullmatch(r"([a-z]+)(\d*)", name).groups()  # type: ignore[union-attr]
    return f"{letters}_{{{digits}}}" if digits else letters


def escaped(text: str) -> str:
    """Text with LaTeX's special characters written out."""
    return "".join(_SPECIAL.get(c, c) for c in text)
