"""What is minimised: diag(G) or the squared weights per pair of units, and figures of a network before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import Capture
from pkcompiler.ir.graphs import crossed_twice
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.paths.functional import open_functional
from pkcompiler.paths.semiring import settings
from pkcompiler.rescaling.minimise import Problem
from pkcompiler.rescaling.units import Units

MOST = 512
"""Parameter entries crossed twice by a path, up to which each gets a product with the Path Kernel."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one set of weights. ``objective``: F for conditioning, ``squares`` for equi-norm.

    ``squares``: the sum of theta^2 over the parameters on paths. Of diag(G), over its entries above 0: ``trace_log10``,
    ``spread_log10`` of largest / smallest, and ``ratio``, arithmetic / geometric mean: 1 where all are equal.
    """

    objective: float
    squares: float
    trace_log10: float
    spread_log10: float
    ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Diagonal:
    """diag(G) = entries * 2**exponent by parameter (0 where a mask drops)."""

    entries: Mapping[str, Tensor]
    exponent: int
    status: str


def diagonal_of(captured: Capture, masks: Mapping[str, Tensor] | None) -> Diagonal:
    """diag(G) of the kept parameters.

    It is tau = dR_2/dw but for entries that a path can cross twice (weights of attention, tied weights). Of those at most
    :data:`MOST` get their exact value; where there are more, tau stands for all and the status is ``approximate``.
    """
    chosen = settings(edge="theta^2", pools="sum", products="pairs", constants="on", dtype=torch.float64)
    twice = sum(captured.tensors[name].numel() for name in crossed_twice(captured.graph))
    if 0 < twice <= MOST:
        kernel = kernel_of(captured.graph, captured.tensors, chosen, masks)
        entries, exponent, status = kernel.diagonal(), kernel.exponent, str(kernel.status)
    else:
        found = open_functional(captured.graph, captured.tensors, chosen, masks=masks)
        entries, exponent, status = dict(found.grad), found.exponent, "approximate" if twice else found.status
    kept = {n: g.cpu() if masks is None or n not in masks else g.cpu() * masks[n].cpu() for n, g in entries.items()}
    if not any(bool(g.any()) for g in kept.values()):
        why = "no path to the output carries any mass, so there is no diagonal to align"
        raise fail("PKC542", why, "pkc analyze MODEL says where the paths end")
    return Diagonal(kept, exponent, status)


class Objective:
    """What a rescaling does to the diagonal of G and to the weights: the problem to solve, and figures at a solution."""

    def __init__(self, method: str, units: Units, diagonal: Diagonal, weights: Mapping[str, Tensor]) -> None:
        self.method, self.units, self.diagonal = method, units, diagonal
        self.squares = {n: w.double().square() for n, w in weights.items()}
        self.problem = self._problem()

    def _problem(self) -> Problem:
        conditioning = self.method == "conditioning"
        entries = self.diagonal.entries if conditioning else self.squares
        edges = [_edges(entries[name], *ends) for name, ends in self.units.ends.items()]
        target, origin, mass, counted = (np.concatenate(column) for column in zip(*edges, strict=True))
        inner = target != origin
        fixed = float(mass[~inner].sum()) + sum(float(t.sum()) for n, t in entries.items() if n not in self.units.ends)
        live = inner & (mass > 0)
        target, origin, mass, counted = target[live], origin[live], mass[live], counted[live]
        if conditioning:
            size = self.units.count + 1
            counts = (np.bincount(target, counted, size) - np.bincount(origin, counted, size)).astype(np.float64)
            power = float(sum(int((t > 0).sum()) for t in entries.values()))
            return Problem(self.units.count, target, origin, mass, fixed, power, counts[:-1])
        tied = _one_sided(target, origin, self.units.count)
        target, origin = tied[target], tied[origin]
        inner = target != origin
        fixed += float(mass[~inner].sum())
        return Problem(self.units.count, origin[inner], target[inner], mass[inner], fixed, 1.0, np.zeros(self.units.count))

    def figures(self, logs: Tensor) -> Figures:
        """Figures after rescaling by exp(logs) [units]."""
        spread = self.units.spread(logs)
        size = sum(float((s * (2 * spread[n]).exp()).sum()) for n, s in self.squares.items())
        live = [g.log() - 2 * spread[n] if n in spread else g.log() for n, g in self.diagonal.entries.items()]
        logarithms = torch.cat([part[part > -torch.inf] for part in live])
        total = float(logarithms.logsumexp(0))
        count = logarithms.numel()
        shift = self.diagonal.exponent * float(np.log(2.0))
        value = self.problem.value(-2 * logs.numpy())
        return Figures(
            objective=value + self.problem.power * shift if self.method == "conditioning" else size,
            squares=size,
            trace_log10=(total + shift) / float(np.log(10)),
            spread_log10=float(logarithms.max() - logarithms.min()) / float(np.log(10)),
            ratio=float(np.exp(total - np.log(count) - float(logarithms.mean()))),
        )

    def readable(self, history: tuple[float, ...]) -> tuple[float, ...]:
        """The objective as the figures give it, from the values of F that were minimised."""
        if self.method != "conditioning":
            return tuple(float(np.exp(value)) for value in history)
        shift = self.problem.power * self.diagonal.exponent * float(np.log(2.0))
        return tuple(value + shift for value in history)


def _edges(entries: Tensor, target: Tensor, origin: Tensor) -> tuple[Any, Any, Any, Any]:
    """The entries of a parameter summed over those of the same pair of units: target, origin, mass, and how many are above 0."""
    alike = [d for d in range(entries.dim()) if target.shape[d] == 1 and origin.shape[d] == 1]
    mass = entries.double().sum(alike, keepdim=True) if alike else entries.double()
    counted = (entries > 0).double().sum(alike, keepdim=True) if alike else (entries > 0).double()
    flat = [part.expand(mass.shape).reshape(-1).numpy() for part in (target, origin, mass, counted)]
    return flat[0], flat[1], flat[2], flat[3]


def _one_sided(target: Any, origin: Any, units: int) -> Any:
    """The units by index, with those that only enter or only leave made fixed: nothing would hold their scale."""
    size = units + 1
    both = (np.bincount(target, minlength=size) > 0) & (np.bincount(origin, minlength=size) > 0)
    return np.where(both, np.arange(size), units)
