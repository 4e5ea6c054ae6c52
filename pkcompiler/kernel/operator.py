"""What functions of a kernel read of it: a symmetric operator on a flat vector of parameters, and what its numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from pkcompiler.kernel.hessian import Hessian
from pkcompiler.measured import Measured, Status, worst
from pkcompiler.paths.sweep import Sweep


class Operator(Protocol):
    """G [size, size], symmetric; every number is times ``2**exponent``. ``status``: what its products are."""

    status: Status
    dtype: torch.dtype
    device: torch.device
    size: int
    theta: dict[str, Tensor]

    @property
    def exponent(self) -> int:
        """The exponent of every number."""

    def matvec(self, u: Any) -> Any:
        """G u."""

    def dense(self) -> Tensor:
        """G as a matrix."""

    def trace(self) -> Measured:
        """The sum of the diagonal."""

    def flatten(self, parts: Mapping[str, Tensor]) -> Tensor:
        """A flat vector [size] from tensors by name."""


class Differentiated(Operator, Protocol):
    """An operator made of a sweep that is differentiated twice. ``names``: its parameters; ``masks``: of some of them."""

    names: tuple[str, ...]
    masks: dict[str, Tensor]

    @property
    def hessian(self) -> Hessian:
        """R_2 with its gradient and products with its Hessian."""

    def prepared(self) -> tuple[Sweep, dict[str, Tensor], dict[str, Tensor]]:
        """The sweep of R_2, w times the masks, and the sources."""


def measured(kernel: Operator, mantissa: float, *, error: float | None = None, note: str = "") -> Measured:
    """A figure of a kernel: what the kernel's products are, or ``estimated`` with its error."""
    status = kernel.status if error is None else worst(kernel.status, "estimated")
    return Measured(mantissa, kernel.exponent, error, status, note)
