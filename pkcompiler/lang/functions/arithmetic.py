"""Functions of every entry by itself, inner products, and reductions over an axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pkcompiler.lang.ast import Call, Name, Number, Typed
from pkcompiler.lang.check.facts import NUMBER, OVER, UNKNOWN, Facts, show_axes
from pkcompiler.lang.functions.closed import absolute
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value, Writer, always, as_argument
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import print_expr

AXIS = Argument(
    "over",
    "axis",
    "the axis that is reduced",
    values=(
        Value("layer", "each parameter tensor on its own"),
        Value("sample", "the samples of the data"),
        Value("output", "the outputs of the model"),
        Value("param", "all entries of all parameters"),
        Value("rank", "the eigenvalues of an operator"),
        Value("step", "the steps of training"),
    ),
    required=True,
)


def _detached(checker: Checker, call: Call) -> Facts:
    facts = checker.operand(call.args[0])
    return Facts(facts.axes, data=facts.data, model=facts.model, varies=facts.varies)


def _dot(checker: Checker, call: Call) -> Facts:
    left, right = (checker.operand(arg) for arg in call.args)
    if left.axes is not None and right.axes is not None and left.axes != right.axes:
        message = f"dot() of {show_axes(left.axes)} and {show_axes(right.axes)}"
        checker.error("PKC111", message, call.span, "the axes differ", "give it two values with the same axes")
    return replace(left.join(right, NUMBER), varies=False)


def _reduction(checker: Checker, call: Call) -> Facts:
    """Without the axis that ``over`` names; ``layer`` spreads its result back. Samples of the input need not be named."""
    inner = checker.operand(call.args[0])
    over = dict(call.kwargs).get("over")
    if inner.axes is None:
        return inner
    if over is None and inner.axes == {"sample", "input"}:
        return replace(inner, axes=inner.axes - {"sample"})
    possible = [axis for axis, needed in OVER.items() if needed in inner.axes]
    if not possible:
        message = f"{call.function}() of {show_axes(inner.axes)}"
        note = f"write {print_expr(call.args[0])} alone" if not inner.axes else "reduce over sample, output, param or layer"
        checker.error("PKC111", message, call.span, "there is no axis to reduce", note)
        return replace(inner, axes=None)
    example = f"write {call.function}(..., over = {possible[0]})"
    if over is None:
        message = f"{call.function}() of {show_axes(inner.axes)} does not name its axis"
        checker.error("PKC110", message, call.span, f"over = {' | '.join(possible)} is missing", example)
        return replace(inner, axes=None)
    if not isinstance(over, Name) or over.value not in possible:
        message = f"{call.function}() of {show_axes(inner.axes)} over {print_expr(over)}"
        close = suggest(print_expr(over), possible)
        checker.error("PKC111", message, over.span, "not an axis of it", f"did you mean '{close}'?" if close else example)
        return replace(inner, axes=None)
    return replace(inner, axes=inner.axes if over.value == "layer" else inner.axes - {over.value}, varies=False)


def quantile_part(call: Call) -> float | None:
    """The part that ``quantile(E, 10%, ...)`` names, from 0 to 1; None where it names none."""
    part = call.args[1]
    if isinstance(part, Number) and part.unit in ("", "%"):
        value = part.value / 100 if part.unit == "%" else float(part.value)
        return value if value <= 1 else None
    return None


def _quantile(checker: Checker, call: Call) -> Facts:
    if quantile_part(call) is not None:
        return _reduction(checker, call)
    label, note = "must be a part from 0% to 100%", "write quantile(E, 10%, over = sample)"
    checker.error("PKC106", f"quantile() at {print_expr(call.args[1])}", call.args[1].span, label, note)
    for arg in call.args:
        checker.facts(arg)
    return UNKNOWN


def _of_argument(writer: Writer, call: Typed) -> bool:
    return writer.not_negative(call.args[0])


def _entrywise(name: str, doc: str, example: str, **said: Any) -> Function:
    return Function(name=name, doc=doc, example=example, facts=as_argument, entrywise=True, anew=True, **said)


def _reduces(name: str, doc: str, example: str, not_negative: Callable[[Writer, Typed], bool]) -> Function:
    return Function(name=name, doc=doc, example=example, facts=_reduction, arguments=(AXIS,), anew=True, not_negative=not_negative)


FUNCTIONS = (
    _entrywise(
        "abs",
        "the absolute value of every entry",
        "abs(theta)",
        text=lambda writer, call, index: f"|{writer.text(call.args[0], index)}|",
        product=lambda writer, call: absolute(writer.product(call.args[0])),
        not_negative=always,
    ),
    _entrywise("sqrt", "the square root of every entry", "sqrt(theta^2)", not_negative=always),
    _entrywise("exp", "the exponential of every entry", "exp(theta)", not_negative=always),
    _entrywise("log", "the natural logarithm of every entry", "log(theta^2)"),
    _entrywise("sign", "the sign of every entry: -1, 0 or 1", "sign(theta)"),
    Function(
        name="detach",
        doc="its argument, taken as a constant by grad",
        example="detach(R)",
        facts=_detached,
        constant=True,
        entrywise=True,
        product=lambda writer, call: writer.product(call.args[0]),
    ),
    Function(
        name="dot",
        doc="the sum of the products of equal entries",
        example="dot(theta, theta)",
        facts=_dot,
        count=2,
        reads_all=always,
        anew=True,
    ),
    _reduces("sum", "the sum over an axis", "sum(R, over = output)", _of_argument),
    _reduces("mean", "the mean over an axis; mean(data) is over the samples", "mean(data)", _of_argument),
    _reduces("norm2", "the square root of the sum of squares over an axis", "norm2(theta, over = layer)", always),
    _reduces("max", "the largest entry over an axis", "max(abs(theta), over = layer)", _of_argument),
    Function(
        name="quantile",
        doc="the entry below which a part of all lies",
        example="quantile(abs(theta), 10%, over = param)",
        facts=_quantile,
        count=2,
        literals=(1,),
        arguments=(AXIS,),
        anew=True,
    ),
)
