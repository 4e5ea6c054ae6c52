"""Functions of every entry by itself, inner products, and reductions over an axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pkcompiler.lang.ast import Typed
from pkcompiler.lang.functions.arithmetic import quantile_part
from pkcompiler.scoring import terms
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import Term

REDUCERS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "norm2": lambda t, *dims: t.square().sum(*dims).sqrt(),
}
"""Of a tensor, or along some of its dimensions: one function for every axis."""


def _entrywise(function: Callable[[Term], Term]) -> Binding:
    return lambda evaluation, node: function(evaluation.evaluate(node.args[0]))


def _reduces(function: Callable[..., Tensor]) -> Binding:
    return lambda evaluation, node: terms.reduce(function, evaluation.evaluate(node.args[0]), _axis(node), node.call.span)


def _quantile(evaluation: Evaluation, node: Typed) -> Term:
    part = quantile_part(node.call)
    assert part is not None
    return terms.quantile(evaluation.evaluate(node.args[0]), part, _axis(node))


def _axis(node: Typed) -> str:
    return str(node.words.get("over", "sample"))


VALUES: dict[str, Binding] = {
    "abs": _entrywise(abs),
    "sqrt": _entrywise(terms.sqrt),
    "exp": _entrywise(terms.exp),
    "log": _entrywise(terms.log),
    "sign": _entrywise(terms.sign),
    "detach": lambda evaluation, node: evaluation.detached(node.args[0]),
    "dot": lambda evaluation, node: terms.dot(*(evaluation.evaluate(arg) for arg in node.args)),
    **{name: _reduces(function) for name, function in REDUCERS.items()},
    "quantile": _quantile,
}
