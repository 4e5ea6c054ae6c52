"""Leading eigenpairs by the Lanczos method with thick restarts (Wu and Simon 2000) and full orthogonalisation.

Our own, since scipy's ``eigsh`` (ARPACK) returns 46 of 60 equal leading eigenvalues in the test of this file, silently. It also
holds its basis twice, and on the CPU. Here a converged set is challenged by a fresh random vector orthogonal to it, until none
finds an eigenvalue that was missed; the basis stays on the device, and the run stops when the residuals asked for are reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pkcompiler.kernel.probes import stream

CHALLENGE = 8
"""Products that a fresh random vector gets to find a missed eigenvalue."""

MOST_PRODUCTS = 5000
CHUNK = 1 << 18


@dataclass(slots=True, eq=False)
class Basis:
    """Orthonormal ``rows``, and ``matrix`` = V G V^T of those that were multiplied (float64, on the CPU)."""

    product: Callable[[Tensor], Tensor]
    generator: torch.Generator
    rows: list[Tensor] = field(default_factory=list)
    matrix: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    products: int = 0
    beta: float = 0.0

    def extend(self) -> None:
        """Multiply the last row; what is orthogonal to all rows becomes the next (random where nothing is left)."""
        m = len(self.rows)
        rest = self.product(self.rows[-1])
        self.products += 1
        size = float(torch.linalg.vector_norm(rest))
        column = self._project(rest) + self._project(rest)
        grown = torch.zeros(m, m, dtype=torch.float64)
        grown[: m - 1, : m - 1] = self.matrix
        grown[:, -1] = grown[-1, :] = column
        self.matrix = grown
        self.beta = float(torch.linalg.vector_norm(rest))
        scale = max(size, float(self.matrix.abs().max()))
        if self.beta <= 20 * torch.finfo(rest.dtype).eps * scale:
            self.beta = 0.0
            self.fresh()
        else:
            self.rows.append(rest.div_(self.beta))

    def fresh(self) -> None:
        """A random row orthogonal to the others (none where they span everything)."""
        like = self.rows[0]
        if len(self.rows) >= like.numel():
            return
        drawn = torch.randn(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)
        for _ in range(3):
            self._project(drawn)
            drawn.div_(torch.linalg.vector_norm(drawn))
        self.rows.append(drawn)

    def _project(self, vector: Tensor) -> Tensor:
        """Subtract the part along the rows; its coefficients."""
        found = []
        for row in self.rows:
            along = torch.dot(row, vector)
            vector.addcmul_(row, along, value=-1)
            found.append(along)
        return torch.stack(found).double().cpu()

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and the columns of their vectors."""
        values, columns = torch.linalg.eigh(self.matrix)
        return values.flip(0), columns.flip(1)

    def rotate(self, kept: int, challenged: bool) -> None:
        """Keep the ``kept`` leading Ritz vectors and the residual row, or without it a fresh one."""
        values, columns = self.ritz()
        m = len(self.matrix)
        residual = self.rows[m:]
        turn = columns[:, :kept].T.to(self.rows[0])
        for start in range(0, self.rows[0].numel(), CHUNK):
            piece = torch.stack([row[start : start + CHUNK] for row in self.rows[:m]])
            for row, turned in zip(self.rows[:kept], turn @ piece, strict=True):
                row[start : start + CHUNK] = turned
        self.rows = self.rows[:kept]
        self.matrix = torch.diag(values[:kept])
        if challenged or not residual:
            self.fresh()
        else:
            self.rows += residual


def eigenpairs(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, *, width: int, tolerance: float, seed: int = 0
) -> tuple[Tensor, Tensor, int]:
    """The k largest eigenvalues [k] (float64, descending) of a symmetric positive semidefinite matrix, their vectors [size, k], and
    the number of products.

    ``width``: the most rows that are held. ``tolerance``: of the residuals, relative to each eigenvalue (to 1e-8 of the largest
    where it is smaller).
    """
    basis = Basis(product, stream(seed), [start / torch.linalg.vector_norm(start)])
    best, challenge = torch.zeros(k, dtype=torch.float64), 0
    while basis.products < MOST_PRODUCTS:
        basis.extend()
        m = len(basis.matrix)
        if len(basis.rows) == m:
            break
        values, columns = basis.ritz()
        if challenge and m > k:
            challenge -= 1
            missed = bool((values[:k] > best * (1 + tolerance)).any())
            if not challenge and not missed:
                break
            challenge = 0 if missed else challenge
        elif m >= k and _converged(basis.beta, values, columns, k, tolerance):
            best, challenge = values[:k], CHALLENGE
            basis.rotate(k, challenged=True)
        if len(basis.matrix) >= width:
            basis.rotate(min(k + (width - k) // 2, m - 1), challenged=False)
    basis.rotate(k, challenged=False)
    vectors = torch.stack(basis.rows[:k])
    return basis.matrix.diagonal().clamp(min=0), vectors.T, basis.products


def _converged(beta: float, values: Tensor, columns: Tensor, k: int, tolerance: float) -> bool:
    residuals = beta * columns[-1, :k].abs()
    return bool((residuals <= tolerance * values[:k].clamp(min=1e-8 * float(values[0]))).all())
