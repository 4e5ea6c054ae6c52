"""Loss curves of linearised training, and what is predicted without data. See docs/language.md, "Analyses"."""

from __future__ import annotations

from pkcompiler.lang.ast import Call
from pkcompiler.lang.check.facts import NUMBER, Facts, show_axes
from pkcompiler.lang.functions.after import RATE, STEPS
from pkcompiler.lang.functions.kernels import MOST, check_count, operator_facts
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value
from pkcompiler.lang.syntax.format import print_expr

_TIME = Argument(
    "time",
    "word",
    "discrete steps, or gradient flow read at their times",
    "discrete",
    (Value("discrete", "gradient descent, step by step"), Value("flow", "gradient flow at the times lr * step")),
)
_DYNAMICS, _EXPECTED = "dynamics(T, lr = 0.1, steps = 50)", "expected_dynamics(lr = 0.1, steps = 50)"


def _dynamics(checker: Checker, call: Call) -> Facts:
    return _curve(checker, call, operator_facts(checker, call, 0, _DYNAMICS), "dynamics(T, lr = stable_step(T) / 2, steps = 50)")


def _expected_dynamics(checker: Checker, call: Call) -> Facts:
    return _curve(checker, call, Facts(NUMBER, model=True), _EXPECTED)


def _curve(checker: Checker, call: Call, facts: Facts, example: str) -> Facts:
    """[step], for ``lr`` a number and ``steps`` a count. ``facts``: of what the curve follows from."""
    given = dict(call.kwargs)
    for key in ("lr", "steps"):
        if key not in given:
            message, label = f"{call.function}() without {key}", f"{key} = ... is missing"
            checker.error("PKC110", message, call.span, label, f"write {example}")
    rate = checker.operand(given["lr"]) if "lr" in given else Facts(NUMBER)
    if rate.axes:
        message = f"lr = {print_expr(given['lr'])} is {show_axes(rate.axes)}"
        checker.error("PKC111", message, given["lr"].span, "must be a number", "write lr = stable_step(T) / 2")
    if "steps" in given:
        check_count(checker, call, given["steps"], f"must be a whole number from 1 to {MOST}", "write steps = 50")
    if "time" in given:
        _TIME.chosen(checker, given["time"])
    whole = facts.axes is not None and rate.axes is not None
    return facts.join(rate, frozenset({"step"}) if whole else None)


FUNCTIONS = (
    Function(
        name="dynamics",
        doc="the squared loss after each step of linearised training",
        example=_DYNAMICS,
        facts=_dynamics,
        arguments=(RATE, STEPS, _TIME),
        analysis=True,
    ),
    Function(
        name="expected_dynamics",
        doc="the part of the squared loss that is left after each step, at least, from the predicted trace alone",
        example=_EXPECTED,
        facts=_expected_dynamics,
        count=0,
        arguments=(RATE, STEPS),
        analysis=True,
    ),
    Function(
        name="predicted_trace",
        doc="the expected trace of ntk() per sample over initialisations, without data",
        example="predicted_trace()",
        facts=lambda checker, call: Facts(NUMBER, model=True),
        count=0,
        analysis=True,
    ),
)
