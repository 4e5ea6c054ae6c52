"""Minimising F(z) = P log sum_e m_e exp(z_target(e) - z_origin(e)) - n . z, which is convex in the log-scales z.

Path conditioning (arXiv:2602.19799) is P = p, m = diag(G), n = B^T 1; equi-normalisation (arXiv:1902.10416) is P = 1, n = 0 and
m = theta^2 with target and origin exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

WARM = 10
"""Sweeps of closed-form updates before Newton steps are tried."""

UNRESOLVED = 1e-13
"""A decrease of F below this part of P is lost in its rounding."""

HALVES = tuple(0.5**k for k in range(30))
"""The steps that a line search tries."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """``target``, ``origin``: the units of every edge, ``units`` (the number of units) for what is fixed; ``mass`` > 0.

    ``fixed``: the mass of what no unit changes. ``power`` P, ``counts`` n [units].
    """

    units: int
    target: Indices
    origin: Indices
    mass: Array
    fixed: float
    power: float
    counts: Array

    def shares(self, z: Array) -> tuple[float, Array]:
        """log of the sum S(z), and the part P e / S of every edge."""
        padded = np.append(z, 0.0)
        logs = np.log(self.mass) + padded[self.target] - padded[self.origin]
        top = max(logs.max(initial=-np.inf), np.log(self.fixed) if self.fixed > 0 else -np.inf)
        parts = np.exp(logs - top)
        total = parts.sum() + (self.fixed * np.exp(-top) if self.fixed > 0 else 0.0)
        return float(top + np.log(total)), self.power * parts / total

    def value(self, z: Array) -> float:
        """F(z)."""
        return self.power * self.shares(z)[0] - float(self.counts @ z)

    def sides(self, parts: Array) -> tuple[Array, Array]:
        """What enters and what leaves every unit: the parts of the edges summed by target and by origin."""
        entering, leaving = (np.bincount(ends, parts, self.units + 1)[:-1] for ends in (self.target, self.origin))
        return entering.astype(np.float64), leaving.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """``z`` [units]; F at z = 0 and after every step; the largest relative imbalance of a unit that is left.

    F falls with every step, but for a last one or two that only polish z: there the differences are rounding errors of F.
    """

    z: Array
    history: tuple[float, ...]
    residual: float
    converged: bool


def balance(problem: Problem, tolerance: float = 1e-9, steps: int = 500) -> Balanced:
    """The minimiser, from z = 0; F decreases in every step.

    First sweeps that update all units at once in closed form: F lies below its tangent in S, and exp(a - b) below
    (exp(2a) + exp(-2b)) / 2, which leaves one quadratic equation per unit. Then Newton steps (conjugate gradients) with a line
    search. Done when |dF/dz_u| is below ``tolerance`` of what enters and leaves, for every unit u.
    """
    z = np.zeros(problem.units)
    history = [problem.value(z)]
    for step in range(steps):
        parts = problem.shares(z)[1]
        if _residual(problem, parts) <= tolerance:
            break
        moved = closed_form(problem, z, parts) if step < WARM else None
        moved = newton(problem, z, parts, history[-1]) if moved is None else moved
        if moved is None:
            break
        z = moved
        history.append(problem.value(z))
    return Balanced(z, tuple(history), residual := _residual(problem, problem.shares(z)[1]), residual <= tolerance)


def _residual(problem: Problem, parts: Array) -> float:
    entering, leaving = problem.sides(parts)
    scale = entering + leaving + np.abs(problem.counts)
    wrong = np.abs(entering - leaving - problem.counts)
    return float(np.max(np.divide(wrong, scale, out=np.zeros_like(wrong), where=scale > 0), initial=0.0))


def closed_form(problem: Problem, z: Array, parts: Array) -> Array:
    """All units at once: y = exp(2 delta) solves A y - C / y = n, A what enters the unit and C what leaves it."""
    entering, leaving = problem.sides(parts)
    n = problem.counts
    root = np.sqrt(n * n + 4 * entering * leaving)
    above = np.where(n > 0, n + root, 2 * leaving)
    below = np.where(n > 0, 2 * entering, root - n)
    moves = (above > 0) & (below > 0)
    ratio = np.divide(above, below, out=np.ones_like(above), where=moves)
    return z + np.log(ratio) / 2


def newton(problem: Problem, z: Array, parts: Array, value: float) -> Array | None:
    """A Newton step that lowers F, halved until it does; None where rounding leaves none."""
    entering, leaving = problem.sides(parts)
    slope = entering - leaving
    gradient = slope - problem.counts
    direction = _solve(problem, parts, entering + leaving, slope, gradient)
    decrease = -float(gradient @ direction)
    if decrease <= UNRESOLVED * problem.power:
        candidate = z + direction
        better = _residual(problem, problem.shares(candidate)[1]) < _residual(problem, parts)
        return candidate if better else None
    for factor in HALVES:
        candidate = z + factor * direction
        if problem.value(candidate) <= value - 1e-4 * factor * decrease:
            return candidate
    candidate = closed_form(problem, z, parts)
    return candidate if problem.value(candidate) < value else None


def _solve(problem: Problem, parts: Array, both: Array, slope: Array, gradient: Array) -> Array:
    """-H^-1 gradient, H = the weighted Laplacian of the units less slope slope^T / P (singular where units are free in common)."""

    def product(v: Array) -> Array:
        padded = np.append(v.reshape(-1), 0.0)
        flow = parts * (padded[problem.target] - padded[problem.origin])
        entering, leaving = problem.sides(flow)
        image: Array = entering - leaving - slope * (slope @ padded[:-1]) / problem.power
        return image

    diagonal = np.maximum(both - slope * slope / problem.power, 1e-12 * both)
    inverse = np.divide(1.0, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    shape = (problem.units, problem.units)
    hessian = LinearOperator(shape, matvec=product, dtype=np.float64)
    jacobi = LinearOperator(shape, matvec=lambda v: inverse * v.reshape(-1), dtype=np.float64)
    direction, _ = cg(hessian, -gradient, rtol=1e-6, maxiter=200, M=jacobi)
    found: Array = direction
    return found
