"""Functions of the model's logits and the data's classes."""

from __future__ import annotations

from pkcompiler.scoring.functions.evaluation import Binding

VALUES: dict[str, Binding] = {
    "cross_entropy": lambda evaluation, node: evaluation.work.cross_entropy(evaluation.evaluate(node.args[0])),
    "margin": lambda evaluation, node: evaluation.work.margin(evaluation.evaluate(node.args[0])),
}
