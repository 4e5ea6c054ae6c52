"""Derivatives that are differentiated again (docs/theory.md, section 5): values of [param] that keep their graph.

What a first derivative by theta multiplies in (t'(theta) of an edge t) depends on the effective weight, too; at a masked entry
it is taken at the stored value, as the first derivative is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.functions.evaluation import Binding
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import STORED, SWITCH, Leaf, Workspace


def stored(work: Workspace) -> tuple[Term, Leaf]:
    """``theta`` as grad sees it: the stored value, which does not depend on the mask."""
    values = {n: t.detach().requires_grad_() for n, t in work.theta.items()}
    return Term(PARAM, values), Leaf(STORED, values, {}, work.theta)


def derivative(work: Workspace, value: Term, leaves: Sequence[Leaf], wanted: str) -> tuple[Term, list[Leaf]]:
    """d value / d ``wanted`` (``theta``, ``mask`` or an edge) by all ``leaves``, and the leaves that it stands on."""
    theta = work.theta
    weights = {n: t.detach().requires_grad_() for n, t in theta.items()}
    total = {n: torch.zeros_like(t) for n, t in theta.items()}
    for leaf in leaves:
        if not depends(leaf, wanted):
            continue
        for name, grad in _kept(value.tensor, leaf, work.wanted).items():
            part = grad * leaf.factors[name] if name in leaf.factors else grad
            if wanted != leaf.edge and leaf.edge != SWITCH:
                part = work.by_theta(leaf.edge, weights[name], part)
            total[name] = total[name] + (theta[name] * part if wanted == "mask" and leaf.edge != SWITCH else part)
    return Term(PARAM, total, value.exponent), [*leaves, Leaf("theta", weights, {}, theta)]


def own_derivative(left: Typed, right: Typed) -> Typed | None:
    """The derivative in u * grad(F, u): theta dF/dtheta and its kin, which need no second pass; None of any other product."""
    for factor, other in ((left, right), (right, left)):
        if other.calls("grad") and factor.edge not in ("", "1") and factor.edge == other.args[1].edge:
            return other
    return None


def depends(leaf: Leaf, wanted: str) -> bool:
    """Whether a leaf moves with ``wanted``: the stored theta does not with the mask, and the mask with nothing else."""
    return leaf.edge != STORED if wanted == "mask" else leaf.edge != SWITCH


def _kept(value: Tensor, leaf: Leaf, wanted: frozenset[str]) -> Mapping[str, Tensor]:
    """The derivatives by the tensors of a leaf, with their graph; names without one are left out."""
    names = [n for n in leaf.tensors if n in wanted]
    if not value.requires_grad or not names:
        return {}
    grads = torch.autograd.grad(value, [leaf.tensors[n] for n in names], create_graph=True, allow_unused=True)
    return {n: g for n, g in zip(names, grads, strict=True) if g is not None}


@contextmanager
def refusing() -> Iterator[None]:
    """An operator of the model without a second derivative in torch is named (``PKC544``)."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        said = str(error).split("\n")[0]
        if "derivative" not in said or "not implemented" not in said:
            raise
        raise fail(
            "PKC544",
            f"torch cannot differentiate the model twice: {said}",
            "choose a pass without second derivatives, e.g. snip, or write the model with other operators",
        ) from error


VALUES: dict[str, Binding] = {
    "grad": lambda evaluation, node: evaluation.grad(*node.args),
}
