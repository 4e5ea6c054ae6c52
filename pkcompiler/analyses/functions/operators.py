"""The operators that an analysis reads: one reading of each figure for the Path Kernel and for kernels on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkcompiler.analyses.values import Distribution, smoothed
from pkcompiler.kernel.gram import PathKernel
from pkcompiler.measured import Measured, Status, not_predicted, scaled_float, worst
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.tangent.tangent import TangentKernel

DATA = frozenset({"sample", "output"})
NODES = 30
"""Nodes of a probe of the density."""


@dataclass(slots=True)
class Operator:
    """``kernel``, each of whose figures is computed once. ``beside``: of a frozen-gate kernel the true one."""

    kernel: Any
    beside: Any = None
    _trace: Measured | None = None
    _frobenius: Measured | None = None
    _eigenvalues: Tensor | None = None

    @property
    def status(self) -> Status:
        """That of the Path Kernel; kernels on data are exact."""
        return self.kernel.status if isinstance(self.kernel, PathKernel) else "exact"

    @property
    def exponent(self) -> int:
        """Every figure of the kernel is times ``2**exponent``: the Path Kernel's, 0 for kernels on data."""
        return self.kernel.exponent if isinstance(self.kernel, PathKernel) else 0

    def diagonal(self) -> Term:
        """The diagonal, with the axes that the operator acts on."""
        if isinstance(self.kernel, PathKernel):
            return Term(PARAM, self.kernel.diagonal(), self.exponent)
        return Term(DATA, self.kernel.traces())

    def eigenvalues(self, k: int) -> Tensor:
        """The k largest, descending (all, where there are fewer)."""
        if self._eigenvalues is None or len(self._eigenvalues) < min(k, self.kernel.size):
            self._eigenvalues = self.kernel.eigenvalues(min(k, self.kernel.size))
        return self._eigenvalues[:k]

    def trace(self) -> Measured:
        """The trace, computed once."""
        if self._trace is None:
            self._trace = self.kernel.trace()
        return self._trace

    def frobenius(self) -> Measured:
        """The Frobenius norm, computed once."""
        if self._frobenius is None:
            self._frobenius = self.kernel.frobenius()
        return self._frobenius

    def effective_rank(self) -> Measured:
        """The trace squared by the Frobenius norm squared."""
        return self._ratio(self.frobenius, 2)

    def stable_rank(self) -> Measured:
        """The trace by the largest eigenvalue."""
        return self._ratio(lambda: Measured(float(self.eigenvalues(1)[0]), self.exponent, status=self.status), 1)

    def _ratio(self, below: Callable[[], Measured], power: int) -> Measured:
        """A power of the trace by another figure."""
        trace = self.trace()
        if not trace.mantissa:
            return not_predicted("the operator is zero")
        beside = below()
        ratio = scaled_float((trace.mantissa / beside.mantissa) ** power, power * (trace.exponent - beside.exponent))
        errors = [power * ratio * m.error / m.mantissa for m in (trace, beside) if m.error is not None]
        error = sum(e**2 for e in errors) ** 0.5 if errors else None
        return Measured(ratio, 0, error, worst(trace.status, beside.status), trace.note)

    def density(self, seed: int) -> Distribution:
        """Of the Path Kernel by random probes; of a kernel on data all eigenvalues."""
        if isinstance(self.kernel, TangentKernel):
            return _whole(self.kernel)
        found = self.kernel.density(NODES, seed=seed)
        return Distribution(
            found.nodes,
            found.weights,
            found.exponent,
            found.grid,
            found.density,
            found.error if found.probes else None,
            found.zero,
            found.status,
            "Lanczos quadrature" if found.probes else "",
        )


def _whole(kernel: TangentKernel) -> Distribution:
    values = kernel.spectrum()[0].double().cpu()
    grid, density = smoothed(values)
    weights = torch.full_like(values, 1 / len(values))
    zero = Measured(float((values <= 1e-12 * values.max()).double().mean()))
    return Distribution(values, weights, 0, grid, density, None, zero, "exact")
