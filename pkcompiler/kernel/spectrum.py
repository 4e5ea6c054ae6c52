"""Eigenvalues, norms and density of a Path Kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.kernel.lanczos import eigenpairs
from pkcompiler.kernel.operator import Operator, measured
from pkcompiler.kernel.probes import at_least, signs, stream
from pkcompiler.measured import Measured, not_predicted, worst
from pkcompiler.paths.scaled import numbers

DENSE = 400
"""Sizes up to which the matrix is written out."""

TOLERANCE, MEMORY = 5e-7, 2 << 30
"""Of the relative residuals of eigenpairs; the bytes of their basis."""


@dataclass(frozen=True, slots=True, eq=False)
class Eigenpairs:
    """``values`` [k] descending and ``residuals`` [k] = ||G u - lambda u|| / lambda; ``vectors`` [size, k] of norm 1.

    Of a Path Kernel values and residuals are float64 on the CPU, else they are in the kernel's precision and on its device.

    Values are times ``2**exponent``. ``products``: the number of products with G that it took (those of the residuals included).
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    exponent: int
    products: int


def leading(kernel: Operator, k: int, tolerance: float = TOLERANCE, memory: int = MEMORY) -> Eigenpairs:
    """The k leading eigenpairs: of the written-out matrix where it is small, by Lanczos from the parameters otherwise.

    In the frame of the parameters' signs G has no negative entry, so its first vector is positive there, as theta is.
    Raises ``PKC525`` where more than half of the pairs are wanted, and the matrix does not fit into ``memory`` bytes.
    """
    k = min(at_least(1, "k", k), kernel.size)
    if kernel.size > DENSE and k > kernel.size // 2 and 3 * kernel.size**2 * kernel.dtype.itemsize > memory:
        size = 3 * kernel.size**2 * kernel.dtype.itemsize / 2**30
        raise fail(
            "PKC525",
            f"{k:,} eigenpairs of {kernel.size:,} need the whole matrix, {size:.3g} GB, and memory is {memory / 2**30:.3g} GB",
            f"ask for at most {kernel.size // 2:,}, for density(n), or give more memory=",
        )
    if kernel.size <= DENSE or k > kernel.size // 2:
        values, vectors = torch.linalg.eigh(kernel.dense())
        return _checked(kernel, values.flip(0)[:k].clamp(min=0), vectors.flip(1)[:, :k], kernel.size)
    start = kernel.flatten(kernel.theta)
    start = start if bool(start.any()) else torch.ones_like(start)
    held = memory // (kernel.size * start.element_size())
    width = min(kernel.size, max(k + 8, min(held, 8 * k + 20)))
    values, vectors, products = eigenpairs(kernel.matvec, start, k, width=width, tolerance=tolerance)
    return _checked(kernel, values, vectors, products)


def _checked(kernel: Operator, values: Tensor, vectors: Tensor, products: int) -> Eigenpairs:
    """With the residuals recomputed: relative to lambda, or to 1e-8 of the largest where lambda is smaller."""
    floor = max(1e-8 * float(values[0]), torch.finfo(torch.float64).tiny) if len(values) else 1.0
    plain = values.double().cpu()
    rests = (kernel.matvec(u).sub_(u, alpha=value) for value, u in zip(plain.tolist(), vectors.unbind(1), strict=True))
    sizes = torch.tensor(numbers(torch.linalg.vector_norm(rest) for rest in rests), dtype=torch.float64)
    return Eigenpairs(plain, vectors, sizes / plain.clamp(min=floor), kernel.exponent, products + len(values))


def frobenius(kernel: Operator, samples: int, seed: int) -> Measured:
    """||G||_F: see ``PathKernel.frobenius``."""
    samples = at_least(2, "samples", samples)
    if kernel.size <= DENSE:
        return measured(kernel, float(torch.linalg.matrix_norm(kernel.dense())))
    generator = stream(seed)
    like = torch.empty(kernel.size, dtype=kernel.dtype, device=kernel.device)
    squares = numbers(kernel.matvec(signs(like, generator)).square().sum() for _ in range(samples))
    values = torch.tensor(squares, dtype=torch.float64)
    norm = math.sqrt(float(values.mean()))
    error = float(values.std()) / math.sqrt(samples) / (2 * norm) if norm else 0.0
    return measured(kernel, norm, error=error)


def effective_rank(kernel: Operator, samples: int, seed: int) -> Measured:
    """Tr^2 / ||G||_F^2; not predicted where G is zero."""
    trace, norm = kernel.trace(), frobenius(kernel, samples, seed)
    if not norm.mantissa:
        return not_predicted("the Path Kernel is zero: no path is left")
    ratio = (trace.mantissa / norm.mantissa) ** 2
    errors = [2 * ratio * m.error / abs(m.mantissa) for m in (trace, norm) if m.error is not None]
    return Measured(ratio, 0, math.hypot(*errors) if errors else None, worst(trace.status, norm.status), trace.note)


def stable_rank(kernel: Operator) -> Measured:
    """Tr / lambda_max; not predicted where G is zero."""
    trace, largest = kernel.trace(), float(leading(kernel, 1).values[0])
    if not largest:
        return not_predicted("the Path Kernel is zero: no path is left")
    error = None if trace.error is None else trace.error / largest
    return Measured(trace.mantissa / largest, 0, error, trace.status, trace.note)
