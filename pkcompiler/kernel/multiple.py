"""Leading eigenpairs of a symmetric operator, eigenvalues of any multiplicity included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

Vector = NDArray[np.floating]
Product = Callable[[Vector], Vector]

APART = 1e-8
"""Part of the largest eigenvalue by which another must exceed the smallest one found to count as missed."""


def leading_pairs(product: Product, size: int, k: int, dtype: type[np.floating]) -> tuple[Vector, Vector, int]:
    """The k < size largest eigenvalues [k], descending, eigenvectors [size, k] in columns, and the number of products taken.

    By implicitly restarted Lanczos (scipy's ``eigsh``, ARPACK) from fixed vectors. A Krylov space holds one vector of every
    eigenspace, so copies of a multiple eigenvalue are found by rounding or not at all (tangent kernels have them: those of a linear
    layer repeat once per output). Hence what was found is projected away, and the largest eigenvalue of the rest sought, until that
    is no larger than the smallest one found. Raises scipy's ``ArpackNoConvergence``.
    """
    count = 0
    tolerance = 1e-10 if dtype is np.float64 else 1e-5

    def counted(u: Vector) -> Vector:
        nonlocal count
        count += 1
        return product(u.reshape(-1))

    def lanczos(function: Product, wanted: int, seed: int) -> tuple[Vector, Vector]:
        operator = LinearOperator((size, size), matvec=function, dtype=dtype)
        start = np.random.default_rng(seed).standard_normal(size).astype(dtype)
        found, basis = eigsh(operator, k=wanted, v0=start, which="LA", tol=tolerance)
        return _sorted(found, basis)

    values, vectors = lanczos(counted, k, 0)
    for seed in range(1, k + 1):
        held, basis = values.copy(), vectors.copy()

        def rest(u: Vector, held: Vector = held, basis: Vector = basis) -> Vector:
            u = u.reshape(-1)
            return counted(u) - basis @ (held * (basis.T @ u))

        missed, direction = lanczos(rest, 1, seed)
        if missed[0] <= values[-1] + max(APART, 10 * tolerance) * abs(values[0]):
            break
        both = np.linalg.qr(np.concatenate([vectors, direction], 1))[0]
        values, vectors = _sorted(np.concatenate([values, missed]), _aligned(both, vectors, direction))
        values, vectors = values[:k], vectors[:, :k]
    return values, vectors, count


def _aligned(orthonormal: Vector, vectors: Vector, direction: Vector) -> Vector:
    """The orthonormal columns with the signs of those that they came from."""
    signs = np.sign((orthonormal * np.concatenate([vectors, direction], 1)).sum(0))
    return orthonormal * np.where(signs == 0, 1, signs)


def _sorted(values: Vector, vectors: Vector) -> tuple[Vector, Vector]:
    order = np.argsort(-values, kind="stable")
    return values[order], np.ascontiguousarray(vectors[:, order])
