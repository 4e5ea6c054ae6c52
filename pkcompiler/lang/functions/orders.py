"""``walks(E)`` and ``balance(E)``: both order the weights, by an E that is [param] or a number. See docs/language.md, "Passes"."""

from __future__ import annotations

from pkcompiler.lang.ast import Call, Number, Typed
from pkcompiler.lang.check.facts import NUMBER, PARAM, Facts, show_axes
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value, Writer, always
from pkcompiler.lang.syntax.format import print_expr

LAYERED = "balance() orders the weights of each parameter: orders of different ones cannot be compared"

_KEEP = Argument(
    "keep",
    "word",
    "what a hop along a convolution visits",
    "weights",
    (
        Value("weights", "one weight, which its probability is proportional to"),
        Value("kernels", "the whole kernel between two channels"),
    ),
)
_NODES = Argument("nodes", "number", "what all units of a layer count, of 1; its paths count the rest", "0.01")
_KERNELS = Argument("kernels", "number", "what it counts when every weight is alone in its kernel", "1")


def _order(checker: Checker, call: Call, said: str, example: str) -> Facts:
    """[param], a constant for grad. ``said``: how E stands in it; ``example``: a right one."""
    inner = checker.operand(call.args[0])
    if inner.axes is not None and inner.axes not in (PARAM, NUMBER):
        message = f"{call.function}() {said}, which is {show_axes(inner.axes)}"
        checker.error("PKC111", message, call.args[0].span, "must be [param], or a number", f"write {example}")
    return Facts(PARAM, data=inner.data, model=inner.model, varies=True)


def _walks(checker: Checker, call: Call) -> Facts:
    facts = _order(checker, call, f"along {print_expr(call.args[0])}", "walks(abs(theta))")
    for _, value in call.kwargs:
        _KEEP.chosen(checker, value)
    return facts


def _balance(checker: Checker, call: Call) -> Facts:
    facts = _order(checker, call, f"with {print_expr(call.args[0])} between equals", "balance(uniform())")
    for key, value in call.kwargs:
        most, label = (1.0, "a number from 0 to 1") if key == _NODES.name else (None, "a number of at least 0")
        if isinstance(value, Number) and not value.unit and (most is None or value.value <= most):
            continue
        note = f"write {key} = {(_NODES if key == _NODES.name else _KERNELS).default}"
        checker.error("PKC106", f"{key} = {print_expr(value)}", value.span, f"must be {label}", note)
    return facts


def _walk_lines(writer: Writer, call: Typed) -> list[str]:
    whole = call.words["keep"] == "kernels"
    hop = "a hop along a convolution visits the whole kernel" if whole else "a hop visits one weight"
    return [
        "visit_i = how many weights the walks visited before weight i: so the k largest scores are exactly the first k visited,",
        "at any k; walks go on until as many are visited as a round keeps, the last ones only between units already on a path",
        "walks: from an input to an output and from an output to an input in turn, unit after unit;",
        f"the probability of a hop is proportional to {writer.text(call.args[0])} * mask_i among the weights that lead on; {hop}",
    ]


def _balance_lines(writer: Writer, call: Typed) -> list[str]:
    nodes, kernels = (float(call.words[key]) for key in ("nodes", "kernels"))
    opened = f" + {kernels:g} * kernels / k" if kernels else ""
    return [
        "taken_i = how many weights of its parameter are taken before weight i: always the one that adds most to",
        f"{nodes:g} * units / all units + {1 - nodes:g} * paths / most paths{opened}",
        "parameter after parameter in the order of the graph, each at the weights that are kept of those before it;",
        "units = inputs and outputs with a weight taken; paths = those from the model's inputs across the weights taken, all taps",
        "of a kernel alike; most paths = the most that k weights can have, k = how many of the parameter the round keeps;",
        *(["kernels = those with a weight taken;"] if kernels else []),
        f"between equals the largest {writer.text(call.args[0])} goes first",
    ]


FUNCTIONS = (
    Function(
        name="walks",
        doc="minus the order in which biased random walks visit the weights",
        example="walks(abs(theta))",
        facts=_walks,
        arguments=(_KEEP,),
        reads_all=always,
        score=("-visit_i", _walk_lines),
    ),
    Function(
        name="balance",
        doc="minus the order in which weights of a parameter are taken for the most units and paths",
        example="balance(uniform())",
        facts=_balance,
        arguments=(_NODES, _KERNELS),
        by_layer=LAYERED,
        score=("-taken_i", _balance_lines),
    ),
)
