"""``after(F, steps = k, lr = r)``: what its arguments may be. See docs/language.md, "Passes"."""

from __future__ import annotations

from collections.abc import Sequence

from pkcompiler.lang.ast import Call, Expr, Name, Number, Typed
from pkcompiler.lang.check.facts import NUMBER, Facts, show_axes
from pkcompiler.lang.check.search import children, walk
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value, is_count
from pkcompiler.lang.syntax.format import print_expr

MOST_STEPS = 1000

RATE = Argument("lr", "number", "the learning rate", required=True)
STEPS = Argument("steps", "count", "how many steps", required=True)
_MOMENTUM = Argument("momentum", "number", "the momentum of SGD", "0")
_BATCHES = Argument(
    "batches",
    "word",
    "which samples a step reads",
    "each",
    (
        Value("each", "each step takes a batch of its own, F the last: sample i is in batch i mod (steps + 1)"),
        Value("same", "every step, and F, take all samples"),
    ),
)
_EXAMPLE = "after(loss, steps = 3, lr = 0.1)"


def _facts(checker: Checker, call: Call) -> Facts:
    """A number."""
    inner, given = checker.operand(call.args[0]), dict(call.kwargs)
    result = Facts(NUMBER, theta=True, data=True, model=True)
    if inner.axes is None:
        return result
    _check_number(checker, call.args[0], inner)
    for key in ("steps", "lr"):
        if key not in given:
            checker.error("PKC110", f"after() without {key}", call.span, f"{key} = ... is missing", f"write {_EXAMPLE}")
    if "steps" in given and not is_count(given["steps"], MOST_STEPS):
        message, label = f"after() with steps = {print_expr(given['steps'])}", f"must be a whole number from 1 to {MOST_STEPS}"
        checker.error("PKC106", message, given["steps"].span, label, f"write {_EXAMPLE}")
    if "lr" in given and not _is_number(given["lr"]):
        message = f"after() with lr = {print_expr(given['lr'])}"
        checker.error("PKC106", message, given["lr"].span, "must be a plain number", f"write {_EXAMPLE}")
    if "momentum" in given and not _is_number(given["momentum"], below=1.0):
        message, label = f"after() with momentum = {print_expr(given['momentum'])}", "must be a number from 0 and below 1"
        checker.error("PKC106", message, given["momentum"].span, label, "write momentum = 0.9")
    if "batches" in given:
        _BATCHES.chosen(checker, given["batches"])
    return result


def _check_number(checker: Checker, expr: Expr, facts: Facts) -> None:
    """F is a number, made of what has another value at other weights, and is known there."""

    def read(part: Expr) -> tuple[Expr, ...]:
        return part.args if isinstance(part, Call) else children(part)

    def anew(part: Expr) -> bool:
        match part:
            case Name(name):
                return name in NAMES and NAMES[name].anew
            case Call(function):
                return checker.functions[function].anew
        return True

    wrong = next((part for part in walk(expr, checker.scope.lets, read) if not anew(part)), None)
    if wrong is None and not facts.axes and (facts.theta or facts.data):
        return
    shown = f"{wrong.function}(...)" if isinstance(wrong, Call) else print_expr(wrong or expr)
    reason = "must be loss, or made of loss and output"
    if wrong is None and facts.axes:
        reason = f"is {show_axes(facts.axes)}, not a number"
    checker.error("PKC567", f"after() of {shown}", expr.span, reason, f"write {_EXAMPLE}")


def _is_number(expr: Expr, below: float | None = None) -> bool:
    return isinstance(expr, Number) and expr.unit == "" and (below is None or expr.value < below)


def _lines(calls: Sequence[Typed]) -> list[str]:
    lines = []
    for given in (call.words for call in calls):
        lines.append(
            "loss_j = the mean loss over a batch of its own, F over another: sample i is in batch i mod (k + 1)"
            if given["batches"] == "each"
            else "loss_j = loss = the mean loss over all samples"
        )
        if given["momentum"]:
            lines.append("with momentum, lr multiplies the running sum of what a plain step subtracts")
    return lines


FUNCTIONS = (
    Function(
        name="after",
        doc="the number F after a few steps of SGD on the loss",
        example=_EXAMPLE,
        facts=_facts,
        arguments=(RATE, STEPS, _MOMENTUM, _BATCHES),
        moves=True,
        legend="after(F, steps = k, lr = r) = F at w_k, w_0 = theta * mask, w_{j+1} = w_j - lr * mask * d loss_j / d w_j",
        lines=_lines,
    ),
)
