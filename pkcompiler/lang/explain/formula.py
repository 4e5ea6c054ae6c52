"""The formula that a pass denotes, derived from its expression.

By docs/theory.md, section 2, a path functional R with edge t has, for an entry i, t(theta_i) dR/dt(theta_i) = M_i, the sum over the
paths p through i of n_ip t(v_p). So dR/dtheta_i = M_i t'(theta_i)/t(theta_i), which is M_i / theta_i for abs(theta) and theta, and
2 M_i / theta_i for theta^2. A score that is a product of powers of theta and one derivative thus has the form
c * sign * |theta_i|^e * M_i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pkcompiler.lang import words
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Pass, Unary
from pkcompiler.lang.check.facts import edge_of, resolve
from pkcompiler.lang.check.search import walk, written_out
from pkcompiler.lang.explain.formula_draws import as_kept, drawn_lines
from pkcompiler.lang.functions.balance import balance_lines, taken_text
from pkcompiler.lang.functions.derivatives import has_entries, product_text
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.functions.walks import visit_text, walk_lines
from pkcompiler.lang.syntax.format import print_expr

_VALUE = {"abs(theta)": "|v_p|", "theta^2": "v_p^2", "theta": "v_p", "1": ""}
_SQUARE = ("theta^2",)


MAX_PARTS = 200
"""The largest score, its names written out, that is brought into one closed form: a longer one would not be read."""


@dataclass(frozen=True, slots=True)
class Mass:
    """What the derivative contributes: its text, whether it is surely not negative, and the functional behind it."""

    text: str
    positive: bool = False
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """``factor * sgn(theta_i)^odd * |theta_i|^power * mass``, in bars where ``bars``."""

    factor: float = 1.0
    odd: bool = False
    power: float = 0.0
    mass: Mass | None = None
    bars: bool = False


def formula(pass_: Pass) -> str:
    """``score_i = ...``, and below it what the letters in it mean."""
    lets = dict(pass_.lets)
    seen: list[Term] = []
    right = _sum_of_terms(pass_.score, lets, seen) if written_out(pass_.score, lets) <= MAX_PARTS else None
    if right is None:
        seen = []
        right = notation(pass_.score, lets)
    right = visit_text(pass_.score, lets) or taken_text(pass_.score, lets) or right
    lines = [f"score_i = {as_kept(pass_, right)}"]
    lines += _legend(seen, pass_, right)
    for below in (walk_lines, balance_lines):
        lines += below(pass_.score, lets, lambda along: notation(along, lets))
    lines += drawn_lines(pass_)
    return "\n".join(lines)


def _sum_of_terms(expr: Expr, lets: Mapping[str, Expr], seen: list[Term]) -> str | None:
    expr = resolve(expr, lets)
    if isinstance(expr, Binary) and expr.op in "+-":
        left, right = _sum_of_terms(expr.left, lets, seen), _sum_of_terms(expr.right, lets, seen)
        return None if left is None or right is None else f"{left} {expr.op} {right}"
    term = _term(expr, lets)
    if term is None:
        return None
    seen.append(term)
    return _show(term)


def _term(expr: Expr, lets: Mapping[str, Expr]) -> Term | None:
    expr = resolve(expr, lets)
    match expr:
        case Number(value, ""):
            return Term(float(value)) if value > 0 else None
        case Name("theta"):
            return Term(odd=True, power=1)
        case Call("uniform", (), ()):
            return Term(mass=Mass("u_i", True))
        case Call("abs", (inner,), ()):
            return _absolute(_term(inner, lets))
        case Call("detach", (inner,), ()):
            return _term(inner, lets)
        case Call("grad", (functional, by), ()):
            return _derivative(functional, by, lets)
        case Call("squares", (of, by), ()) if resolve(of, lets) == Name("output"):
            power = 2.0 if resolve(by, lets) == Name("mask") else 0.0
            return Term(power=power, mass=Mass("sum over samples n and outputs k of (d output_k(x_n) / d theta_i)^2", True))
        case Binary("*", left, right):
            return _product(_term(left, lets), _term(right, lets))
        case Binary("/", left, right):
            return _product(_term(left, lets), _power(_term(right, lets), -1))
        case Binary("^", base, Number(value, "")):
            return _power(_term(base, lets), value)
    return None


def _absolute(term: Term | None) -> Term | None:
    if term is None or term.mass is None or term.mass.positive:
        return term and replace(term, odd=False)
    return replace(term, bars=True)


def _product(left: Term | None, right: Term | None) -> Term | None:
    if left is None or right is None or (left.mass and right.mass) or left.bars or right.bars:
        return None
    return Term(left.factor * right.factor, left.odd != right.odd, left.power + right.power, left.mass or right.mass)


def _power(term: Term | None, power: float) -> Term | None:
    if term is None or term.mass is not None or term.bars or (term.odd and power != int(power)) or not abs(power) < 64:
        return None
    odd = term.odd and int(power) % 2 == 1
    return Term(term.factor**power, odd, term.power * power)


def _derivative(functional: Expr, by: Expr, lets: Mapping[str, Expr]) -> Term | None:
    inner = resolve(functional, lets)
    masked = resolve(by, lets) == Name("mask")
    if inner == Name("loss"):
        return Term(odd=masked, power=1.0 if masked else 0.0, mass=Mass("d loss / d theta_i"))
    if not isinstance(inner, Call) or inner.function != "paths":
        return None
    edge = edge_of(dict(inner.kwargs).get("edge", Call("abs", (Name("theta"),), ())), lets)
    mass = _mass(inner, edge, lets)
    own = {"abs(theta)": Term(power=1), "theta^2": Term(power=2), "theta": Term(odd=True, power=1), "1": Term()}[edge]
    if not masked and edge_of(by, lets) == edge and edge != "theta":
        return replace(own, power=-own.power, mass=mass)
    if edge == "1":
        return None
    by_theta = Term(2.0 if edge in _SQUARE else 1.0, True, -1.0, mass)
    return _product(by_theta, Term(odd=True, power=1)) if masked else by_theta


def _mass(call: Call, edge: str, lets: Mapping[str, Expr]) -> Mass:
    given = dict(call.kwargs)
    value = _VALUE[edge]
    positive = edge != "theta"
    factors = ["n_ip"] + ([value] if value else [])
    entry = given.get("input", Name("ones"))
    if entry != Name("ones"):
        factors.append(f"{notation(entry, lets, '')}[s(p)]" if _simple(entry) else f"({notation(entry, lets, '')})[s(p)]")
        positive = positive and _square(entry, lets)
    if print_expr(given.get("gates", Name("open"))) != "open":
        factors.append("a_p")
    end = given.get("output", Name("ones"))
    if end not in (Name("ones"), Name("each")):
        factors.append(f"({notation(end, lets, '')})[k(p)]")
        positive = False
    return Mass(f"sum over paths p through i of {' '.join(factors)}", positive, call)


def _simple(expr: Expr) -> bool:
    return isinstance(expr, Name | Call)


def _square(expr: Expr, lets: Mapping[str, Expr]) -> bool:
    """Whether an expression is surely not negative, by its form."""
    expr = resolve(expr, lets)
    match expr:
        case Binary("^", _, Number(2, "")):
            return True
        case Call("mean" | "sum" | "max", (inner, *_), _):
            return _square(inner, lets)
        case Call("abs" | "norm2" | "sqrt" | "exp", _, _):
            return True
    return False


def _show(term: Term) -> str:
    parts = [f"{term.factor:g}"] if term.factor != 1 else []
    bars = term.bars and term.mass is not None
    odd, power = term.odd, term.power
    if power == int(power) and int(power) % 2 == int(odd):
        base = "theta_i"
    else:
        base = "|theta_i|"
        parts += ["sgn(theta_i)"] if odd else []
    if power:
        exponent = f"{power:g}" if power > 0 else f"({power:g})"
        parts.append(base if power == 1 else f"{base}^{exponent}")
    if term.mass is not None:
        parts.append(f"({term.mass.text})" if parts and term.mass.call else term.mass.text)
    text = " * ".join(parts) or "1"
    return f"|{text}|" if bars else text


def notation(expr: Expr, lets: Mapping[str, Expr], index: str = "_i") -> str:
    """The expression in the usual letters; derivatives as d F / d theta_i. ``let`` names stay."""
    match expr:
        case Name("theta" | "mask" | "prunable" as name):
            return name + index
        case Call("abs", (inner,), ()):
            return f"|{notation(inner, lets, index)}|"
        case Call("hvp" | "grad", (_, _, *_), ()) if (product := product_text(expr, lets, index, notation)) is not None:
            return product
        case Call("squares", (Name("losses"), by), ()) if index:
            return f"sum over samples n of (d losses_n / d {notation(by, lets, index)})^2"
        case Call("grad", (functional, by), ()):
            return f"d {_operand(functional, lets, '')} / d {_operand(by, lets, index)}"
        case Call(function, _, _) if index and not _is_entrywise(function):
            return notation(expr, lets, "")
        case Call(function, args, kwargs):
            parts = [notation(a, lets, index) for a in args] + [f"{k} = {print_expr(v)}" for k, v in kwargs]
            return f"{function}({', '.join(parts)})"
        case Unary(op, operand):
            return op + _operand(operand, lets, index)
        case Binary("^", left, right):
            base = _operand(left, lets, index)
            return f"{f'({base})' if base.startswith('d ') else base}^{_operand(right, lets, index)}"
        case Binary(op, left, right):
            return f"{_operand(left, lets, index)} {op} {_operand(right, lets, index)}"
    if not isinstance(expr, Name) or expr.value not in lets or not index or not has_entries(expr, lets):
        return print_expr(expr)
    found = resolve(expr, lets)
    derived = isinstance(found, Call) and found.function in ("grad", "hvp")
    return notation(found, lets, index) if derived else f"{expr.value}{index}"


def _is_entrywise(function: str) -> bool:
    """Whether entry i of a function's value is made of entry i of its arguments alone; of the others they are whole."""
    word = words.find(function, "function")
    return word is not None and word.kind == "same"


def _operand(expr: Expr, lets: Mapping[str, Expr], index: str) -> str:
    text = notation(expr, lets, index)
    whole = isinstance(expr, Binary | Unary) or (text.startswith("sum over ") and isinstance(expr, Call))
    return f"({text})" if whole else text


def _legend(seen: list[Term], pass_: Pass, right: str) -> list[str]:
    lines: list[str] = []
    calls = [t.mass.call for t in seen if t.mass is not None and t.mass.call is not None]
    for term in seen:
        if term.mass is not None and term.mass.call is not None and (term.power or term.odd):
            left = _show(replace(term, factor=1.0, mass=None, bars=False))
            lines.append(f"the factor {left} is left over: this is not the path mass through i alone")
            if term.odd and term.factor % 2 == 0:
                lines.append("for the derivative was taken by theta; by the edge it is grad(R, theta^2)")
    if any(edge_of(dict(c.kwargs).get("edge", Name("")), dict(pass_.lets)) != "1" for c in calls):
        lines.append("v_p = c_p times the product of the weights on p, at theta * mask; n_ip = how often p crosses i")
    for call in calls:
        lines += [line for line in arguments(call) if line not in lines]
    if not seen:
        lines += [f"with {name} = {print_expr(expr)}" for name, expr in pass_.lets]
    if right == "u_i":
        lines.append("u_i is drawn uniformly from [0, 1), seeded per parameter name")
    if "loss" in right.replace("losses_n", ""):
        lines.append("loss = the mean loss over all samples, at theta * mask")
    if any(Name("prunable") in walk(expr, {}) for expr in (pass_.score, *dict(pass_.lets).values())):
        lines.append("prunable_i = 1 where a pass may prune (after include, before except), else 0")
    if "losses_n" in right:
        lines.append("losses_n = the loss of sample n alone, at theta * mask")
    return lines


def arguments(call: Call) -> list[str]:
    """One line for each argument of ``paths`` that is not the default, apart from the edge."""
    lines = []
    for key, value in call.kwargs:
        shown = print_expr(value)
        if key == "edge" or shown == DEFAULTS[key]:
            continue
        row = words.find(shown, "value", key)
        meaning = (
            row.doc if row else {"input": "the weight of input entry s(p)", "output": "the weight of output k(p)"}.get(key, "")
        )
        if key == "gates":
            meaning = (
                "a_p is the product of the squared slopes of its gates, over their gains"
                if shown == "data^2"
                else "a_p is the product of the slopes of its gates, over their gains"
            )
        lines.append(f"{key} = {shown}: {meaning}")
    return lines
