"""``walks(E)``: the order of first visits as a score."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.functions.orders.walks.live import crossed
from pkcompiler.scoring.functions.orders.walks.order import order_of
from pkcompiler.scoring.functions.orders.walks.walker import Walker
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import Workspace


def visits(work: Workspace, along: Term, draw: Draw, *, whole: bool = False) -> Term:
    """Minus the rank of every entry in the order of first visits, from 0 on; what is not visited shares the lowest score.

    ``along``: [param], or a number: what the probability of a hop is proportional to. ``whole``: a hop keeps the whole kernel.
    The number of walks follows from ``work.goal``. Exact in float64. Raises ``PKC560`` for values below 0 or not finite, ``PKC561``
    for what walks cannot cross, ``PKC444`` where a weight
    is computed from a wanted parameter, and as :func:`~pkcompiler.scoring.functions.orders.walks.order.order_of`.
    """
    captured = work.captured
    work.refuse_computed("a random walk")
    shapes = {n: t.shape for n, t in captured.tensors.items()}
    given = along.tensors if along.axes == PARAM else {n: along.tensor.expand(shapes[n]) for n in work.theta}
    needed = crossed(captured.graph)
    weights = {n: given[n].detach().to("cpu", torch.float64) for n in needed}  # a common exponent changes no probability
    _check(weights)
    masked = {n: w * work.masks[n].to(w) if n in work.masks else w for n, w in weights.items()}
    batch = captured.static_batch
    walker = Walker(captured.graph, captured.tensors, masked, work.masks, batch=batch, whole=whole)
    order = order_of(walker, work.goal, draw)
    lowest = -float(sum(math.prod(shapes[n]) for n in work.theta))
    out: dict[str, Tensor] = {}
    for name, like in work.theta.items():
        score = torch.full(like.shape, lowest, dtype=torch.float64)
        if name in walker.starts:
            ranks = order.ranks[walker.part(name)]
            score = torch.from_numpy(np.where(ranks >= 0, 0.0 - ranks, lowest)).reshape(like.shape)
        out[name] = score.to(like.device)
    return Term(PARAM, out)


def _check(weights: dict[str, Tensor]) -> None:
    """Hops can be proportional to what is finite and not below 0 (``PKC560``)."""
    raise_all(
        Diagnostic(
            "PKC560",
            f"walks() along values of '{name}' that are {'not finite' if not bool(torch.isfinite(w).all()) else 'below 0'}",
            notes=("the probability of a hop is proportional to them: write walks(abs(theta))",),
        )
        for name, w in weights.items()
        if not bool((torch.isfinite(w) & (w >= 0)).all())
    )


def _value(evaluation: Evaluation, node: Typed) -> Term:
    whole = node.words["keep"] == "kernels"
    return visits(evaluation.work, evaluation.evaluate(node.args[0]), evaluation.draws, whole=whole)


VALUES: dict[str, Binding] = {"walks": _value}
