"""Operators, and what reads them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark, as_number
from pkcompiler.analyses.functions.operators import Operator
from pkcompiler.analyses.values import Distribution
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.lang.ast import Call, Number
from pkcompiler.lang.check.facts import resolve
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.measured import Measured
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.terms import Term
from pkcompiler.tangent.ntk import NTK, ntk

RANK = frozenset({"rank"})


def _gram(figures: Figures, call: Call) -> Operator:
    source, functional = figures.source, resolve(call.args[0], figures.lets)
    assert isinstance(functional, Call)
    chosen = {key: print_expr(value) for key, value in functional.kwargs if key in ("pools", "products", "constants")}
    squared = settings(edge="theta^2", **chosen, dtype=source.dtype)
    return Operator(kernel_of(source.graph, source.tensors, squared, source.masks))


def _ntk(figures: Figures, call: Call) -> Operator:
    source = figures.source
    model, inputs = source.model()
    return Operator(ntk(model, source.data, source.masks, example_inputs=inputs, dtype=source.dtype))


def _frozen(figures: Figures, call: Call) -> Operator:
    whole = figures.operator(call.args[0])
    return whole if whole.beside is not None else Operator(whole.kernel.frozen(), whole.kernel)


def _number(read: Callable[[Operator], Measured]) -> Binding:
    return lambda figures, call: as_number(figures, call, read(figures.operator(call.args[0])))


def _diagonal(figures: Figures, call: Call) -> Term:
    operator = figures.operator(call.args[0])
    figures.mark(call, Mark(operator.status))
    return operator.diagonal()


def _eigenvalues(figures: Figures, call: Call) -> Term:
    operator, count = figures.operator(call.args[0]), call.args[1]
    figures.mark(call, Mark(operator.status))
    assert isinstance(count, Number)
    return Term(RANK, operator.eigenvalues(int(count.value)), operator.exponent)


def _density(figures: Figures, call: Call) -> Distribution:
    return figures.operator(call.args[0]).density(figures.seed)


def _distance(figures: Figures, call: Call) -> Term:
    first, second = (figures.operator(arg).kernel for arg in call.args)
    if isinstance(first, NTK) and second is first.frozen():
        return as_number(figures, call, first.difference())
    norm = torch.linalg.matrix_norm(first.kernel)
    return as_number(figures, call, Measured(float(torch.linalg.matrix_norm(first.kernel - second.kernel) / norm)))


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
