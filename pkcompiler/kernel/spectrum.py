"""Eigenvalues, norms and density of a Path Kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pkcompiler.analysis.measured import Measured, Status, not_predicted

if TYPE_CHECKING:
    from pkcompiler.kernel.gram import PathKernel

DENSE = 400
"""Sizes up to which the matrix is written out."""


@dataclass(frozen=True, slots=True, eq=False)
class Eigenpairs:
    """``values`` [k] descending and ``residuals`` [k] = ||G u - lambda u|| / lambda; ``vectors`` [size, k] of norm 1.

    Values are times ``2**exponent``. ``products``: the number of products with G that it took (those of the residuals included).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    exponent: int
    products: int


def leading(kernel: PathKernel, k: int) -> Eigenpairs:
    """The k leading eigenpairs: of the written-out matrix where it is small, by scipy's ``eigsh`` (ARPACK) otherwise."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    k = min(k, kernel.size)
    if kernel.size <= DENSE or k > kernel.size // 2:
        values, vectors = torch.linalg.eigh(kernel.dense())
        return _checked(kernel, values.flip(0)[:k], vectors.flip(1)[:, :k], kernel.size)
    count = 0
    operator = kernel.linear_operator()

    def product(u: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        result: np.ndarray = operator.matvec(u)
        return result

    counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)
    start = kernel.flatten(kernel.theta).cpu().numpy()
    found, basis = eigsh(counted, k=k, v0=start, which="LA", tol=1e-8, ncv=min(kernel.size - 1, max(2 * k + 1, 20)))
    order = np.argsort(-found, kind="stable")
    values, vectors = torch.from_numpy(found[order]), torch.from_numpy(np.ascontiguousarray(basis[:, order]))
    return _checked(kernel, values.to(kernel.device), vectors.to(kernel.device), count)


def _checked(kernel: PathKernel, values: Tensor, vectors: Tensor, products: int) -> Eigenpairs:
    residuals = []
    for value, vector in zip(values, vectors.unbind(1), strict=True):
        residuals.append(torch.linalg.vector_norm(kernel.matvec(vector) - value * vector) / value)
    return Eigenpairs(values, vectors, torch.stack(residuals), kernel.exponent, products + len(values))


def frobenius(kernel: PathKernel, samples: int, seed: int) -> Measured:
    """||G||_F: see ``PathKernel.frobenius``."""
    if kernel.size <= DENSE:
        return kernel._measured(float(torch.linalg.matrix_norm(kernel.dense())))
    generator = torch.Generator().manual_seed(seed)
    squares = []
    for _ in range(samples):
        z = torch.randint(0, 2, (kernel.size,), generator=generator).to(kernel.device, kernel.dtype) * 2 - 1
        squares.append(float(kernel.matvec(z).square().sum()))
    values = torch.tensor(squares, dtype=torch.float64)
    norm = math.sqrt(float(values.mean()))
    error = float(values.std()) / math.sqrt(samples) / (2 * norm) if norm else 0.0
    return kernel._measured(norm, error=error)


def effective_rank(kernel: PathKernel, samples: int, seed: int) -> Measured:
    """Tr^2 / ||G||_F^2; not predicted where G is zero."""
    trace, norm = kernel.trace(), frobenius(kernel, samples, seed)
    if not norm.mantissa:
        return not_predicted("the Path Kernel is zero: no path is left")
    ratio = (trace.mantissa / norm.mantissa) ** 2
    errors = [2 * ratio * m.error / abs(m.mantissa) for m in (trace, norm) if m.error is not None]
    status: Status = "estimated" if errors else kernel.status
    return Measured(ratio, 0, math.hypot(*errors) if errors else None, status)


def stable_rank(kernel: PathKernel) -> Measured:
    """Tr / lambda_max; not predicted where G is zero."""
    trace, largest = kernel.trace(), float(kernel.eigenvalues(1)[0])
    if not largest:
        return not_predicted("the Path Kernel is zero: no path is left")
    error = None if trace.error is None else trace.error / largest
    return Measured(trace.mantissa / largest, 0, error, kernel.status if error is None else "estimated")
