"""Derivatives of derivatives: ``squares(output, u)`` and ``hvp(F, v)``. See docs/language.md, "Passes"."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Call, Expr, Name, Typed
from pkcompiler.lang.check.facts import PARAM, UNKNOWN, Facts, edge_of, resolve, show_axes
from pkcompiler.lang.functions.closed import Mass, Product
from pkcompiler.lang.functions.record import Checker, Function, Writer, always
from pkcompiler.lang.syntax.format import print_expr

THETA = Name("theta")


def as_grad(call: Call) -> Call:
    """``hvp(F, v)`` written out: ``grad(dot(grad(F, theta), detach(v)), theta)``."""
    of, vector = call.args
    first = Call("grad", (of, THETA), (), call.span)
    return Call("grad", (Call("dot", (first, Call("detach", (vector,), ())), ()), THETA), (), call.span)


def too_deep(checker: Checker, expr: Expr) -> None:
    """A third derivative, or one of what has none."""
    message = "grad() goes up to derivatives of derivatives"
    checker.error("PKC112", message, expr.span, "holds one already", "write detach(...) around it to take it as a constant")


def _hvp(checker: Checker, call: Call) -> Facts:
    """Reports where v has not the axes of theta, and what ``grad(F, theta)`` would report."""
    vector = checker.operand(call.args[1])
    if vector.axes is not None and vector.axes != PARAM:
        message = f"hvp() along {print_expr(call.args[1])}, which is {show_axes(vector.axes)}"
        note = f"write hvp({print_expr(call.args[0])}, grad({print_expr(call.args[0])}, theta))"
        checker.error("PKC111", message, call.args[1].span, "must have one value per parameter: [param]", note)
    inner = checker.operand(Call("grad", (call.args[0], Name("theta", call.span)), (), call.span))
    if inner.deep:
        too_deep(checker, call.args[0])
    return replace(inner, data=inner.data or vector.data, model=inner.model or vector.model, deep=True)


def _squares(checker: Checker, call: Call) -> Facts:
    """[param], a derivative of the model's run."""
    of, by = call.args
    facts = checker.operand(of)
    checker.scope.use(by)
    if facts.axes is None:
        return UNKNOWN
    lets, example = checker.scope.lets, "write squares(output, theta)"
    if resolve(of, lets) not in (Name("output"), Name("losses")):
        message = f"squares() of {print_expr(of)}, which is {show_axes(facts.axes)}"
        note = "the square of one derivative is grad(F, theta)^2" if not facts.axes else example
        checker.error("PKC111", message, of.span, "needs output or losses itself", note)
    elif resolve(by, lets) != Name("mask") and edge_of(by, lets) != "theta":
        checker.error("PKC112", f"squares() by '{print_expr(by)}'", by.span, "must be theta or mask", example)
    return Facts(PARAM, theta=True, data=True, second=True, varies=True, deep=True)


Parts = tuple[Typed, Typed, Typed]
"""F, u and v of sum over j of d^2 F / (d u_i d u_j) * v_j."""


def as_product(call: Typed) -> Parts | None:
    """The parts of ``grad(dot(grad(F, u), v), u)`` for a v that grad takes as a constant; None of any other."""
    inner, by = call.args[0].value, call.args[1]
    if not inner.calls("dot"):
        return None
    for first, vector in (inner.args, inner.args[::-1]):
        grad = first.value
        if grad.calls("grad") and grad.args[1].value is by.value and not vector.moves and not grad.args[0].derived:
            return grad.args[0], by, vector
    return None


def product_text(writer: Writer, parts: Parts, index: str) -> str:
    """The sum in the usual letters."""
    of, by, vector = parts
    below = f"d {writer.text(by, index)} d {writer.text(by, '_j')}"
    return f"sum over j of d^2 {_bracketed(writer.text(of, ''))} / ({below}) * {_bracketed(writer.text(vector, '_j'))}"


def _hvp_text(writer: Writer, call: Typed, index: str) -> str:
    first, held = call.args[0].args[0].args
    of, by, vector = *first.args, held.args[0]
    return product_text(writer, (of, by, vector), index) if index else f"hvp({writer.text(of, '')}, {writer.text(vector, '')})"


def _bracketed(text: str) -> str:
    return f"({text})" if " " in text else text


def _squares_text(writer: Writer, call: Typed, index: str) -> str | None:
    of, by = call.args
    return f"sum over samples n of (d losses_n / d {writer.text(by, index)})^2" if of.expr == Name("losses") and index else None


def _squares_product(writer: Writer, call: Typed) -> Product | None:
    of, by = call.args
    if not of.stands_for("output"):
        return None
    mass = Mass("sum over samples n and outputs k of (d output_k(x_n) / d theta_i)^2", True)
    return Product(power=2.0 if by.stands_for("mask") else 0.0, mass=mass)


FUNCTIONS = (
    Function(
        name="squares",
        doc="the sum over samples and outputs of the squared derivative by u",
        example="squares(output, theta)",
        facts=_squares,
        count=2,
        moves=True,
        derives=True,
        text=_squares_text,
        product=_squares_product,
    ),
    Function(
        name="hvp",
        doc="the second derivative of the number F by theta, times v: H v",
        example="hvp(loss, grad(loss, theta))",
        facts=_hvp,
        count=2,
        moves=True,
        derives=True,
        reads_all=always,
        written_out=as_grad,
        text=_hvp_text,
        inlined=True,
    ),
)
