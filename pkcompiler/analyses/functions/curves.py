"""Loss curves of linearised training, and what is predicted without data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark, as_number
from pkcompiler.lang.ast import Call, Expr, Name, Number
from pkcompiler.measured import Measured
from pkcompiler.scoring.terms import Term
from pkcompiler.tangent.dynamics import architecture_curve, dynamics

STEP = frozenset({"step"})


def _dynamics(figures: Figures, call: Call) -> Term:
    given, source = dict(call.kwargs), figures.source
    rate, steps = _steps(figures, given)
    flow = given.get("time") == Name("flow")
    if not math.isfinite(rate):
        return _no_curve(figures, call, rate, steps)
    kernel = figures.operator(call.args[0]).kernel
    model, _ = source.model()
    found = dynamics(model, source.data, lr=rate, steps=steps, kernel=kernel, verify=source.verify and not flow)
    if found.trained is not None:
        figures.keep_trained(call, found.trained)
    curve = found.predicted_flow if flow else found.predicted_steps
    figures.mark(call, Mark(found.status if curve is not None else "not predicted", found.note))
    return Term(STEP, torch.full_like(found.predicted_steps, torch.nan) if curve is None else curve)


def _expected_dynamics(figures: Figures, call: Call) -> Term:
    rate, steps = _steps(figures, dict(call.kwargs))
    if not math.isfinite(rate):
        return _no_curve(figures, call, rate, steps)
    curve = architecture_curve(figures.prediction().trace, figures.source.outputs, rate, range(steps + 1))
    figures.mark(call, Mark(curve.status, curve.note))
    return Term(STEP, curve.lower)


def _no_curve(figures: Figures, call: Call, rate: float, steps: int) -> Term:
    figures.mark(call, Mark("not predicted", f"the learning rate is {rate:g}"))
    return Term(STEP, torch.full((steps + 1,), torch.nan, dtype=torch.float64))


def _steps(figures: Figures, given: Mapping[str, Expr]) -> tuple[float, int]:
    """The values of ``lr`` and ``steps``."""
    count = given["steps"]
    assert isinstance(count, Number)
    return float(figures.evaluate(given["lr"]).plain().tensor.detach()), int(count.value)


def _predicted_trace(figures: Figures, call: Call) -> Term:
    found = figures.prediction()
    notes = ": ".join(note for note in (found.method, found.trace.note or found.reason) if note)
    trace = found.trace
    return as_number(figures, call, Measured(trace.mantissa, trace.exponent, trace.error, trace.status, notes))


VALUES: dict[str, Binding] = {
    "dynamics": _dynamics,
    "expected_dynamics": _expected_dynamics,
    "predicted_trace": _predicted_trace,
}
