"""Functions and settings of a pass that draw at random or run the model elsewhere: noise, model, after, repeat, init.

See docs/language.md, "Passes".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, Expr, Name, Number, Setting
from pkcompiler.lang.check.facts import NUMBER, PARAM, Facts, Scope, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.search import walk
from pkcompiler.lang.syntax.format import print_expr

MOST_SAMPLES, MOST_STEPS, MOST_REPEATS = 100_000, 1000, 10_000
"""The largest numbers of samples of ``noise``, of steps of ``after``, and of ``repeat``."""

_INPUT = frozenset({"sample", "input"})
_AFTER = "after(loss, steps = 3, lr = 0.1)"
_ALLOWED = (
    "loss",
    "output",
    "cross_entropy",
    "margin",
    "abs",
    "sqrt",
    "exp",
    "log",
    "sign",
    "dot",
    "sum",
    "mean",
    "norm2",
    "max",
    "quantile",
)
"""Names and functions that the number of ``after`` may be made of."""
_OVER = ("sample", "output")


class Checker(Protocol):
    """What this module needs of the checker of expressions."""

    scope: Scope
    findings: Findings

    def facts(self, expr: Expr) -> Facts:
        """The facts of any expression."""

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with."""


def noise_facts(checker: Checker, call: Call) -> Facts:
    """``noise()`` has [sample, input], ``noise(axes = param)`` [param]."""
    given = dict(call.kwargs)
    axes = _word(checker, "axes", given["axes"]) if "axes" in given else "input"
    if axes == "param" and "count" in given:
        message = "noise(axes = param) has one number per parameter entry, and no samples"
        checker.findings.error("PKC110", message, given["count"].span, "samples of what?", "write noise(axes = param)")
    elif "count" in given:
        _count(checker, call, "count", given["count"], MOST_SAMPLES, "write noise(count = 100)")
    return Facts(PARAM, varies=True) if axes == "param" else Facts(_INPUT if axes else None)


def model_facts(checker: Checker, call: Call) -> Facts:
    """``model(INPUT, theta = E, statistics = INPUT)``: [sample, output], or [output] where the input has no samples."""
    entries = checker.operand(call.args[0])
    if entries.axes is not None and "input" not in entries.axes:
        message = f"model() of {print_expr(call.args[0])}, which is {show_axes(entries.axes)}"
        checker.findings.error(
            "PKC111", message, call.args[0].span, "needs the axes of the input", "write model(noise()) or model(data)"
        )
        entries = replace(entries, axes=None)
    given = dict(call.kwargs)
    many = checker.operand(given["statistics"]) if "statistics" in given else Facts(_INPUT)
    if many.axes is not None and many.axes != _INPUT:
        message = f"statistics = {print_expr(given['statistics'])} is {show_axes(many.axes)}"
        note = "write statistics = noise(count = 100) or statistics = data"
        checker.findings.error("PKC111", message, given["statistics"].span, "must be samples of the input: [sample, input]", note)
    entries = replace(entries, data=entries.data or many.data, axes=entries.axes if many.axes == _INPUT else None)
    weights = checker.operand(given["theta"]) if "theta" in given else Facts(PARAM)
    if weights.axes is not None and weights.axes != PARAM:
        message = f"theta = {print_expr(given['theta'])} is {show_axes(weights.axes)}"
        note = "write theta = theta + 0.01 * noise(axes = param)"
        checker.findings.error("PKC111", message, given["theta"].span, "must be weights: [param]", note)
        weights = replace(weights, axes=None)
    axes = None
    if entries.axes is not None and weights.axes is not None:
        axes = frozenset({"output"}) | (entries.axes & {"sample"})
    return replace(entries.join(weights, axes), theta=True, model=True, varies=False)


def after_facts(checker: Checker, call: Call) -> Facts:
    """``after(F, steps = k, lr = r)``: a number."""
    inner, given = checker.operand(call.args[0]), dict(call.kwargs)
    result = Facts(NUMBER, theta=True, data=True, model=True)
    if inner.axes is None:
        return result
    wrong = next((e for e in walk(call.args[0], checker.scope.lets) if not _evaluated_anew(e)), None)
    if inner.axes or wrong is not None or not (inner.theta or inner.data):
        shown = print_expr(call.args[0]) if wrong is None else _shown(wrong)
        reason = (
            f"is {show_axes(inner.axes)}, not a number"
            if wrong is None and inner.axes
            else "must be loss, or made of loss and output"
        )
        checker.findings.error("PKC567", f"after() of {shown}", call.args[0].span, reason, f"write {_AFTER}")
    for key in ("steps", "lr"):
        if key not in given:
            checker.findings.error("PKC110", f"after() without {key}", call.span, f"{key} = ... is missing", f"write {_AFTER}")
    if "steps" in given:
        _count(checker, call, "steps", given["steps"], MOST_STEPS, f"write {_AFTER}")
    for key, most in (("lr", None), ("momentum", 1.0)):
        if key in given:
            _rate(checker, key, given[key], most)
    if "batches" in given:
        _word(checker, "batches", given["batches"])
    return result


def _evaluated_anew(expr: Expr) -> bool:
    """Whether a part of F has another value at other weights, and is known there."""
    match expr:
        case Name(name):
            return name in _ALLOWED or name in _OVER
        case Call(function):
            return function in _ALLOWED
    return True


def _shown(expr: Expr) -> str:
    return f"{expr.function}(...)" if isinstance(expr, Call) else print_expr(expr)


# settings ---------------------------------------------------------------------------------------------------------------


def read_init(findings: Findings, item: Setting) -> Expr | None:
    """``fresh``, ``he()`` or ``normal(std = 0.02)``; anything else is reported."""
    note = "write init = fresh, init = he() or init = normal(std = 0.02)"
    value = item.values[0]
    match value:
        case Name("fresh") | Call("he", (), ()) if len(item.values) == 1:
            return value
        case Call("normal", (), (("std", Number(std, "")),)) if len(item.values) == 1 and 0 < std < 1e6:
            return value
    known = [w.name for w in words.rows("value", "init")]
    named = value.value if isinstance(value, Name) else value.function if isinstance(value, Call) else ""
    close = words.suggest(named, known) if named and named not in known else ""
    hint = f"did you mean '{close}'?" if close else note
    shown = ", ".join(print_expr(v) for v in item.values)
    findings.error("PKC105", f"init = {shown}", value.span, "must be fresh, he() or normal(std = ...)", hint)
    return None


def warn_of_repeat(findings: Findings, item: Setting, parts: list[Expr], drawn_elsewhere: bool) -> None:
    """``repeat`` where nothing differs from one repetition to the next (``PKC566``). ``parts``: all expressions of the pass."""
    drawn = any(isinstance(e, Call) and e.function == "noise" for part in parts for e in walk(part, {}))
    if drawn or drawn_elsewhere:
        return
    message = "every repetition gives the same score: there is no noise(), no init, and mode = eval"
    findings.warning("PKC566", message, item.name.span, "repeats the same work", "delete repeat, or add init = fresh")


# values -----------------------------------------------------------------------------------------------------------------


def _word(checker: Checker, key: str, expr: Expr) -> str:
    """One of the words of an argument; '' after an error."""
    known = [w.name for w in words.rows("value", key)]
    if isinstance(expr, Name) and expr.value in known:
        return expr.value
    close = words.suggest(print_expr(expr), known)
    note = f"did you mean '{close}'?" if close else f"write {key} = {known[0]}"
    checker.findings.error("PKC105", f"{key} = {print_expr(expr)}", expr.span, f"must be {' | '.join(known)}", note)
    return ""


def _count(checker: Checker, call: Call, key: str, expr: Expr, most: int, note: str) -> None:
    if isinstance(expr, Number) and expr.unit == "" and expr.value == int(expr.value) and 1 <= expr.value <= most:
        return
    label = f"must be a whole number from 1 to {most}"
    checker.findings.error("PKC106", f"{call.function}() with {key} = {print_expr(expr)}", expr.span, label, note)


def _rate(checker: Checker, key: str, expr: Expr, below: float | None) -> None:
    """A plain number from 0 (``below``: and less than that)."""
    if isinstance(expr, Number) and expr.unit == "" and (below is None or expr.value < below):
        return
    label = "must be a plain number" if below is None else f"must be a number from 0 and below {below:g}"
    note = f"write {_AFTER}" if key == "lr" else f"write {key} = 0.9"
    checker.findings.error("PKC106", f"after() with {key} = {print_expr(expr)}", expr.span, label, note)
