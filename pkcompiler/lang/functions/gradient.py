"""``grad(F, u)``: what its arguments may be, and its closed forms. See docs/language.md, "Passes"."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Call, Expr, Name, Typed
from pkcompiler.lang.check.facts import OVER, PARAM, Facts, edge_of, resolve, show_axes
from pkcompiler.lang.functions.closed import Mass, Product, times
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.paths import path_edge, path_mass
from pkcompiler.lang.functions.record import Checker, Function, Writer
from pkcompiler.lang.functions.second import as_product, product_text, too_deep
from pkcompiler.lang.syntax.format import print_expr


def _facts(checker: Checker, call: Call) -> Facts:
    functional, by = call.args
    of = checker.operand(functional)
    checker.scope.use(by)
    edge = edge_of(by, checker.scope.lets)
    result = _second(of, own_edge=edge not in ("", "theta") and of.edges == {edge} and not of.theta)
    if of.axes is None:
        return result
    shown = print_expr(functional)
    if of.axes:
        axis = next((a for a in OVER if a in of.axes), "sample")
        message = f"grad() of {shown}, which has the axes {show_axes(of.axes)}"
        checker.error("PKC112", message, functional.span, "must be a number", f"write grad(sum({shown}, over = {axis}), ...)")
    elif of.figure:
        message = f"{shown} holds a figure of an operator, which has no derivative here"
        checker.error("PKC112", message, functional.span, "has no derivative", "write detach(...) around the figure")
    elif of.deep:
        too_deep(checker, functional)
    else:
        _check_by(checker, of, shown, by)
    return result


def _second(of: Facts, own_edge: bool) -> Facts:
    """The facts of ``grad(F, u)``, F with the facts ``of``; ``own_edge``: u is the edge of F and not theta."""
    theta = of.theta or not own_edge
    return Facts(PARAM, of.edges, theta, of.data, True, of.model, of.figure, True, deep=of.second)


def _check_by(checker: Checker, of: Facts, shown: str, by: Expr) -> None:
    scope = checker.scope
    resolved, edge = resolve(by, scope.lets), edge_of(by, scope.lets)
    depends = of.theta or bool(of.edges - {"1"})
    if resolved == Name("mask") or edge == "theta":
        if not depends:
            note = (
                f"write grad({shown}, 1) for the number of paths through each weight"
                if of.edges
                else "give grad() a value that reads theta"
            )
            checker.error("PKC112", f"{shown} does not depend on theta", by.span, "its derivative is 0 everywhere", note)
        return
    if edge and of.edges == {edge} and not of.theta:
        return
    if not of.edges:
        known, instead = "theta or mask", "theta"
    elif len(of.edges) > 1 or of.theta:
        known, instead = "theta or mask, for it has no edge of its own alone", "theta"
    else:
        instead = next(iter(of.edges))
        known = f"theta, mask or its edge {instead}"
    unknown_name = isinstance(resolved, Name) and resolved.value not in NAMES and resolved.value not in scope.facts
    if unknown_name and scope.damaged:
        return
    note = f"write grad({shown}, {instead})"
    checker.error("PKC112", f"{shown} cannot be derived by '{print_expr(by)}'", by.span, f"must be {known}", note)


def _product(writer: Writer, call: Typed) -> Product | None:
    inner, by = call.args[0].value, call.args[1]
    masked = by.stands_for("mask")
    if inner.expr == Name("loss"):
        return Product(odd=masked, power=1.0 if masked else 0.0, mass=Mass("d loss / d theta_i"))
    if not inner.calls("paths"):
        return None
    edge, mass = path_edge(inner), path_mass(writer, inner)
    own = {"abs(theta)": Product(power=1), "theta^2": Product(power=2), "theta": Product(odd=True, power=1), "1": Product()}[edge]
    if not masked and by.edge == edge and edge != "theta":
        return replace(own, power=-own.power, mass=mass)
    if edge == "1":
        return None
    by_theta = Product(2.0 if edge == "theta^2" else 1.0, True, -1.0, mass)
    return times(by_theta, Product(odd=True, power=1)) if masked else by_theta


def _text(writer: Writer, call: Typed, index: str) -> str:
    of, by = call.args
    parts = as_product(call)
    if parts is not None and index:
        return product_text(writer, parts, index)
    return f"d {writer.operand(of, '')} / d {writer.operand(by, index)}"


FUNCTIONS = (
    Function(
        name="grad",
        doc="grad(F, u): the derivative of the number F by u",
        example="grad(loss, theta)",
        facts=_facts,
        count=2,
        moves=True,
        derives=True,
        reads_all=lambda node: node.args[0].derived,
        text=_text,
        inlined=True,
        product=_product,
    ),
)
