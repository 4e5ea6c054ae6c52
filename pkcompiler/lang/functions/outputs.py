"""Functions of the model's logits and the data's classes."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Call
from pkcompiler.lang.check.facts import NUMBER, Facts, show_axes
from pkcompiler.lang.functions.record import Checker, Function

_LOGITS = frozenset({"sample", "output"})


def _of_logits(checker: Checker, call: Call) -> tuple[Facts, bool]:
    """The facts of the argument, and whether it has the axes of logits where these are known."""
    inner = checker.operand(call.args[0])
    if inner.axes is None or inner.axes == _LOGITS:
        return inner, True
    message = f"{call.function}() of {show_axes(inner.axes)}"
    checker.error("PKC111", message, call.args[0].span, "needs [sample, output]", f"write {call.function}(output)")
    return inner, False


def _cross_entropy(checker: Checker, call: Call) -> Facts:
    return replace(_of_logits(checker, call)[0], axes=NUMBER, data=True)


def _margin(checker: Checker, call: Call) -> Facts:
    inner, fits = _of_logits(checker, call)
    return replace(inner, axes=inner.axes and frozenset({"sample"}), data=True) if fits else replace(inner, axes=None)


FUNCTIONS = (
    Function(
        name="cross_entropy",
        doc="the mean cross-entropy of these logits to the data's classes",
        example="cross_entropy(output / 200)",
        facts=_cross_entropy,
        anew=True,
    ),
    Function(
        name="margin",
        doc="the true class's logit minus the largest other one, of every sample",
        example="margin(output)",
        facts=_margin,
        anew=True,
    ),
)
