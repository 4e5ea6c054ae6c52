"""Loss curves of linearised training, and what is predicted without data."""

from __future__ import annotations

import math

import torch

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark, as_number
from pkcompiler.lang.ast import Typed
from pkcompiler.measured import Measured
from pkcompiler.scoring.terms import Term
from pkcompiler.tangent.dynamics import architecture_curve, dynamics

STEP = frozenset({"step"})


def _dynamics(figures: Figures, node: Typed) -> Term:
    source, flow = figures.source, node.words["time"] == "flow"
    rate, steps = _steps(figures, node)
    if not math.isfinite(rate):
        return _no_curve(figures, node, rate, steps)
    kernel = figures.operator(node.args[0]).kernel
    model, _ = source.model()
    found = dynamics(model, source.data, lr=rate, steps=steps, kernel=kernel, verify=source.verify and not flow)
    if found.trained is not None:
        figures.keep_trained(node, found.trained)
    curve = found.predicted_flow if flow else found.predicted_steps
    figures.mark(node, Mark(found.status if curve is not None else "not predicted", found.note))
    return Term(STEP, torch.full_like(found.predicted_steps, torch.nan) if curve is None else curve)


def _expected_dynamics(figures: Figures, node: Typed) -> Term:
    rate, steps = _steps(figures, node)
    if not math.isfinite(rate):
        return _no_curve(figures, node, rate, steps)
    curve = architecture_curve(figures.prediction().trace, figures.source.outputs, rate, range(steps + 1))
    figures.mark(node, Mark(curve.status, curve.note))
    return Term(STEP, curve.lower)


def _no_curve(figures: Figures, node: Typed, rate: float, steps: int) -> Term:
    figures.mark(node, Mark("not predicted", f"the learning rate is {rate:g}"))
    return Term(STEP, torch.full((steps + 1,), torch.nan, dtype=torch.float64))


def _steps(figures: Figures, node: Typed) -> tuple[float, int]:
    """The values of ``lr`` and ``steps``."""
    return float(figures.evaluate(node.named["lr"]).plain().tensor.detach()), node.number("steps")


def _predicted_trace(figures: Figures, node: Typed) -> Term:
    found = figures.prediction()
    notes = ": ".join(note for note in (found.method, found.trace.note or found.reason) if note)
    trace = found.trace
    return as_number(figures, node, Measured(trace.mantissa, trace.exponent, trace.error, trace.status, notes))


VALUES: dict[str, Binding] = {
    "dynamics": _dynamics,
    "expected_dynamics": _expected_dynamics,
    "predicted_trace": _predicted_trace,
}
