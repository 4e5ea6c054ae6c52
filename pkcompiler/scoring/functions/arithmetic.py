"""Functions of every entry by itself, inner products, and reductions over an axis."""

from __future__ import annotations

from collections.abc import Callable

from pkcompiler.lang.ast import Call, Name
from pkcompiler.lang.functions.arithmetic import quantile_part
from pkcompiler.scoring import terms
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import Term


def _entrywise(function: Callable[[Term], Term]) -> Binding:
    return lambda evaluation, call: function(evaluation.evaluate(call.args[0]))


def _reduced(evaluation: Evaluation, call: Call) -> Term:
    return terms.reduce(call.function, evaluation.evaluate(call.args[0]), _axis(call), call.span)


def _quantile(evaluation: Evaluation, call: Call) -> Term:
    part = quantile_part(call)
    assert part is not None
    return terms.quantile(evaluation.evaluate(call.args[0]), part, _axis(call))


def _axis(call: Call) -> str:
    over = dict(call.kwargs).get("over", Name("sample"))
    assert isinstance(over, Name)
    return over.value


VALUES: dict[str, Binding] = {
    "abs": _entrywise(terms.absolute),
    "sqrt": _entrywise(terms.square_root),
    "exp": _entrywise(terms.exponential),
    "log": _entrywise(terms.logarithm),
    "sign": _entrywise(terms.sign),
    "detach": lambda evaluation, call: evaluation.detached(call.args[0]),
    "dot": lambda evaluation, call: terms.dot(*(evaluation.evaluate(arg) for arg in call.args)),
    **dict.fromkeys(terms.REDUCERS, _reduced),
    "quantile": _quantile,
}
