"""Operators, and what reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark, as_number
from pkcompiler.analyses.functions.operators import Operator
from pkcompiler.analyses.values import Distribution
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.lang.ast import Number, Typed
from pkcompiler.measured import Measured
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.terms import Term
from pkcompiler.tangent.ntk import NTK, ntk

RANK = frozenset({"rank"})


def _gram(figures: Figures, node: Typed) -> Operator:
    source, words = figures.source, node.args[0].value.words
    chosen = {key: str(word) for key, word in words.items() if key in ("pools", "products", "constants")}
    squared = settings(edge="theta^2", **chosen, dtype=source.dtype)
    return Operator(kernel_of(source.graph, source.tensors, squared, source.masks))


def _ntk(figures: Figures, node: Typed) -> Operator:
    source = figures.source
    model, inputs = source.model()
    return Operator(ntk(model, source.data, source.masks, example_inputs=inputs, dtype=source.dtype))


def _frozen(figures: Figures, node: Typed) -> Operator:
    whole = figures.operator(node.args[0])
    return whole if whole.beside is not None else Operator(whole.kernel.frozen(), whole.kernel)


def _number(read: Callable[[Operator], Measured]) -> Binding:
    return lambda figures, node: as_number(figures, node, read(figures.operator(node.args[0])))


def _diagonal(figures: Figures, node: Typed) -> Term:
    operator = figures.operator(node.args[0])
    figures.mark(node, Mark(operator.status))
    return operator.diagonal()


def _eigenvalues(figures: Figures, node: Typed) -> Term:
    operator, count = figures.operator(node.args[0]), node.call.args[1]
    figures.mark(node, Mark(operator.status))
    assert isinstance(count, Number)
    return Term(RANK, operator.eigenvalues(int(count.value)), operator.exponent)


def _density(figures: Figures, node: Typed) -> Distribution:
    return figures.operator(node.args[0]).density(figures.seed)


def _distance(figures: Figures, node: Typed) -> Term:
    first, second = (figures.operator(arg).kernel for arg in node.args)
    if isinstance(first, NTK) and second is first.frozen():
        return as_number(figures, node, first.difference())
    norm = torch.linalg.matrix_norm(first.kernel)
    return as_number(figures, node, Measured(float(torch.linalg.matrix_norm(first.kernel - second.kernel) / norm)))


VALUES: dict[str, Binding] = {
    "gram": _gram,
    "ntk": _ntk,
    "frozen": _frozen,
    "trace": _number(Operator.trace),
    "diagonal": _diagonal,
    "eigenvalues": _eigenvalues,
    "frobenius": _number(Operator.frobenius),
    "density": _density,
    "effective_rank": _number(Operator.effective_rank),
    "stable_rank": _number(Operator.stable_rank),
    "condition": _number(lambda operator: operator.kernel.condition_number()),
    "alignment": _number(lambda operator: operator.kernel.alignment()),
    "stable_step": _number(lambda operator: operator.kernel.largest_stable_step()),
    "bound": _number(lambda operator: (operator.beside or operator.kernel).bound()),
    "distance": _distance,
}
