"""A tangent kernel Theta = J J^T on data: figures that the true and the frozen-gate kernel share (docs/theory.md, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pkcompiler.arguments import methods_checked
from pkcompiler.diagnostics import fail
from pkcompiler.kernel.lanczos import eigenpairs
from pkcompiler.kernel.probes import at_least
from pkcompiler.kernel.spectrum import Eigenpairs
from pkcompiler.measured import Measured, not_predicted
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.tangent.function import require_finite
from pkcompiler.tangent.jacobian import Jacobian
from pkcompiler.tangent.regression import require

SMALL, LARGE, FEW = 400, 3000, 100
"""Rows up to which the matrix is always made for its eigenpairs; is made where a sample has few outputs; and how many are few."""


@methods_checked
@methods_in_own_modes
class TangentKernel:
    """Theta = J J^T [n k, n k] of ``n`` samples and ``k`` outputs, ordered by sample, then output.

    J holds the derivatives by the entries of the parameters that require grad, at theta * mask; those that a mask drops do not
    count. ``y``: targets [n, k] or None. What needs the matrix raises ``PKC525``, with the numbers, where it does not fit into
    memory; traces, products and leading eigenpairs never need it. The matrix is made once, at the first use. ``kept``: the number
    of parameter entries that count.
    """

    def __init__(self, jacobian: Jacobian, n: int, k: int, y: Tensor | None, masks: Mapping[str, Tensor]) -> None:
        self.jacobian, self.n, self.k, self.y = jacobian, n, k, y
        dropped = sum(int((mask == 0).sum()) for name, mask in masks.items() if name in jacobian.map.theta)
        self.kept = jacobian.width - dropped
        self._kernel: Tensor | None = None
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        size = self.n * self.k
        held = "" if self.fits else ", matrix-free"
        return (
            f"{type(self).__name__}({self.n} samples x {self.k} outputs: {size} x {size}{held}, {self.jacobian.width} parameters)"
        )

    # the matrix -------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """n k."""
        return self.n * self.k

    @property
    def fits(self) -> bool:
        """Whether the matrix fits into the memory given."""
        return self.jacobian.fits

    @property
    def kernel(self) -> Tensor:
        """The matrix [n k, n k]. Raises ``PKC525`` where it does not fit, ``PKC526`` where a gradient is not finite."""
        if self._kernel is None:
            self._kernel = self.jacobian.gram()
            require_finite(self._kernel.diagonal(), "the kernel")
        return self._kernel

    def matvec(self, u: Tensor) -> Tensor:
        """Theta u [n k], without the matrix: one product with J^T and one with J. Raises ``PKC522`` for another size."""
        if u.numel() != self.size:
            message = f"Theta has {self.size} columns, and the vector has shape {tuple(u.shape)}"
            raise fail("PKC522", message, f"expected [{self.size}], or [{self.n}, {self.k}]")
        return self.jacobian.jvp(self.jacobian.vjp(u.to(self.jacobian.map.like).reshape(-1)))

    # traces and norms -------------------------------------------------------------------------------------------------

    def traces(self) -> Tensor:
        """The squared gradient norm of every sample and output [n, k], exactly."""
        diagonal = self._kernel.diagonal() if self._kernel is not None else self.jacobian.square_norms()
        return diagonal.reshape(self.n, self.k).clone()

    def trace(self) -> Measured:
        """Tr Theta = sum of ``traces()``."""
        return Measured(float(self.traces().sum()))

    def frobenius(self) -> Measured:
        """||Theta||_F, of the matrix."""
        return Measured(float(torch.linalg.matrix_norm(self.kernel)))

    def effective_rank(self) -> Measured:
        """Tr^2 / ||Theta||_F^2 (not predicted for a kernel that is zero)."""
        trace, norm = float(self.trace()), float(self.frobenius())
        return Measured((trace / norm) ** 2) if norm else not_predicted("the kernel is zero")

    def stable_rank(self) -> Measured:
        """Tr / lambda_max (not predicted for a kernel that is zero)."""
        trace, largest = float(self.trace()), self.largest_eigenvalue()
        return Measured(trace / largest) if largest else not_predicted("the kernel is zero")

    # spectrum ---------------------------------------------------------------------------------------------------------

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues [n k], descending and not below 0, and eigenvectors [n k, n k] in columns."""
        if self._spectrum is None:
            values, vectors = torch.linalg.eigh(self.kernel)
            self._spectrum = values.flip(0).clamp(min=0), vectors.flip(1)
        return self._spectrum

    def eigenvalues(self, k: int = 10) -> Tensor:
        """The k largest eigenvalues [k], descending (all, where there are fewer)."""
        return self.eigenpairs(k).values

    def eigenpairs(self, k: int = 10) -> Eigenpairs:
        """The k largest eigenvalues with vectors and relative residuals.

        Of the matrix where it is small or was made already (``products`` is 0 then), else matrix-free: then at most n k - 1 pairs
        can be had (``PKC525`` otherwise).
        """
        k = min(at_least(1, "k", k), self.size)
        if self._written_out(k):
            values, vectors = (self.spectrum()[0][:k], self.spectrum()[1][:, :k])
            return Eigenpairs(values, vectors, _residuals(self.kernel @ vectors, values, vectors), 0, 0)
        if k == self.size:
            self.jacobian.require_gram()
        return self._matrix_free(k)

    def _written_out(self, k: int) -> bool:
        """Whether k eigenpairs are taken of the matrix: where it is there, or small, or has few outputs to a sample."""
        if not self.fits or self._kernel is not None:
            return self.fits
        return self.size <= SMALL or (self.k <= FEW and self.size <= LARGE) or 20 * k > self.size

    def _matrix_free(self, k: int) -> Eigenpairs:
        like = self.jacobian.map.like
        start = torch.randn(self.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
        tolerance = 1e-10 if like.dtype == torch.float64 else 1e-5
        values, vectors, count = eigenpairs(self.matvec, start, k, width=min(self.size, 8 * k + 20), tolerance=tolerance)
        values = values.to(like)
        images = torch.stack([self.matvec(u) for u in vectors.unbind(1)], 1)
        return Eigenpairs(values, vectors, _residuals(images, values, vectors), 0, count + k)

    def largest_eigenvalue(self) -> float:
        """lambda_max."""
        return float(self.eigenvalues(1)[0])

    def condition_number(self) -> Measured:
        """lambda_max / lambda_min; infinite where the rank is below n k, and the note says it.

        Eigenvalues below n k eps lambda_max count as 0 (eps: the spacing of the precision). Where the matrix does not fit, only
        the count of parameters can tell; else "not predicted": the smallest eigenvalue does not converge matrix-free.
        """
        if self.kept < self.size:
            return Measured(math.inf, note=f"rank deficient: {self.kept} parameters are fewer than {self.size} rows")
        if not self.fits:
            return not_predicted("the matrix does not fit into memory, and its smallest eigenvalue does not converge without it")
        values = self.spectrum()[0]
        floor = self.size * torch.finfo(values.dtype).eps * float(values[0])
        rank = int((values > floor).sum())
        if rank < self.size:
            return Measured(math.inf, note=f"rank deficient: rank {rank} of {self.size}, up to rounding")
        return Measured(float(values[0] / values[-1]))

    def largest_stable_step(self) -> Measured:
        """2 / lambda_max: gradient descent on 1/2 sum r^2 is stable below it (times n for the mean over n samples)."""
        largest = self.largest_eigenvalue()
        if not largest:
            return Measured(math.inf, note="the kernel is zero: nothing moves")
        return Measured(2 / largest, note="for the loss 1/2 sum r^2; times n for its mean over n samples")

    # targets ----------------------------------------------------------------------------------------------------------

    def alignment(self, *, centred: bool = False) -> Measured:
        """Kernel-target alignment <Theta, y y^T>_F / (||Theta||_F ||y y^T||_F), y the targets as one vector [n k].

        Between 0 and 1; 1 where Theta is a multiple of y y^T (Cristianini, Shawe-Taylor, Elisseeff & Kandola 2001, "On
        Kernel-Target Alignment"). Classes are one-hot. ``centred``: of H Theta H and H y, H taking from every output its mean over
        the samples (Cortes, Mohri & Rostamizadeh 2012, "Algorithms for Learning Kernels Based on Centered Alignment").
        Raises ``PKC527`` without targets, ``PKC525`` where the matrix does not fit.
        """
        y, matrix = require(self.y, "the alignment"), self.kernel
        if centred:
            y = y - y.mean(0, keepdim=True)
            blocks = matrix.reshape(self.n, self.k, self.n, self.k)
            blocks = blocks - blocks.mean(0, keepdim=True)
            matrix = (blocks - blocks.mean(2, keepdim=True)).reshape(self.size, self.size)
        y = y.reshape(-1)
        scale = float(torch.linalg.matrix_norm(matrix) * y.square().sum())
        if not scale:
            constant = "the same for every sample, " if centred else ""
            return not_predicted(f"the kernel or the targets are {constant}zero, and a ratio of zeros has no value")
        return Measured(float(y @ matrix @ y) / scale)


def _residuals(images: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """||Theta u - lambda u|| / lambda (by the smallest positive number where lambda is 0)."""
    errors = torch.linalg.vector_norm(images - vectors * values, dim=0)
    return errors / values.clamp(min=torch.finfo(values.dtype).tiny)
