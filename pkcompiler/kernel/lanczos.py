"""Leading eigenpairs by the Lanczos method with thick restarts (Wu and Simon 2000) and full orthogonalisation.

Our own, since scipy's ``eigsh`` (ARPACK) returns 46 of 60 equal leading eigenvalues in the test of this file, silently. It also
holds its basis twice, and on the CPU. A small residual proves an eigenpair, not that it is among the leading ones: so the search
goes on from a fresh random vector orthogonal to what has converged, until the largest of the other eigenvalues is known well enough
to be below; the basis stays on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pkcompiler.kernel.probes import stream

CHALLENGE, CAUTION = 8, 10.0
"""The least products that a fresh random vector gets to find a missed eigenvalue, and the residuals by which what it finds must lie
below those that were found."""

MOST_PRODUCTS = 5000
CHUNK = 1 << 18

AGAIN = 0.7
"""A vector that shrinks below this part in its projection is projected again (Daniel, Gragg, Kaufman and Stewart 1976). The part
along the last two rows, which is the large one, goes first."""

ROUNDING = 64
"""Eigenvalues that agree to this many spacings of the precision count as the same."""

PATIENCE, NEAR = 4, 30.0
"""Ritz values are looked at after every ``PATIENCE`` products, and after each once residuals are within ``NEAR`` tolerances."""


@dataclass(slots=True, eq=False)
class Basis:
    """The first ``held`` of ``rows`` [width + 1, size] are orthonormal; ``matrix`` = V G V^T of those that were multiplied
    (float64, on the CPU)."""

    product: Callable[[Tensor], Tensor]
    generator: torch.Generator
    rows: Tensor
    held: int = 1
    matrix: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    products: int = 0
    beta: float = 0.0

    @property
    def size(self) -> int:
        """The entries of a vector: rows and columns of G."""
        return self.rows.shape[1]

    def extend(self) -> None:
        """Multiply the last row; what is orthogonal to all rows becomes the next (random where nothing is left)."""
        m = self.held
        rest = self.product(self.rows[m - 1])
        self.products += 1
        size = float(torch.linalg.vector_norm(rest))
        column = self._project(rest, last=2)
        self.beta, before = float(torch.linalg.vector_norm(rest)), math.inf
        while self.beta < AGAIN * before:
            before = self.beta
            column += self._project(rest)
            self.beta = float(torch.linalg.vector_norm(rest))
            before = before if self.beta > 0 else 0.0
        grown = torch.zeros(m, m, dtype=torch.float64)
        grown[: m - 1, : m - 1] = self.matrix
        grown[:, -1] = grown[-1, :] = column
        self.matrix = grown
        scale = max(size, float(self.matrix.abs().max()))
        if self.beta <= 20 * torch.finfo(rest.dtype).eps * scale:
            self.beta = 0.0
            self.fresh()
        else:
            torch.div(rest, self.beta, out=self.rows[m])
            self.held += 1

    def fresh(self) -> None:
        """A random row orthogonal to the others (none where they span everything)."""
        if self.held >= self.size:
            return
        drawn = torch.randn(self.size, generator=self.generator, dtype=self.rows.dtype).to(self.rows.device)
        for _ in range(3):
            self._project(drawn)
            drawn.div_(torch.linalg.vector_norm(drawn))
        self.rows[self.held] = drawn
        self.held += 1

    def _project(self, vector: Tensor, last: int | None = None) -> Tensor:
        """Subtract the part along the rows, or along the ``last`` few; its coefficients."""
        first = max(0, self.held - last) if last else 0
        rows = self.rows[first : self.held]
        along = torch.mv(rows, vector)
        vector.addmv_(rows.T, along, alpha=-1)
        return torch.cat([along.new_zeros(first), along]).double().cpu()

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and the columns of their vectors."""
        values, columns = torch.linalg.eigh(self.matrix)
        return values.flip(0), columns.flip(1)

    def rotate(self, kept: int, challenged: bool) -> None:
        """Keep the ``kept`` leading Ritz vectors and the residual row, or without it a fresh one."""
        values, columns = self.ritz()
        m = len(self.matrix)
        turn = columns[:, :kept].T.to(self.rows)
        for start in range(0, self.size, CHUNK):
            piece = self.rows[:, start : start + CHUNK]
            piece[:kept] = turn @ piece[:m]
        residual = self.held > m and not challenged
        if residual:
            self.rows[kept] = self.rows[m]
        self.held = kept + residual
        self.matrix = torch.diag(values[:kept])
        if not residual:
            self.fresh()


def eigenpairs(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, *, width: int, tolerance: float, seed: int = 0
) -> tuple[Tensor, Tensor, int]:
    """The k largest eigenvalues [k] (float64, descending) of a symmetric positive semidefinite matrix, their vectors [size, k], and
    the number of products.

    ``width``: the most rows that are held, and one more. ``tolerance``: of the residuals, relative to each eigenvalue (to 1e-8 of
    the largest where it is smaller).
    """
    basis = _begun(product, start, min(width, len(start)), stream(seed))
    best, challenged, look = torch.zeros(k, dtype=torch.float64), 0, k
    noise = max(tolerance, ROUNDING * torch.finfo(start.dtype).eps)
    while basis.products < MOST_PRODUCTS:
        basis.extend()
        m = len(basis.matrix)
        if basis.held == m:
            break
        if challenged and m > k:
            values, columns = basis.ritz()
            if bool((values[:k] > best * (1 + noise)).any()) or _worst(basis.beta, values, columns, k) > tolerance:
                challenged, look = 0, m
            elif basis.products >= challenged and _below(basis.beta, values, columns, k, noise):
                break
        elif m >= min(look, width):
            values, columns = basis.ritz()
            worst = _worst(basis.beta, values, columns, k)
            look = m + (1 if worst <= NEAR * tolerance else PATIENCE)
            if worst <= tolerance:
                best, challenged = values[:k], basis.products + CHALLENGE
                basis.rotate(k, challenged=True)
        if len(basis.matrix) >= width:
            basis.rotate(min(k + (width - k) // 2, m - 1), challenged=False)
    basis.rotate(k, challenged=False)
    return basis.matrix.diagonal().clamp(min=0), basis.rows[:k].clone().T, basis.products


def _begun(product: Callable[[Tensor], Tensor], start: Tensor, width: int, generator: torch.Generator) -> Basis:
    """From ``start`` and as much of a random vector: a special one alone can lie beside an eigenvector."""
    drawn = torch.randn(len(start), generator=generator, dtype=start.dtype).to(start.device)
    drawn.div_(torch.linalg.vector_norm(drawn)).add_(start / torch.linalg.vector_norm(start))
    rows = start.new_empty(width + 1, len(start))
    torch.div(drawn, torch.linalg.vector_norm(drawn), out=rows[0])
    return Basis(product, generator, rows)


def _below(beta: float, values: Tensor, columns: Tensor, k: int, noise: float) -> bool:
    """Whether the Ritz value behind the k leading ones is known well enough to say that it belongs there."""
    value, unsure = float(values[k]), beta * float(columns[-1, k].abs())
    return value + CAUTION * unsure < float(values[k - 1]) or unsure <= noise * max(value, 1e-8 * float(values[0]))


def _worst(beta: float, values: Tensor, columns: Tensor, k: int) -> float:
    """The largest residual of the k leading Ritz pairs, relative as ``tolerance`` is."""
    floor = values[:k].clamp(min=max(1e-8 * float(values[0]), torch.finfo(torch.float64).tiny))
    return float((beta * columns[-1, :k].abs() / floor).max())
