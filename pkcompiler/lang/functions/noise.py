"""``noise()`` and ``model(...)``: what is drawn at random, and the model run elsewhere. See docs/language.md, "Passes"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pkcompiler.lang.ast import Call, Typed
from pkcompiler.lang.check.facts import PARAM, Facts, show_axes
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value, is_count
from pkcompiler.lang.syntax.format import print_expr

MOST_SAMPLES = 100_000
"""The largest number of samples of ``noise``."""

_INPUT = frozenset({"sample", "input"})
_AXES = Argument(
    "axes",
    "word",
    "what gets a number each",
    "input",
    (Value("input", "every entry of every sample of the input"), Value("param", "every entry of every parameter")),
)
_COUNT = Argument("count", "count", "how many samples are drawn; without it, as many as the example input has")
_THETA = Argument("theta", "weights", "the weights at which the model is run, times the mask", "theta")
_STATISTICS = Argument(
    "statistics", "samples", "of every BatchNorm: those of this input at theta * mask; without it, the model's own"
)


def _noise(checker: Checker, call: Call) -> Facts:
    """``noise()`` has [sample, input], ``noise(axes = param)`` [param]."""
    given = dict(call.kwargs)
    axes = _AXES.chosen(checker, given["axes"]) if "axes" in given else "input"
    count = given.get("count")
    if axes == "param" and count is not None:
        message = "noise(axes = param) has one number per parameter entry, and no samples"
        checker.error("PKC110", message, count.span, "samples of what?", "write noise(axes = param)")
    elif count is not None and not is_count(count, MOST_SAMPLES):
        label = f"must be a whole number from 1 to {MOST_SAMPLES}"
        checker.error("PKC106", f"noise() with count = {print_expr(count)}", count.span, label, "write noise(count = 100)")
    return Facts(PARAM, varies=True) if axes == "param" else Facts(_INPUT if axes else None)


def _model(checker: Checker, call: Call) -> Facts:
    """``model(INPUT, theta = E, statistics = INPUT)``: [sample, output], or [output] where the input has no samples."""
    entries = checker.operand(call.args[0])
    if entries.axes is not None and "input" not in entries.axes:
        message = f"model() of {print_expr(call.args[0])}, which is {show_axes(entries.axes)}"
        note = "write model(noise()) or model(data)"
        checker.error("PKC111", message, call.args[0].span, "needs the axes of the input", note)
        entries = replace(entries, axes=None)
    given = dict(call.kwargs)
    many = checker.operand(given["statistics"]) if "statistics" in given else Facts(_INPUT)
    if many.axes is not None and many.axes != _INPUT:
        message = f"statistics = {print_expr(given['statistics'])} is {show_axes(many.axes)}"
        note = "write statistics = noise(count = 100) or statistics = data"
        checker.error("PKC111", message, given["statistics"].span, "must be samples of the input: [sample, input]", note)
    entries = replace(entries, data=entries.data or many.data, axes=entries.axes if many.axes == _INPUT else None)
    weights = checker.operand(given["theta"]) if "theta" in given else Facts(PARAM)
    if weights.axes is not None and weights.axes != PARAM:
        message = f"theta = {print_expr(given['theta'])} is {show_axes(weights.axes)}"
        note = "write theta = theta + 0.01 * noise(axes = param)"
        checker.error("PKC111", message, given["theta"].span, "must be weights: [param]", note)
        weights = replace(weights, axes=None)
    axes = None
    if entries.axes is not None and weights.axes is not None:
        axes = frozenset({"output"}) | (entries.axes & {"sample"})
    return replace(entries.join(weights, axes), theta=True, model=True, varies=False)


def _model_lines(calls: Sequence[Typed]) -> list[str]:
    given = [call.named for call in calls]
    lines = {
        "model(x) = the output at the input x and the weights theta * mask": any("theta" not in g for g in given),
        "model(x, theta = E) = the output at the input x and the weights at E * mask": any("theta" in g for g in given),
        "statistics = Z: every BatchNorm has the means and variances that Z gives it at theta * mask, as constants": any(
            "statistics" in g for g in given
        ),
    }
    return [line for line, said in lines.items() if said]


FUNCTIONS = (
    Function(
        name="noise",
        doc="fresh Gaussian numbers: one sample after another of inputs, or one for every parameter entry",
        example="noise()",
        facts=_noise,
        count=0,
        arguments=(_AXES, _COUNT),
        drawn=True,
        legend="noise() = independent N(0, 1) numbers, drawn anew in every round and repetition",
    ),
    Function(
        name="model",
        doc="the output of the model at another input, or at other weights times the mask",
        example="model(noise())",
        facts=_model,
        arguments=(_THETA, _STATISTICS),
        moves=True,
        reads_all=lambda node: bool(node.call.kwargs),
        lines=_model_lines,
    ),
)
