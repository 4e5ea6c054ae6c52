"""The squared derivative of every output at every sample, summed: the terms of Tr Theta (docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.total_loss import alone
from pkcompiler.scoring.workspace import Workspace
from pkcompiler.tangent.function import TangentMap, Theta, computing
from pkcompiler.tangent.jacobian import Jacobian

MEMORY = 256_000_000
"""Bytes that rows of the Jacobian are cut to; at least one row, and a sample's own activations, are held whatever it says."""


def squares(work: Workspace, of_losses: bool = False, *, by_mask: bool = False) -> dict[str, Tensor]:
    """sum over samples n and outputs k of (d f_k(x_n) / d theta_i)^2, by the effective weight, for every wanted parameter.

    ``of_losses``: of the loss of every sample alone instead of the outputs. ``by_mask``: by the mask instead, which is theta_i^2
    times that.

    Exact, by a backward pass for every sample and output (many at once where the model can be vectorised). Raises ``PKC545`` in
    training mode, where an output depends on other samples, and ``PKC526`` where the model cannot be differentiated.
    """
    if work.training:
        raise fail("PKC545", "squares(...) reads each sample's outputs alone, and the pass runs the model in training mode")
    effective = work.effective()
    theta = {n: t.detach() for n, t in effective.items() if n in work.wanted}
    others = {n: t.detach() for n, t in effective.items() if n not in work.wanted}
    function = _loss_function(work, others) if of_losses else _function(work, others)
    total = {n: torch.zeros_like(t) for n, t in theta.items()}
    for samples, target in work.batches():
        _add(_map(function, theta, [*samples, target] if of_losses else samples), total)
    return {n: t * work.theta[n].square() for n, t in total.items()} if by_mask else total


def _add(map: TangentMap, total: Mapping[str, Tensor]) -> None:
    jacobian = Jacobian(map, MEMORY)
    for block in jacobian.blocks(MEMORY):
        for name, part in map.named(jacobian.rows(block).square_().sum(0)).items():
            total[name].add_(part)


def _function(work: Workspace, others: Mapping[str, Tensor]) -> Any:
    def function(theta: Theta, sample: Sequence[Any]) -> Tensor:
        return work.call({**others, **theta}, sample)

    return function


def _loss_function(work: Workspace, others: Mapping[str, Tensor]) -> Any:
    """The loss of one sample, whose target stands behind its inputs."""

    def function(theta: Theta, sample: Sequence[Any]) -> Tensor:
        return alone(work, work.call({**others, **theta}, sample[:-1]), sample[-1])

    return function


def _map(function: Any, theta: dict[str, Tensor], samples: Sequence[Any]) -> TangentMap:
    """The model's outputs (or loss) of one sample as a function of ``theta``."""
    varying = [isinstance(t, Tensor) and t.dim() > 0 for t in samples]
    units = tuple(t for t, varies in zip(samples, varying, strict=True) if varies)

    def one(theta: Theta, unit: tuple[Tensor, ...]) -> Tensor:
        given = iter(unit)
        values: Tensor = function(theta, [next(given)[None] if v else t for t, v in zip(samples, varying, strict=True)])
        return values.reshape(-1)

    with torch.no_grad(), computing():
        rows = one(theta, tuple(t[0] for t in units)).numel()
    return TangentMap(one, theta, units, rows)


def _value(evaluation: Evaluation, node: Typed) -> Term:
    of, by = node.args
    return Term(PARAM, squares(evaluation.work, of.stands_for("losses"), by_mask=by.stands_for("mask")))


VALUES: dict[str, Binding] = {
    "squares": _value,
    "hvp": lambda evaluation, node: evaluation.evaluate(node.args[0]),
}
