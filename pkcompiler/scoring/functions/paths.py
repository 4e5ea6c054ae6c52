"""``paths(...)``: path functionals by sweeps."""

from __future__ import annotations

from torch import Tensor

from pkcompiler.lang.ast import Call, Expr, Name
from pkcompiler.lang.check.facts import resolve
from pkcompiler.lang.functions.paths import DEFAULTS, LOSS_GRADIENT, edge_given
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import Term
from pkcompiler.scoring.workspace import reads_samples


def _paths(evaluation: Evaluation, call: Call) -> Term:
    given, work = dict(call.kwargs), evaluation.work
    words = {k: print_expr(given[k]).replace(" ", "") if k in given else v for k, v in DEFAULTS.items()}
    chosen = settings(
        edge=edge_given(given, evaluation.lets),
        gates=words["gates"],
        pools=words["pools"],
        norms=words["norms"],
        products=words["products"],
        constants=words["constants"],
        dtype=work.dtype,
    )
    source = _input(evaluation, given.get("input"))
    ends = _ends(evaluation, given.get("output", Name("ones")))
    if evaluation.constant and reads_samples(chosen, source):
        return work.constant(chosen, source, ends)
    term = evaluation.on_leaf(work.functional(chosen, source, ends))
    return _of_one_sample(term) if _is_sample(evaluation, given.get("input"), source) else term


def _input(evaluation: Evaluation, expr: Expr | None) -> str | Tensor:
    """One of the words that also serve integer inputs, or the weights themselves."""
    if expr is None or expr == Name("ones"):
        return "ones"
    words = print_expr(resolve(expr, evaluation.lets)).replace(" ", "")
    if words in ("ones", "data", "data^2", "mean(data)", "mean(data^2)"):
        return words
    term = evaluation.evaluate(expr).plain()
    return term.tensor if "sample" in term.axes else term.tensor.unsqueeze(0)


def _ends(evaluation: Evaluation, weights: Expr) -> str | Term:
    if isinstance(weights, Name) and weights.value in ("ones", "each"):
        return weights.value
    return evaluation.work.loss_gradient() if weights == LOSS_GRADIENT else evaluation.evaluate(weights)


def _is_sample(evaluation: Evaluation, input: Expr | None, source: str | Tensor) -> bool:
    """Whether the weights of the input belong to one sample, not to all of them."""
    return isinstance(source, Tensor) and len(source) == 1 and input is not None and "sample" in evaluation.evaluate(input).axes


def _of_one_sample(term: Term) -> Term:
    """A path functional whose input is one sample [1, ...], with the axis of the samples."""
    return term if "sample" in term.axes else Term(term.axes | {"sample"}, term.tensor.unsqueeze(0), term.exponent)


VALUES: dict[str, Binding] = {"paths": _paths}
