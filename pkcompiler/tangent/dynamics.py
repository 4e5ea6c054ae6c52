"""``dynamics``: how the squared loss falls under gradient descent, predicted by the NTK (docs/theory.md, section 3).

While the network stays near its linearisation at theta_0, the residual r = f - y of the loss c sum r^2 obeys

    gradient flow     r(t) = exp(-2 c lr Theta t) r(0)
    discrete steps    r_t  = (I - 2 c lr Theta)^t r(0)

with Theta the NTK on data at theta_0 (Jacot, Gabriel & Hongler 2018; Lee et al. 2019, "Wide Neural Networks of Any Depth Evolve as
Linear Models Under Gradient Descent").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.measured import Measured, Status
from pkcompiler.modes import in_own_modes
from pkcompiler.tangent.descent import descend
from pkcompiler.tangent.jacobian import MEMORY
from pkcompiler.tangent.ntk import NTK, FrozenKernel, ntk
from pkcompiler.tangent.regression import require

REDUCTIONS = ("sum", "mean", "torch")


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    """Losses after 0, 1, ..., ``steps`` steps, float64 tensors [steps + 1]; everything is on the CPU.

    ``predicted_steps``: of discrete steps. ``predicted_flow``: of gradient flow at the same times (None where it was not asked for,
    or the kernel's matrix does not fit). ``trained``: of the network itself, with ``deviation`` = |predicted_steps - trained| /
    trained; None without ``verify``; infinite from where training overflows. ``eigenvalues`` [n k] descending and ``shares`` [n k]:
    the part of the loss at 0 that lies along each eigenvector (None matrix-free). ``largest_stable_step``: the learning rate below
    which descent is stable, for this loss. ``diverges``: whether ``lr`` exceeds it. ``status``: ``approximate``, the linearisation
    at the start (for a model that is linear in its parameters that is no approximation).
    """

    times: Tensor
    predicted_flow: Tensor | None
    predicted_steps: Tensor
    trained: Tensor | None
    deviation: Tensor | None
    eigenvalues: Tensor | None
    shares: Tensor | None
    largest_stable_step: Measured
    diverges: bool
    lr: float
    reduction: str
    status: Status
    note: str

    def __repr__(self) -> str:
        ends = f"{float(self.predicted_steps[0]):.4g} -> {float(self.predicted_steps[-1]):.4g}"
        trained = "" if self.trained is None else f", trained {float(self.trained[-1]):.4g}"
        return f"Dynamics({len(self.times) - 1} steps, loss {ends}{trained}{', diverges' if self.diverges else ''})"


@checked
@in_own_modes
def dynamics(
    model: nn.Module,
    data: Any,
    *,
    lr: float,
    steps: int,
    loss: str = "mse",
    reduction: str = "sum",
    masks: Mapping[str, Tensor] | None = None,
    verify: bool = False,
    flow: bool = True,
    example_inputs: Any = None,
    dtype: torch.dtype = torch.float64,
    memory: int = MEMORY,
    kernel: NTK | FrozenKernel | None = None,
) -> Dynamics:
    """The loss curve of full-batch gradient descent in evaluation mode, by the dynamics linearised at the model's weights.

    ``loss``: ``mse`` alone, c sum r^2 over samples and outputs; ``reduction``: ``sum`` (c = 1/2), ``mean`` (c = 1/2n, n samples) or
    ``torch`` (c = 1/nk, that of ``torch.nn.functional.mse_loss``). Class targets are one-hot. ``verify`` also trains a copy by
    plain gradient descent for the same steps, masked entries held at 0. ``kernel``: the NTK of the same model, data and masks,
    where there is one (or its frozen-gate kernel, which the note says). Where its matrix does not fit, discrete steps are taken by
    products with it. Raises ``PKC528`` for arguments that do not fit, ``PKC527`` without targets, and what
    :func:`~pkcompiler.tangent.ntk.ntk` raises.
    """
    raise_all(_wrong_arguments(lr, steps, loss, reduction))
    theta = kernel or ntk(model, data, masks, example_inputs=example_inputs, dtype=dtype, memory=memory)
    y = require(theta.y, "the loss")
    residual = theta.jacobian.values() - y.reshape(-1)
    c = {"sum": 0.5, "mean": 0.5 / theta.n, "torch": 1 / theta.size}[reduction]
    curves = _decomposed(theta, residual, c, lr, steps) if theta.fits else _stepwise(theta, residual, c, lr, steps)
    times, discrete, continuous, values, shares = curves
    stable = _stable_step(theta, c)
    trained = None
    if verify:
        trained = torch.tensor(descend(theta.network, y, c, lr, steps), dtype=torch.float64)
    return Dynamics(
        times,
        continuous if flow else None,
        discrete,
        trained,
        None if trained is None else _deviation(discrete, trained),
        values,
        shares,
        stable,
        lr > float(stable),
        lr,
        reduction,
        "approximate",
        _note(theta, lr, stable),
    )


def _wrong_arguments(lr: Any, steps: Any, loss: str, reduction: str) -> list[Diagnostic]:
    found = []
    if not isinstance(lr, int | float) or not math.isfinite(lr) or lr <= 0:
        found.append(Diagnostic("PKC528", f"lr = {lr!r} is no learning rate", notes=("give a positive number, e.g. lr=0.1",)))
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        found.append(Diagnostic("PKC528", f"steps = {steps!r} is no number of steps", notes=("give a whole number from 1 on",)))
    if loss != "mse":
        why = "the linearised dynamics have a closed form for the squared loss alone"
        found.append(Diagnostic("PKC528", f"there are no dynamics of the loss {loss!r}", notes=(why, 'use loss="mse"')))
    if reduction not in REDUCTIONS:
        known = ", ".join(map(repr, REDUCTIONS))
        found.append(Diagnostic("PKC528", f"there is no reduction {reduction!r}", notes=(f"expected one of {known}",)))
    return found


Curves = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


def _decomposed(theta: NTK | FrozenKernel, residual: Tensor, c: float, lr: float, steps: int) -> Curves:
    """Both curves from the eigendecomposition of the kernel."""
    values, vectors = (t.double() for t in theta.spectrum())
    energies = c * (vectors.T @ residual.double()).square()
    times = torch.arange(steps + 1, dtype=torch.float64)
    rate, live = 2 * c * lr * values, energies != 0
    rate, energies_left = rate[live], energies[live]
    shrink = (1 - rate).abs()
    discrete = torch.stack([(energies_left * shrink.pow(2 * int(t))).sum() for t in times]).cpu()
    continuous = torch.stack([(energies_left * torch.exp(-2 * rate * t)).sum() for t in times]).cpu()
    total = float(energies.sum())
    return times, discrete, continuous, values.cpu(), (energies / total if total else energies).cpu()


def _stepwise(theta: NTK | FrozenKernel, residual: Tensor, c: float, lr: float, steps: int) -> Curves:
    """Discrete steps by products with the kernel."""
    losses = [residual.square().sum()]
    for _ in range(steps):
        residual = residual - 2 * c * lr * theta.matvec(residual)
        losses.append(residual.square().sum())
    return torch.arange(steps + 1, dtype=torch.float64), c * torch.stack(losses).double().cpu(), None, None, None


def _stable_step(theta: NTK | FrozenKernel, c: float) -> Measured:
    largest = theta.largest_eigenvalue()
    if not largest:
        return Measured(math.inf, note="the kernel is zero: nothing moves")
    return Measured(1 / (c * largest), note="2 by the largest eigenvalue of the loss's Gauss-Newton matrix at the start")


def _note(theta: NTK | FrozenKernel, lr: float, stable: Measured) -> str:
    said = "linearised at the start" if isinstance(theta, NTK) or theta.is_ntk else "linearised at the start, all slopes held"
    if lr > float(stable):
        said += f"; lr = {lr:g} exceeds the largest stable step {float(stable):.4g}: descent diverges"
    return said if theta.fits else said + "; the kernel does not fit into memory: discrete steps by products, no flow"


def _deviation(predicted: Tensor, trained: Tensor) -> Tensor:
    apart = (predicted - trained).abs() / trained
    return torch.where((predicted == trained) & trained.isfinite(), torch.zeros_like(apart), apart.nan_to_num(nan=math.inf))


@dataclass(frozen=True, slots=True, eq=False)
class ArchitectureCurve:
    """``lower`` [times]: a lower bound of E loss(t) / E loss(0), float64 (NaN where nothing is predicted). ``status``, ``note``: as
    those of :class:`~pkcompiler.measured.Measured`. ``shape``: why the curve itself is not predicted."""

    times: Tensor
    lower: Tensor
    status: Status
    note: str
    shape: Measured


@in_own_modes
def architecture_curve(trace: Measured, outputs: int, lr: float, times: Any) -> ArchitectureCurve:
    """What Tr Theta alone says of the loss, without data: it falls no faster than at the mean eigenvalue.

    For a residual of no preferred direction (E r r^T a multiple of I) under gradient flow, E loss(t) / E loss(0) = mean over the
    eigenvalues of exp(-2 lr lambda t) >= exp(-2 lr t Tr / outputs), by Jensen; over random initialisations as well,
    with the mean trace. ``trace``: a trace over ``outputs`` rows (of one sample: its outputs; of n samples: n times as many).
    ``times`` [m], in steps, of the loss sum r^2 / 2. Raises ``PKC528``.
    """
    raise_all(_wrong_arguments(lr, 1, "mse", "sum"))
    at = torch.as_tensor(times, dtype=torch.float64)
    if outputs < 1 or not bool((at >= 0).all()):
        raise_all([Diagnostic("PKC528", "a curve needs at least one output, and times from 0 on", notes=("times=range(100)",))])
    why = "no data: the residual's direction and the kernel's spectrum on the samples are unknown, and both shape the curve"
    shape = Measured(math.nan, status="not predicted", note=why)
    if trace.status == "not predicted":
        return ArchitectureCurve(at, torch.full_like(at, math.nan), "not predicted", trace.note, shape)
    lower = torch.exp(-2 * lr * at * float(trace) / outputs)
    note = "from below, by Jensen's inequality: gradient flow, linearised, a residual of no preferred direction"
    inexact = "" if trace.status == "exact" else f"; the trace is {trace.status}"
    return ArchitectureCurve(at, lower, "bound", note + inexact, shape)
