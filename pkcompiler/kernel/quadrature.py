"""Spectral density by stochastic Lanczos quadrature (Golub and Meurant 2010, chapter 6; Ubaru, Chen and Saad 2017).

The Lanczos recursion is our own: neither scipy nor torch returns the tridiagonal matrix, of which nodes, weights, their standard
error and the mass at 0 are made (G has a large null space). Without reorthogonalisation two vectors are held, and the quadrature
stays valid (Chen, Trogdon and Ubaru 2021, arXiv:2105.06595): the copies of a converged eigenvalue share its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pkcompiler.kernel.operator import Operator
from pkcompiler.kernel.probes import at_least, signs, stream
from pkcompiler.measured import Measured, Status, not_predicted, worst

WHOLE = 400
"""Sizes up to which all eigenvalues are computed."""

ZERO = 1e-12
"""Nodes below this part of the largest count as the eigenvalue 0."""

POINTS, WIDTH = 200, 0.1
"""The grid of the smoothed density, and the deviation of its bells in decades."""


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """The spectral measure of G (mass 1): ``nodes`` [probes * n] with ``weights``, of every probe in turn.

    ``grid`` [points] is log10 of the eigenvalue (exponent included), ``density`` [points] the mass per decade there, each node
    smoothed by a bell of ``width`` decades; ``error`` [points] its standard error over the probes. ``zero``: the mass at the
    eigenvalue 0 (nodes below 1e-12 of the largest), which the density leaves out; not predicted where n nodes do not tell it from
    the smallest eigenvalues. ``mean``: the mean eigenvalue, Tr G / size, as the quadrature gives it. Nodes are times
    ``2**exponent``. Of a small kernel all eigenvalues are nodes (``status`` exact, ``probes`` 0, no error).
    """

    nodes: Tensor
    weights: Tensor
    grid: Tensor
    density: Tensor
    error: Tensor
    zero: Measured
    mean: Measured
    exponent: int
    probes: int
    width: float = WIDTH
    status: Status = "estimated"


def lanczos_density(kernel: Operator, n: int, probes: int, seed: int) -> Density:
    """``probes`` quadratures of ``n`` nodes each, from random sign vectors; of a small kernel all eigenvalues."""
    n, probes = at_least(1, "n", n), at_least(1, "probes", probes)
    if kernel.size <= WHOLE:
        values = torch.linalg.eigvalsh(kernel.dense()).double().cpu()[None]
        return _smoothed(values, torch.full_like(values, 1 / max(1, kernel.size)), kernel, whole=True)
    generator = stream(seed)
    n = min(n, kernel.size)
    nodes, weights = torch.zeros(probes, n, dtype=torch.float64), torch.zeros(probes, n, dtype=torch.float64)
    for i in range(probes):
        z = signs(torch.empty(kernel.size, dtype=kernel.dtype, device=kernel.device), generator)
        diagonal, beside = tridiagonal(kernel.matvec, z / math.sqrt(kernel.size), n)
        matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        found, vectors = np.linalg.eigh(matrix)
        nodes[i, : len(found)] = torch.from_numpy(found)
        weights[i, : len(found)] = torch.from_numpy(vectors[0] ** 2)
    return _smoothed(nodes, weights, kernel)


def tridiagonal(product: Callable[[Tensor], Tensor], start: Tensor, n: int) -> tuple[list[float], list[float]]:
    """n steps of the Lanczos recursion from a vector of norm 1: the diagonal and the one beside it.

    Fewer where the Krylov space ends.
    """
    diagonal: list[float] = []
    beside: list[float] = []
    vector, before, beta = start, torch.zeros_like(start), 0.0
    for step in range(n):
        rest = product(vector).sub_(before, alpha=beta)
        alpha = float(torch.dot(vector, rest))
        diagonal.append(alpha)
        rest.sub_(vector, alpha=alpha)
        beta = float(torch.linalg.vector_norm(rest))
        scale = max(map(abs, diagonal + beside), default=0.0)
        if step == n - 1 or beta <= 1e-13 * scale or scale == 0:
            break
        beside.append(beta)
        before, vector = vector, rest.div_(beta)
    return diagonal, beside


def _smoothed(nodes: Tensor, weights: Tensor, kernel: Operator, whole: bool = False) -> Density:
    exponent, probes = kernel.exponent, len(nodes)
    largest = float(nodes.max())
    at_zero = nodes <= ZERO * largest
    shift = exponent * math.log10(2)
    logs = torch.where(at_zero, torch.ones_like(nodes), nodes).log10() + shift
    low, high = (float(f(logs[~at_zero])) for f in (torch.min, torch.max)) if bool((~at_zero).any()) else (0.0, 0.0)
    grid = torch.linspace(low - 4 * WIDTH, high + 4 * WIDTH, POINTS, dtype=torch.float64)
    bells = torch.exp(-0.5 * ((grid[:, None, None] - logs) / WIDTH) ** 2) / (WIDTH * math.sqrt(2 * math.pi))
    each = (bells * torch.where(at_zero, torch.zeros_like(weights), weights)).sum(-1)
    spread = each.std(1) if probes > 1 else torch.full_like(grid, 0.0 if whole else math.nan)
    status: Status = kernel.status if whole else worst(kernel.status, "estimated")
    zero, mean = (_mean((weights * v).sum(1), e, status) for v, e in ((at_zero.to(weights), 0), (nodes, exponent)))
    if not whole and not bool(at_zero.any(1).all()):
        smallest = float(nodes.min() / largest) if largest else 0.0
        zero = not_predicted(f"the smallest of {nodes.shape[1]} nodes is {smallest:.1g} of the largest: take more nodes")
    return Density(
        nodes.reshape(-1),
        weights.reshape(-1) / probes,
        grid,
        each.mean(1),
        spread / math.sqrt(probes),
        zero,
        mean,
        exponent,
        0 if whole else probes,
        status=status,
    )


def _mean(values: Tensor, exponent: int, status: Status) -> Measured:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return Measured(float(values.mean()), exponent, error, status)
