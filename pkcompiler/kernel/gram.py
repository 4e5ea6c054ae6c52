"""The Path Kernel as an operator on parameters (docs/theory.md, section 3).

    G = J^T J = diag(dR_2/dw) + diag(theta) H diag(theta),     w = theta^2, H = Hessian of R_2 in w

shares its nonzero spectrum with Pi = J J^T (paths x paths); paths are never enumerated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.arguments import methods_checked
from pkcompiler.diagnostics import fail
from pkcompiler.ir.graphs import crossed_twice
from pkcompiler.ir.types import PathGraph
from pkcompiler.kernel.convolution import TwiceSweep
from pkcompiler.kernel.hessian import Hessian
from pkcompiler.kernel.hessian_diagonal import Squares, second_derivatives
from pkcompiler.kernel.operator import measured
from pkcompiler.kernel.outputs import traces_by_output
from pkcompiler.kernel.quadrature import Density, lanczos_density
from pkcompiler.kernel.spectrum import MEMORY, TOLERANCE, Eigenpairs, effective_rank, frobenius, leading, stable_rank
from pkcompiler.measured import Measured, Status
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.paths.functional import is_approximate, static_batch
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep

Vector = Tensor | Mapping[str, Tensor]


@methods_checked
@methods_in_own_modes
class PathKernel:
    """G as a linear operator on the parameters, flat in the order of ``graph.parameters``, or as a dict by name.

    Every number it returns is times ``2**exponent`` (0 unless ``dtype`` would overflow). ``status``: ``exact`` up to rounding, or
    ``approximate`` (through a normalisation, whose centring is dropped). Sweeps run at the first use, and their graph is kept as
    long as the kernel lives.
    """

    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        chosen: Settings,
        *,
        masks: Mapping[str, Tensor],
        device: torch.device,
        input: Mapping[str, Tensor] | None = None,
        output: Any = "ones",
        wanted: Sequence[str] | None = None,
    ) -> None:
        self.graph, self.settings, self.device, self.dtype = graph, chosen, device, chosen.dtype
        self.names = tuple(s.name for s in graph.parameters if wanted is None or s.name in wanted)
        self.status: Status = "approximate" if is_approximate(graph, chosen) else "exact"
        self._tensors, self._given, self._input, self._output = tensors, masks, input, output
        if missing := [n for n in self.names if n not in tensors]:
            raise fail("PKC211", f"there is no tensor for the parameter '{missing[0]}'", "pkcompiler.path_kernel(model, x)")
        self.theta = {n: self._cast(tensors[n]) for n in self.names}
        self.masks = {n: self._cast(masks[n]) for n in self.names if n in masks}
        self.theta |= {n: self.theta[n] * mask for n, mask in self.masks.items()}
        self.size = sum(t.numel() for t in self.theta.values())
        self._hessian: Hessian | None = None
        self._second: Squares | None = None

    def __repr__(self) -> str:
        kept = "" if self.kept == self.size else f", {self.kept} kept"
        return f"PathKernel({self.graph.name}: {self.size} x {self.size}{kept}, {len(self.names)} parameters, {self.status})"

    def _repr_html_(self) -> str:
        """What is known before any sweep."""
        from pkcompiler.markup import fragment

        kept = f"{self.kept:,} kept" if self.kept < self.size else "nothing masked"
        figures = [
            ("rows and columns", f"{self.size:,}", kept),
            ("parameters", f"{len(self.names):,}", ""),
            ("products", self.status, ""),
        ]
        return fragment(self.graph.name, "Path Kernel, an operator on parameters", figures)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(device=self.device, dtype=self.dtype)

    @property
    def kept(self) -> int:
        """The number of entries that the masks keep."""
        return self.size - sum(int((mask == 0).sum()) for mask in self.masks.values())

    @property
    def hessian(self) -> Hessian:
        """R_2, its gradient and products with its Hessian; made at the first use."""
        if self._hessian is None:
            self._hessian = Hessian(*self.prepared(), self.names, self._output)
        return self._hessian

    def prepared(self) -> tuple[Sweep, dict[str, Tensor], dict[str, Tensor]]:
        """The sweep of R_2, w times the masks, and the sources."""
        batch = static_batch(self.graph)
        sweep = TwiceSweep(self.graph, self._tensors, self.settings, batch=batch, device=self.device)
        sources = unit_sources(self.graph, batch, self.dtype) | dict(self._input or {})
        return sweep, sweep.edges(self._given), sources

    @property
    def exponent(self) -> int:
        """Every number of the kernel is times ``2**exponent``; 0 unless ``dtype`` would overflow."""
        return self.hessian.exponent

    # numbers ----------------------------------------------------------------------------------------------------------

    def value(self) -> Measured:
        """R_2, the squared path L2 norm."""
        return measured(self, float(self.hessian.value))

    def tau(self) -> dict[str, Tensor]:
        """tau_i = dR_2/dw_i by parameter; it exists where a mask is 0, too."""
        return dict(self.hessian.tau)

    def diagonal(self) -> dict[str, Tensor]:
        """G_ii = tau_i + w_i H_ii by parameter, 0 where a mask drops.

        H_ii is 0 unless a path crosses i twice; for those it is computed entry by entry. Raises ``PKC521`` where those are too
        many; ``trace`` estimates then.
        """
        second = self._squares(exact=True).entries
        out = {n: self._kept(n, t) for n, t in self.tau().items()}
        return out | {n: out[n] + self.theta[n].square() * h for n, h in second.items()}

    def trace(self) -> Measured:
        """Tr Pi = Tr G over kept parameters; estimated only where too many entries can be crossed twice by a path."""
        tau = float(sum(self._kept(n, t).sum() for n, t in self.tau().items()))
        second = self._squares(exact=False)
        return measured(self, tau + second.total, error=second.error, note=second.note)

    def traces_by_output(self) -> Tensor:
        """h_k, the part of Tr G on paths to output k, for every output at once: [*output shape], exact, at ``exponent``.

        Raises ``PKC521`` where too many entries can be crossed twice by a path.
        """
        return traces_by_output(self, self._twice)

    def frobenius(self, samples: int = 32, seed: int = 0) -> Measured:
        """||G||_F, exact for small kernels, else the root of the mean of ||G z||^2 over random signs z."""
        return frobenius(self, samples, seed)

    def effective_rank(self, samples: int = 32, seed: int = 0) -> Measured:
        """Tr^2 / ||G||_F^2: the number of equal eigenvalues that would give the same trace and norm."""
        return effective_rank(self, samples, seed)

    def stable_rank(self) -> Measured:
        """Tr / lambda_max."""
        return stable_rank(self)

    # products ---------------------------------------------------------------------------------------------------------

    def matvec(self, u: Vector) -> Any:
        """G u in the form of ``u``: a flat tensor [size], or a dict by name (a missing name is 0)."""
        parts = self.split(u) if isinstance(u, Tensor) else self._named(u)
        second = self.hessian.product({n: self.theta[n] * t for n, t in parts.items()})
        result = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        out = self.split(result)
        for n, part in out.items():
            if n in parts:
                torch.mul(self.hessian.tau[n], parts[n], out=part)
            if n in self.masks:
                part.mul_(self.masks[n])
            if n in second:
                part.addcmul_(self.theta[n], second.pop(n))
        return result if isinstance(u, Tensor) else out

    def matmat(self, u: Tensor) -> Tensor:
        """G U for U [size, m], column by column. Raises ``PKC522`` for another shape."""
        if u.dim() != 2 or u.shape[0] != self.size:
            raise fail("PKC522", f"G has {self.size} columns, and the block has shape {tuple(u.shape)}", "expected [size, m]")
        return torch.stack([self.matvec(column) for column in u.unbind(1)], 1) if u.shape[1] else u.clone()

    def dense(self) -> Tensor:
        """G as a matrix [size, size]."""
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        matrix = self.matmat(eye)
        return (matrix + matrix.T) / 2

    def linear_operator(self) -> Any:
        """G as a ``scipy.sparse.linalg.LinearOperator`` [size, size] on NumPy vectors (symmetric)."""
        from scipy.sparse.linalg import LinearOperator

        def product(u: np.ndarray) -> np.ndarray:
            vector = torch.from_numpy(np.ascontiguousarray(u.reshape(-1))).to(self.device, self.dtype)
            result: np.ndarray = self.matvec(vector).cpu().numpy()
            return result

        kind = np.float64 if self.dtype == torch.float64 else np.float32
        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=kind)

    # spectrum ---------------------------------------------------------------------------------------------------------

    def eigenvalues(self, k: int = 10) -> Tensor:
        """The k largest eigenvalues [k], descending; those of Pi, where they are not zero."""
        return self.eigenpairs(k).values

    def eigenpairs(self, k: int = 10, *, tolerance: float = TOLERANCE, memory: int = MEMORY) -> Eigenpairs:
        """The k largest eigenvalues with vectors and relative residuals, recomputed in the end.

        ``tolerance``: of the relative residuals (float64; in float32 they end near 1e-6). ``memory``: bytes for the basis; at
        least k + 8 vectors are held, and with more fewer products are needed.
        """
        return leading(self, k, tolerance, memory)

    def density(self, n: int = 30, probes: int = 8, seed: int = 0) -> Density:
        """The spectral density by stochastic Lanczos quadrature with ``n`` nodes a probe."""
        return lanczos_density(self, n, probes, seed)

    def restricted(self, names: str | Sequence[str]) -> PathKernel:
        """The principal submatrix of a group of parameters: names, or globs such as ``layer1.*``.

        Raises ``PKC523`` where one fits no parameter.
        """
        globs = [names] if isinstance(names, str) else list(names)
        missing = [g for g in globs if not any(n == g or fnmatchcase(n, g) for n in self.names)]
        if missing or not globs:
            shown = ", ".join(repr(g) for g in missing) or "an empty list"
            raise fail("PKC523", f"no parameter of the kernel fits {shown}", f"it has {', '.join(self.names[:8])}, ...")
        kept = [n for n in self.names if any(n == g or fnmatchcase(n, g) for g in globs)]
        return self._with(self._output, kept)

    def _with(self, output: Any, wanted: Sequence[str]) -> PathKernel:
        """The kernel of other outputs or parameters."""
        given: dict[str, Any] = {"masks": self._given, "device": self.device, "input": self._input}
        return type(self)(self.graph, self._tensors, self.settings, **given, output=output, wanted=wanted)

    # forms ------------------------------------------------------------------------------------------------------------

    def split(self, u: Tensor) -> dict[str, Tensor]:
        """A flat vector [size] by parameter name, in the parameters' shapes. Raises ``PKC522`` for another shape."""
        if u.dim() != 1 or u.shape[0] != self.size:
            raise fail("PKC522", f"G has {self.size} columns, and the vector has shape {tuple(u.shape)}", "expected [size]")
        pieces = self._cast(u).split([t.numel() for t in self.theta.values()])
        return {n: piece.reshape(t.shape) for (n, t), piece in zip(self.theta.items(), pieces, strict=True)}

    def _named(self, u: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wrong = [n for n, t in u.items() if n not in self.theta or t.shape != self.theta[n].shape]
        if wrong:
            raise fail("PKC522", f"not a parameter of the kernel, or not in its shape: {', '.join(wrong)}", "see .theta")
        return {n: self._cast(t) for n, t in u.items()}

    def flatten(self, parts: Mapping[str, Tensor]) -> Tensor:
        """A flat vector [size] from tensors by name. Raises ``PKC522`` where one is missing."""
        if missing := [n for n in self.names if n not in parts]:
            raise fail("PKC522", f"there is no tensor for '{missing[0]}'", "give one for each name of .names")
        return torch.cat([parts[n].reshape(-1) for n in self.names])

    def _kept(self, name: str, tensor: Tensor) -> Tensor:
        mask = self.masks.get(name)
        return tensor if mask is None else tensor * mask

    @property
    def _twice(self) -> tuple[str, ...]:
        """The parameters with entries that a path can cross twice: the others are certain to have H_ii = 0."""
        return tuple(n for n in crossed_twice(self.graph) if n in self.names)

    def _squares(self, exact: bool) -> Squares:
        if self._second is None or (exact and self._second.error is not None):
            self._second = second_derivatives(self, self._twice, exact)
        return self._second
