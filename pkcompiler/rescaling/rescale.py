"""``rescale``: the same function by other weights, with the diagonal of the Path Kernel aligned, or norms balanced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail, raise_all
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.frontend.load_weights import non_finite, not_finite
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.functional import static_batch
from pkcompiler.rescaling.minimise import Balanced, balance
from pkcompiler.rescaling.objective import Figures, Objective, diagonal_of
from pkcompiler.rescaling.preserved import deviations, require_preserved
from pkcompiler.rescaling.units import LeftAlone, Units, find_units

METHODS = ("conditioning", "equi-norm")


@dataclass(frozen=True, slots=True, eq=False)
class Rescaled:
    """A network rescaled without changing its function in evaluation mode.

    ``model``: a copy with the new weights, ``state_dict`` its state. ``scales``: for every value that brings in units their scales
    lambda (float64): weights into a unit and its bias are multiplied by lambda, weights out of it divided. ``history``: F at the
    start and after every step. ``residual``: the largest relative imbalance left at a unit. ``checked``: the largest relative
    deviation of an output at random inputs in float64; ``stored``: the same with the weights as they are stored. ``status``: of
    diag(G), ``exact`` or ``approximate`` (through a normalisation, whose centring is dropped).
    """

    method: str
    model: nn.Module
    scales: Mapping[str, Tensor]
    units: int
    left_alone: tuple[LeftAlone, ...]
    before: Figures
    after: Figures
    history: tuple[float, ...]
    residual: float
    converged: bool
    checked: float
    stored: float
    status: str

    def __repr__(self) -> str:
        ended = "converged" if self.converged else "not converged"
        ratio = f"AM/GM of diag(G) {self.before.ratio:.4g} -> {self.after.ratio:.4g}"
        return f"Rescaled({self.method}: {self.units} units, {ratio}, {ended}, deviation {self.checked:.1e})"

    @property
    def state_dict(self) -> dict[str, Any]:
        """The state of ``model``."""
        return dict(self.model.state_dict())

    def to_json(self) -> dict[str, Any]:
        """Everything but the weights, for JSON."""
        return {
            "method": self.method,
            "status": self.status,
            "units": self.units,
            "converged": self.converged,
            "residual": self.residual,
            "deviation": {"float64": self.checked, "stored": self.stored},
            "before": asdict(self.before),
            "after": asdict(self.after),
            "history": list(self.history),
            "scales": {name: part.tolist() for name, part in self.scales.items()},
            "left_alone": [asdict(item) for item in self.left_alone],
        }

    @property
    def objective(self) -> tuple[float, float]:
        """The objective before and after."""
        return self.before.objective, self.after.objective


@checked
@in_own_modes
def rescale(
    model: nn.Module,
    example_inputs: Any,
    *,
    method: str = "conditioning",
    masks: Mapping[str, Tensor] | None = None,
    powers_of_two: bool = False,
    tolerance: float = 1e-9,
    steps: int = 500,
    seed: int = 0,
) -> Rescaled:
    """Rescale the units of a model's positively homogeneous parts; its function in evaluation mode stays what it is.

    ``method``: ``conditioning`` (path conditioning, arXiv:2602.19799) minimises F(z) = p log sum_i g_i exp((Bz)_i) - sum_i (Bz)_i
    with g = diag(G) of the Path Kernel, that is p log(AM / GM) of the new diagonal up to a constant; ``equi-norm``
    (arXiv:1902.10416) minimises the sum of squares of all parameters. ``masks``: boolean tensors by parameter name; dropped
    entries do not count, but are scaled too. ``powers_of_two``: scales rounded to powers of two, which change no digit of a weight.
    ``tolerance``, ``steps``: of the minimisation. ``seed``: of the inputs at which the function is compared.

    Raises ``PKC540`` for an unknown method, ``PKC541`` where the function would not be preserved to 1e-9, ``PKC542`` where no path
    carries mass, ``PKC401`` for masks that do not fit, ``PKC405`` for weights that are not finite, ``PKC213`` where the copy
    computes something else than the model, other ``PKC2xx`` from the lift.
    """
    return rescale_captured(
        captured_for_caller(model, example_inputs, dtype=torch.float64), model,
        method=method, masks=masks, powers_of_two=powers_of_two, tolerance=tolerance, steps=steps, seed=seed,
    )  # fmt: skip


@in_own_modes
def rescale_captured(
    captured: Capture,
    model: nn.Module,
    *,
    method: str = "conditioning",
    masks: Mapping[str, Tensor] | None = None,
    powers_of_two: bool = False,
    tolerance: float = 1e-9,
    steps: int = 500,
    seed: int = 0,
) -> Rescaled:
    """As :func:`rescale`, of a model that is captured in float64 already."""
    _refuse(method, captured.module, tolerance, steps)
    graph, tensors = captured.graph, {n: t.cpu() for n, t in captured.tensors.items()}
    diagonal = diagonal_of(captured, masks)
    units = find_units(graph, tensors, static_batch(graph), captured.watched)
    weights = {n: tensors[n] if masks is None or n not in masks else tensors[n] * masks[n].cpu() for n in units.ends}
    measured = Objective(method, units, diagonal, weights)
    found = balance(measured.problem, tolerance, steps)
    logs = _rounded(measured, found) if powers_of_two else torch.from_numpy(-found.z / 2)
    factors = {name: part.exp() for name, part in units.spread(logs).items() if bool(part.any())}
    copy = faithful_copy(model, captured.example_for(model))
    _write(copy, factors)
    seen = deviations(captured, copy, factors, seed)
    require_preserved(seen, copy)
    return Rescaled(
        method=method,
        model=copy,
        scales=_scales(units, logs),
        units=units.count,
        left_alone=units.left_alone,
        before=measured.figures(torch.zeros_like(logs)),
        after=measured.figures(logs),
        history=measured.readable(found.history),
        residual=found.residual,
        converged=found.converged,
        checked=seen.exact,
        stored=seen.stored,
        status=diagonal.status,
    )


def _refuse(method: str, module: nn.Module, tolerance: float, steps: int) -> None:
    if not 0 <= tolerance < math.inf or steps < 0:
        raise fail("PKC540", f"tolerance = {tolerance:g}, steps = {steps}", "give a tolerance and a number of steps from 0 on")
    if method not in METHODS:
        raise fail("PKC540", f"rescale has no method {method!r}", f"expected one of {', '.join(map(repr, METHODS))}")
    raise_all(not_finite(name, role) for name, role in non_finite(module))


def _rounded(measured: Objective, found: Balanced) -> Tensor:
    """The logarithms of the nearest powers of two; of 1, should that have raised the objective."""
    powers = torch.from_numpy(np.round(-found.z / 2 / np.log(2.0)))
    logs = powers * float(np.log(2.0))
    raised = measured.problem.value(-2 * logs.numpy()) > found.history[0]
    return torch.zeros_like(logs) if raised else logs


# weights -------------------------------------------------------------------------------------------------------------------


def _write(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Multiply parameters in place, in float64, rounded once to their own precision."""
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, factor in factors.items():
            parameter = named[name]
            parameter.copy_((parameter.double() * factor.to(parameter.device)).to(parameter.dtype))


def _scales(units: Units, logs: Tensor) -> dict[str, Tensor]:
    padded = torch.cat([logs, torch.zeros(1, dtype=torch.float64)])
    return {name: padded[part].exp() for name, part in units.groups.items()}
