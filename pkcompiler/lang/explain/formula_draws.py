"""What the formula of a pass says of what is drawn, of other weights and other inputs, and of steps of training."""

from __future__ import annotations

from pkcompiler.lang.ast import Call, Name, Pass
from pkcompiler.lang.check.search import walk
from pkcompiler.lang.syntax.format import print_expr

_LINES = {
    "noise": "noise() = independent N(0, 1) numbers, drawn anew in every round and repetition",
    "after": "after(F, steps = k, lr = r) = F at w_k, w_0 = theta * mask, w_{j+1} = w_j - lr * mask * d loss_j / d w_j",
}
_INIT = {
    "fresh": "as the model's file initialises it",
    "he": "prunable weights from N(0, 2 / fan-in)",
    "normal": "prunable weights from N(0, std^2)",
}


def as_kept(pass_: Pass, right: str) -> str:
    """The right-hand side with the mean over repetitions, and the absolute value of ``order = magnitude``."""
    if pass_.repeat > 1:
        right = (
            f"mean over {pass_.repeat} draws of {right}"
            if right[:1] == "|" or " + " not in right
            else f"mean over {pass_.repeat} draws of ({right})"
        )
    return f"|{right}|" if pass_.order == "magnitude" else right


def drawn_lines(pass_: Pass) -> list[str]:
    """One line for each function of chance or training that the pass reads, and for its initial weights."""
    parts = (pass_.score, *dict(pass_.lets).values())
    calls = [e for part in parts for e in walk(part, {}) if isinstance(e, Call)]
    lines = [line for name, line in _LINES.items() if any(c.function == name for c in calls)]
    models = [c for c in calls if c.function == "model"]
    if any("theta" not in dict(c.kwargs) for c in models):
        lines.append("model(x) = the output at the input x and the weights theta * mask")
    if any("theta" in dict(c.kwargs) for c in models):
        lines.append("model(x, theta = E) = the output at the input x and the weights at E * mask")
    if any("statistics" in dict(c.kwargs) for c in models):
        lines.append("statistics = Z: every BatchNorm has the means and variances that Z gives it at theta * mask, as constants")
    for call in (c for c in calls if c.function == "after"):
        each = dict(call.kwargs).get("batches", Name("each")) == Name("each")
        lines.append(
            "loss_j = the mean loss over a batch of its own, F over another: sample i is in batch i mod (k + 1)"
            if each
            else "loss_j = loss = the mean loss over all samples"
        )
        if "momentum" in dict(call.kwargs):
            lines.append("with momentum, lr multiplies the running sum of what a plain step subtracts")
    if pass_.init is not None:
        kind = pass_.init.function if isinstance(pass_.init, Call) else print_expr(pass_.init)
        lines.append(f"theta = initial weights drawn anew in every round and repetition, {_INIT[kind]}")
    return list(dict.fromkeys(lines))
