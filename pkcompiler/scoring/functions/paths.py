"""``paths(...)``: path functionals by sweeps."""

from __future__ import annotations

from torch import Tensor

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Typed
from pkcompiler.lang.functions.paths import path_edge
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import Term
from pkcompiler.scoring.workspace import reads_samples

_DATA = Name("data")
_SQUARED = Binary("^", _DATA, Number(2))
_INPUTS: dict[Expr, str] = {
    _DATA: "data",
    _SQUARED: "data^2",
    Call("mean", (_DATA,), ()): "mean(data)",
    Call("mean", (_SQUARED,), ()): "mean(data^2)",
}


def _paths(evaluation: Evaluation, node: Typed) -> Term:
    work = evaluation.work
    words = {key: str(node.words[key]) for key in ("gates", "pools", "norms", "products", "constants")}
    chosen = settings(edge=path_edge(node), **words, dtype=work.dtype)
    input = node.named.get("input")
    source = _input(evaluation, input)
    ends = _ends(evaluation, node)
    if evaluation.constant and reads_samples(chosen, source):
        return work.constant(chosen, source, ends)
    term = evaluation.on_leaf(work.functional(chosen, source, ends))
    return _of_one_sample(term) if _is_sample(evaluation, input, source) else term


def _input(evaluation: Evaluation, input: Typed | None) -> str | Tensor:
    """One of the words that also serve integer inputs, or the weights themselves."""
    if input is None:
        return "ones"
    if input.value.expr in _INPUTS:
        return _INPUTS[input.value.expr]
    term = evaluation.evaluate(input).plain()
    return term.tensor if "sample" in term.axes else term.tensor.unsqueeze(0)


def _ends(evaluation: Evaluation, node: Typed) -> str | Term:
    if "output" in node.named:
        return evaluation.evaluate(node.named["output"])
    word = str(node.words["output"])
    return evaluation.work.loss_gradient() if word == "loss_gradient" else word


def _is_sample(evaluation: Evaluation, input: Typed | None, source: str | Tensor) -> bool:
    """Whether the weights of the input belong to one sample, not to all of them."""
    return isinstance(source, Tensor) and len(source) == 1 and input is not None and "sample" in evaluation.evaluate(input).axes


def _of_one_sample(term: Term) -> Term:
    """A path functional whose input is one sample [1, ...], with the axis of the samples."""
    return term if "sample" in term.axes else Term(term.axes | {"sample"}, term.tensor.unsqueeze(0), term.exponent)


VALUES: dict[str, Binding] = {"paths": _paths}
