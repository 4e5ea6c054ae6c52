"""Functions of the model's logits and the data's classes."""

from __future__ import annotations

from pkcompiler.scoring.functions.evaluation import Binding

VALUES: dict[str, Binding] = {
    "cross_entropy": lambda evaluation, call: evaluation.work.cross_entropy(evaluation.evaluate(call.args[0])),
    "margin": lambda evaluation, call: evaluation.work.margin(evaluation.evaluate(call.args[0])),
}
