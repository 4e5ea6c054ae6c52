"""Derivatives of derivatives: which expressions hold them, and ``hvp``. See docs/language.md, "Passes"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pkcompiler.lang.ast import Analysis, Call, Expr, Name, Pass
from pkcompiler.lang.check.facts import PARAM, Facts, resolve, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.search import children, walk
from pkcompiler.lang.syntax.format import print_expr

THETA = Name("theta")

Lets = Mapping[str, Expr]

_ENTRYWISE = ("abs", "sqrt", "exp", "log", "sign", "detach")
_DERIVATIVES = ("grad", "hvp", "squares")
_MOVING = ("paths", "grad", "hvp", "squares", "model", "after")
_MOVED = ("theta", "loss", "losses", "output")


def as_grad(call: Call) -> Call:
    """``hvp(F, v)`` written out: ``grad(dot(grad(F, theta), detach(v)), theta)``."""
    of, vector = call.args
    first = Call("grad", (of, THETA), (), call.span)
    return Call("grad", (Call("dot", (first, Call("detach", (vector,), ())), ()), THETA), (), call.span)


def as_product(call: Call, lets: Lets) -> tuple[Expr, Expr, Expr] | None:
    """F, u and v where the call is sum over j of d^2 F / du_i du_j * v_j for a v that grad takes as a constant; else None."""
    if call.function == "hvp" and len(call.args) == 2:
        return call.args[0], THETA, call.args[1]
    if call.function != "grad" or len(call.args) != 2:
        return None
    inner, by = resolve(call.args[0], lets), call.args[1]
    if not isinstance(inner, Call) or inner.function != "dot" or len(inner.args) != 2:
        return None
    for first, vector in (inner.args, inner.args[::-1]):
        found = resolve(first, lets)
        own = isinstance(found, Call) and found.function == "grad" and resolve(found.args[1], lets) == resolve(by, lets)
        if own and isinstance(found, Call) and not moves(vector, lets) and not holds_derivative(found.args[0], lets):
            return found.args[0], by, vector
    return None


def has_entries(expr: Expr, lets: Lets) -> bool:
    """Whether an expression surely has one value per parameter entry, by its form."""

    def entrywise(part: Expr) -> tuple[Expr, ...]:
        return () if isinstance(part, Call) and part.function not in _ENTRYWISE else children(part)

    return any(_entries(part) for part in walk(expr, lets, entrywise))


def _entries(part: Expr) -> bool:
    match part:
        case Name("theta" | "mask" | "prunable") | Call("grad" | "hvp" | "squares" | "uniform" | "walks" | "balance", _, _):
            return True
        case Call("noise", _, kwargs):
            return ("axes", Name("param")) in kwargs
    return False


def product_text(call: Call, lets: Lets, index: str, notation: Callable[[Expr, Lets, str], str]) -> str | None:
    """``sum over j of d^2 F / (d u_i d u_j) * v_j`` where the call is that (``index``: "_i"); ``notation`` writes the parts."""
    found = as_product(call, lets)
    if found is None or not index:
        return None
    of, by, vector = found
    below = f"d {notation(by, lets, index)} d {notation(by, lets, '_j')}"
    along = notation(vector, lets, "_j")
    shown = f"({along})" if " " in along else along
    what = notation(of, lets, "")
    return f"sum over j of d^2 {f'({what})' if ' ' in what else what} / ({below}) * {shown}"


def second_facts(of: Facts, own_edge: bool) -> Facts:
    """The facts of ``grad(F, u)``, F with the facts ``of``; ``own_edge``: u is the edge of F and not theta."""
    theta = of.theta or not own_edge
    return Facts(PARAM, of.edges, theta, of.data, True, of.model, of.figure, True, deep=of.second)


def hvp_facts(call: Call, facts: Callable[[Expr], Facts], findings: Findings) -> Facts:
    """The facts of ``hvp(F, v)``; reports where v has not the axes of theta, and what ``grad(F, theta)`` would report."""
    vector = facts(call.args[1])
    if vector.axes is not None and vector.axes != PARAM:
        message = f"hvp() along {print_expr(call.args[1])}, which is {show_axes(vector.axes)}"
        note = f"write hvp({print_expr(call.args[0])}, grad({print_expr(call.args[0])}, theta))"
        findings.error("PKC111", message, call.args[1].span, "must have one value per parameter: [param]", note)
    inner = facts(Call("grad", (call.args[0], Name("theta", call.span)), (), call.span))
    if inner.deep:
        too_deep(findings, call.args[0])
    return replace(inner, data=inner.data or vector.data, model=inner.model or vector.model, deep=True)


def too_deep(findings: Findings, expr: Expr) -> None:
    """A third derivative, or one of what has none."""
    findings.error(
        "PKC112",
        "grad() goes up to derivatives of derivatives",
        expr.span,
        "holds one already",
        "write detach(...) around it to take it as a constant",
    )


def _seen_by_grad(part: Expr) -> tuple[Expr, ...]:
    return () if isinstance(part, Call) and part.function == "detach" else children(part)


def holds_derivative(expr: Expr, lets: Lets) -> bool:
    """Whether grad would see a derivative in it."""
    return any(isinstance(part, Call) and part.function in _DERIVATIVES for part in walk(expr, lets, _seen_by_grad))


def moves(expr: Expr, lets: Lets) -> bool:
    """Whether grad would see theta in it, or what is computed from it."""

    def arguments(part: Expr) -> tuple[Expr, ...]:
        return part.args if isinstance(part, Call) and part.function != "detach" else _seen_by_grad(part)

    return any(
        part.function in _MOVING if isinstance(part, Call) else isinstance(part, Name) and part.value in _MOVED
        for part in walk(expr, lets, arguments)
    )


def differs_under_grad(expr: Expr, lets: Lets) -> bool:
    """Whether it is evaluated differently where grad will see it: it holds a derivative, or theta outside of an edge."""

    def outside(part: Expr) -> tuple[Expr, ...]:
        if isinstance(part, Call) and part.function != "detach":
            return (*part.args, *(value for key, value in part.kwargs if key != "edge"))
        return _seen_by_grad(part)

    return any(
        part.function in _DERIVATIVES if isinstance(part, Call) else isinstance(part, Name) and part.value == "theta"
        for part in walk(expr, lets, outside)
    )


def reads_all(pass_: Pass | Analysis) -> bool:
    """Whether the score of one entry stands on derivatives or values of all others: then none may be left out."""
    lets = dict(pass_.lets)
    scored = [pass_.score] if isinstance(pass_, Pass) else []
    return any(_reads_all(expr, lets) for expr in (*scored, *lets.values()))


def _reads_all(expr: Expr, lets: Lets) -> bool:
    match expr:
        case Call("hvp" | "dot" | "walks", _, _) | Call("model", _, (_, *_)):
            return True
        case Call("grad", (functional, _), _) if holds_derivative(functional, lets):
            return True
        case Call(_, _, kwargs) if ("over", Name("param")) in kwargs:
            return True
    return any(_reads_all(part, lets) for part in children(expr))
