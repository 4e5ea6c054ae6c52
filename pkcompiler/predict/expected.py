"""The squared sweep over expected gates: second moments forward, those of the derivatives on the way back.

E[(df_k/dtheta)^2] = dR/dE[theta^2], R the sweep's output, in which a gate maps the second moment q of its input to
E[phi(sqrt(q) z)^2] on the way forward and multiplies by E[phi'(sqrt(q) z)^2] on the way back, z ~ N(0, 1) (docs/theory.md,
section 4). Whether that holds for a graph is decided in :mod:`pkcompiler.predict.coherence`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.lift.classify import classify
from pkcompiler.frontend.lift.gate import region_function
from pkcompiler.frontend.observed import trace
from pkcompiler.ir.graphs import maps_of, only_reader
from pkcompiler.ir.maps import Gate, Scale
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sweep import Sweep

Phi = Callable[[Tensor], Tensor]

REACH = 12.0
"""The normal law is cut at 12 standard deviations (1e-33)."""

DISTINCT = 256
"""Of more different variances, those between as many in geometric progression are interpolated."""

SQUARES = Settings(edge="theta^2", pools="sum", products="pairs", constants="on")


def gate_functions(captured: Capture) -> dict[str, Phi]:
    """phi of every gate by the name of its operation, an elementwise function of float64 tensors."""
    program, lifted = captured.program, captured.lifted
    kinds = classify(program).kinds
    keep = frozenset(node.name for node, kind in kinds.items() if kind in ("known", "number"))
    known = trace(program, captured.call.flat, keep).known
    nodes = {node.name: node for node in program.module.graph.nodes}
    records = {name: lifted.records[name] for name in maps_of(lifted.graph, Gate)}
    return {name: region_function(nodes[r.node], nodes[r.source], known) for name, r in records.items()}


# moments of one gate ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class GateMoments:
    """At z ~ N(0, q), for every q: ``square`` E[phi(z)^2], ``slope`` E[phi'(z)^2], ``joint`` E[phi'(z)^2 z^2]; float64 tensors.

    In the notation of docs/theory.md, section 4: m(q) = square / q, m'(q) = slope.
    """

    square: Tensor
    slope: Tensor
    joint: Tensor


@cache
def _normal() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the normal law: Gauss-Legendre on panels that are finer towards 0, so that kinks anywhere are met."""
    edges = np.concatenate([[0.0], np.geomspace(1e-10, REACH, 1500)])
    points, weights = np.polynomial.legendre.leggauss(4)
    half = np.diff(edges) / 2
    z = (edges[:-1] + half)[:, None] + half[:, None] * points
    w = half[:, None] * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    both = np.concatenate([-z.ravel()[::-1], z.ravel()]), np.concatenate([w.ravel()[::-1], w.ravel()])
    nodes, masses = (torch.from_numpy(a) for a in both)
    return nodes, masses / masses.sum()


def gate_moments(phi: Phi, q: Tensor) -> GateMoments:
    """The moments of a gate at variances q (any shape; 0 is allowed: then those of phi at 0). By quadrature, to 1e-3 or better."""
    distinct, places = torch.unique(q.to(torch.float64).flatten(), return_inverse=True)
    if len(distinct) <= DISTINCT:
        found = _at(phi, distinct)
        return GateMoments(*(m[places].reshape(q.shape) for m in found))
    live = distinct[distinct > 0]
    grid = torch.cat(
        [torch.zeros(1, dtype=torch.float64), torch.from_numpy(np.geomspace(float(live[0]), float(live[-1]), DISTINCT))]
    )
    values = [np.interp(distinct.numpy(), grid.numpy(), m.numpy()) for m in _at(phi, grid)]
    return GateMoments(*(torch.from_numpy(v)[places].reshape(q.shape) for v in values))


def _at(phi: Phi, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z, weights = _normal()
    rows = [_row(phi, root * z, weights) for root in q.sqrt()]
    square, slope, joint = (torch.stack(column) for column in zip(*rows, strict=True))
    return square, slope, joint


def _row(phi: Phi, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        y = phi(x)
        slope = torch.autograd.grad(y.sum(), x, allow_unused=True)[0] if y.requires_grad else None
    squared = torch.zeros_like(x) if slope is None else slope.square()
    x = x.detach()
    return (weights * y.detach().square()).sum(), (weights * squared).sum(), (weights * squared * x.square()).sum()


# the sweep --------------------------------------------------------------------------------------------------------------


class _Expected(torch.autograd.Function):
    """Second moments forward; on the way back those of the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, square: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return square

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


class ExpectedSweep(Sweep):
    """The sweep of theta^2 with gates at their expected squared slopes; ``tensors`` are roots of second moments.

    ``functions``: phi by operation name (:func:`gate_functions`).
    """

    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        functions: Mapping[str, Phi],
        *,
        batch: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(graph, tensors, SQUARES, batch=batch, device=device)
        self.functions = functions
        self._only_reader = only_reader(graph)

    def apply(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """As for any sweep, but for the gains of gates: see :meth:`_gain_of_gate`."""
        reader = self._only_reader.get(op.name)
        if isinstance(op.map, Scale) and op.map.weight and reader and isinstance(reader.map, Gate) and not reader.map.piecewise:
            return self._gain_of_gate(op, op.map, reader, inputs[0], edges)
        return super().apply(op, inputs, edges)

    def _gain_of_gate(self, op: Op, map: Scale, gate: Op, x: Scaled, edges: Mapping[str, Tensor]) -> Scaled:
        """y = gain * x + bias with nothing random between x and phi(y): phi'(y) and x are not independent.

        E[phi'(y)^2 x^2] = E[phi'^2] E[x^2] (1 + s (E[phi'(y)^2 y^2] / (E[phi'^2] E[y^2]) - 1)), s the gain's share of E[y^2], for
        y normal: the gain's derivative gets the bracket as a factor, the value stays as it is.
        """
        assert map.weight is not None
        gain = edges[map.weight]
        y = super().apply(op, [x], {**edges, map.weight: gain.detach()})
        q = y.at(0).detach()
        moments = gate_moments(self.functions[gate.name], q)
        factor = 1.0 if map.factor is None else self.fixed(map.factor, map.shape)
        unit = (x.at(y.exponent) * factor).detach()
        share = unit * gain.detach().reshape(map.shape) / y.tensor.detach().clamp(min=torch.finfo(q.dtype).tiny)
        ratio = torch.where(moments.slope * q > 0, moments.joint / (moments.slope * q).clamp(min=torch.finfo(q.dtype).tiny), 1.0)
        change = (gain - gain.detach()).reshape(map.shape)
        return Scaled(y.tensor + change * unit * (1 + share * (ratio - 1)), y.exponent)

    def _gate(self, op: Op, map: Gate, x: Scaled) -> Scaled:
        phi = self.functions[op.name]
        if map.piecewise:
            return Scaled(x.tensor * gate_moments(phi, torch.ones((), dtype=torch.float64)).slope.to(x.tensor), x.exponent)
        moments = gate_moments(phi, x.at(0).detach())
        slope = moments.slope * 2.0 ** min(x.exponent, 1000)
        return Scaled(_Expected.apply(x.tensor, moments.square, slope))
