"""The mean of Tr Theta over fresh initialisations and Gaussian inputs, without data (docs/theory.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.measured import Measured, not_predicted, scaled_float
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.sources import check_finite, check_masks
from pkcompiler.predict.coherence import Verdict, coherence
from pkcompiler.predict.expected import ExpectedSweep, gate_functions
from pkcompiler.predict.initial import Factory, Law, drawn, laws, mean_squares, seeds, unlike
from pkcompiler.predict.montecarlo import Inputs, interval, sampled_traces, standard_error

Method = Literal["closed form", "monte carlo", "not predicted"]
METHODS = ("auto", "closed form", "monte carlo")

EACH_OUTPUT = 64
"""Up to as many outputs get a backward sweep of their own."""

MOVES = 4
"""Sweeps that tell the error of the closed form."""

NARROW = 0.1
"""Largest sum, over the gates that need normal inputs, of 1 / fan-in, for which inputs are taken for normal."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """E[Tr Theta] per sample, summed over the outputs.

    ``trace``: ``estimated`` with a standard error (Monte Carlo; also the closed form of chains of homogeneous gates, whose only
    error is that of the variances that it has learned from draws), ``approximate`` and without an error (the closed form elsewhere:
    right as the width of the layers grows), or ``not predicted``.
    ``per_output``: float64 [outputs], or None where only the sum is known. ``reason``: why this method, and what it assumes.
    ``variances``: E[theta^2] by parameter, of what the closed form read (empty otherwise). ``samples``: the draws of Monte Carlo,
    ``interval``: about 95 % for their mean, wider above where the draws spread over orders of magnitude.
    """

    trace: Measured
    method: Method
    reason: str
    per_output: Tensor | None = None
    variances: Mapping[str, float] = field(default_factory=dict)
    samples: Tensor | None = None
    interval: tuple[float, float] | None = None

    def __repr__(self) -> str:
        return f"Prediction({self.trace}, {self.method})"


@checked
@in_own_modes
def predict_trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    mean: float | Tensor = 0.0,
    second_moment: float | Tensor = 1.0,
    draws: int = 20,
    seed: int = 0,
    initialise: Factory | None = None,
    masks: Mapping[str, Tensor] | None = None,
    method: str = "auto",
) -> Prediction:
    """The mean of the NTK's trace per sample, over fresh initialisations and Gaussian inputs with independent entries.

    ``mean``, ``second_moment`` of the inputs: floats, or tensors that broadcast to a sample (one per channel: [C, 1, 1]). An
    integer input draws rows uniformly. ``initialise(seed)`` builds a fresh model (torch, numpy and random are seeded around the
    call); by default every module's ``reset_parameters`` runs on a copy, which needs weights that are such a draw. ``masks`` stay
    fixed; the trace sums over kept parameters. ``method``: ``closed form``, ``monte carlo`` (mean over ``draws`` initialisations,
    each at an input of its own), or ``auto``: the first that holds.

    Raises ``PKC530`` for arguments that do not fit, ``PKC531`` where ``initialise`` builds another architecture, ``PKC401`` for
    masks that do not fit, ``PKC213`` where a copy computes something else than the model, ``PKC2xx`` where it cannot be
    lifted.
    """
    raise_all(_wrong_arguments(mean, second_moment, draws, method))
    captured = captured_for_caller(model, example_inputs, dtype=torch.float64)
    check_masks(captured.graph, masks)
    check_finite(captured.graph, captured.tensors)
    inputs = Inputs(*(m.cpu() if isinstance(m, Tensor) else m for m in (mean, second_moment)))
    _check_moments(captured, inputs)
    fresh = drawn(model, initialise, captured.example_for(model))
    if isinstance(fresh, str):
        return nothing(fresh)
    why = None if initialise is not None else unlike(model, fresh, seed)
    if why is not None:
        return nothing(why)
    found = _closed(captured, fresh, inputs, masks, seed) if method != "monte carlo" else ""
    if isinstance(found, Prediction):
        return found
    if method == "closed form":
        return nothing(f"the closed form does not hold: {found}")
    return _sampled(captured, fresh, inputs, masks, draws=draws, seed=seed, why=found)


def nothing(why: str) -> Prediction:
    """The prediction that there is none, and why."""
    return Prediction(not_predicted(why), "not predicted", why)


def _wrong_arguments(mean: float | Tensor, second: float | Tensor, draws: int, method: str) -> list[Diagnostic]:
    found = []
    if method not in METHODS:
        found.append(
            Diagnostic("PKC530", f"predict_trace has no method = {method!r}", notes=(f"expected one of {', '.join(METHODS)}",))
        )
    if draws < 2:
        found.append(Diagnostic("PKC530", f"{draws} draws have no standard error", notes=("give draws=20",)))
    first, other = (torch.as_tensor(m, dtype=torch.float64) for m in (mean, second))
    if not bool(first.isfinite().all() and other.isfinite().all()) or bool((other < first.square() * (1 - 1e-12)).any()):
        message = "the second moment of the inputs is smaller than the square of their mean, or not finite"
        found.append(Diagnostic("PKC530", message, notes=("second_moment is E[x^2] = variance + mean^2",)))
    return found


def _check_moments(captured: Capture, inputs: Inputs) -> None:
    """Moments broadcast to every floating input."""
    floating = [v for v in captured.graph.inputs if v.type.dtype.startswith(("f", "bf"))]
    for value in floating:
        sample = tuple(int(d) for d in value.type.shape[1:] if isinstance(d, int))
        for moment in (inputs.mean, inputs.second):
            shape = torch.as_tensor(moment).shape
            try:
                fits = torch.broadcast_shapes(shape, sample) == torch.Size(sample)
            except RuntimeError:
                fits = False
            if not fits:
                message = f"a moment of shape {tuple(shape)} does not broadcast to samples of shape {sample}"
                raise fail("PKC530", message, "give a number, or one per channel: a tensor [C, 1, 1]")


# closed form ------------------------------------------------------------------------------------------------------------


def _closed(
    captured: Capture, fresh: Callable[[int], nn.Module], inputs: Inputs, masks: Mapping[str, Tensor] | None, seed: int
) -> Prediction | str:
    """The closed form, or why it does not hold."""
    graph, functions = captured.graph, gate_functions(captured)
    verdict = coherence(graph, captured.tensors, None, functions, inputs.centred, masks)
    if not verdict.holds:
        return _why(verdict)
    model = fresh(seeds(seed, 1)[0])
    tensors = {**captured.tensors, **{n: b.detach() for n, b in model.named_buffers() if n in captured.tensors}}
    learned = laws(fresh, sum(p.numel() for p in model.parameters()), seed)
    verdict = coherence(graph, tensors, learned, functions, inputs.centred, masks)
    if not verdict.holds:
        return _why(verdict)
    if verdict.narrowness > NARROW:
        return "the layers are narrow for their number, so that what enters the gates is not normal"
    trace, per_output = closed_form(captured, tensors, learned, inputs, masks)
    if verdict.wide:
        note = "mean over initialisations, right as the width of the layers grows: how far off it is here is not known"
        measured = Measured(trace.mantissa, trace.exponent, None, "approximate", note)
    else:
        error = learning_error(captured, tensors, learned, inputs, masks, trace=trace, seed=seed)
        note = "mean over initialisations; the error is that of the variances, learned from draws"
        measured = Measured(trace.mantissa, trace.exponent, error, "estimated", note)
    reason = "different paths are uncorrelated, so that second moments add up"
    return Prediction(measured, "closed form", reason, per_output, mean_squares(learned))


def _why(verdict: Verdict) -> str:
    more = len(verdict.reasons) - 1
    return verdict.reasons[0] + (f" (and {more} more)" if more else "")


def closed_form(
    captured: Capture,
    tensors: Mapping[str, Tensor],
    learned: Mapping[str, Law],
    inputs: Inputs,
    masks: Mapping[str, Tensor] | None = None,
    *,
    each: bool = True,
) -> tuple[Measured, Tensor | None]:
    """The squared sweep over expected gates, whether or not it holds: the trace per sample, and with ``each`` its parts by output.

    ``tensors``: buffers and constants as initialised; parameters enter by their laws.
    """
    graph, batch = captured.graph, captured.static_batch
    roots = {s.name: _root(learned[s.name], tensors[s.name]) for s in graph.parameters}
    sweep = ExpectedSweep(graph, {**tensors, **roots}, gate_functions(captured), batch=batch)
    edges = sweep.edges(masks)
    for edge in edges.values():
        edge.requires_grad_(True)
    with torch.enable_grad():
        value = sweep.run(edges, _sources(captured, inputs, batch))
        rows = value.tensor.reshape(batch, -1)
        kept = [(masks or {}).get(name) for name in edges]
        if not each or rows.shape[1] > EACH_OUTPUT:
            return _measured(_derivatives(rows.sum(), edges, kept) / batch, value), None
        parts = torch.stack([_derivatives(column.sum(), edges, kept) for column in rows.unbind(1)]) / batch
    return _measured(parts.sum(), value), parts * 2.0 ** min(value.exponent, 1000)


def learning_error(
    captured: Capture,
    tensors: Mapping[str, Tensor],
    learned: Mapping[str, Law],
    inputs: Inputs,
    masks: Mapping[str, Tensor] | None,
    *,
    trace: Measured,
    seed: int,
) -> float:
    """The standard error of the closed form that comes from the laws' variances, at the exponent of ``trace``.

    The root mean square of what it changes by when all variances move by their errors times random signs.
    """
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for _ in range(MOVES):
        signs = (torch.randint(2, (len(learned),), generator=generator) * 2 - 1).tolist()
        moved = {n: replace(w, second=w.second * (1 + s * w.error)) for (n, w), s in zip(learned.items(), signs, strict=True)}
        there, _ = closed_form(captured, tensors, moved, inputs, masks, each=False)
        changes.append(scaled_float(there.mantissa, there.exponent - trace.exponent) - trace.mantissa)
    return math.sqrt(sum(c**2 for c in changes) / MOVES)


def _root(law: Law, like: Tensor) -> Tensor:
    """A tensor whose squares are the second moments of a parameter's entries."""
    return torch.as_tensor(law.second, dtype=torch.float64).sqrt().expand(like.shape)


def _sources(captured: Capture, inputs: Inputs, batch: int) -> dict[str, Tensor]:
    second = torch.as_tensor(inputs.second, dtype=torch.float64)
    shapes = {v.name: [d for d in v.type.shape[1:] if isinstance(d, int)] for v in captured.graph.inputs}
    return {name: second.expand(batch, *shape).clone() for name, shape in shapes.items()}


def _derivatives(value: Tensor, edges: Mapping[str, Tensor], kept: list[Tensor | None]) -> Tensor:
    """Sum over kept entries of dR / dE[theta^2] = E[(df/dtheta)^2]."""
    grads = torch.autograd.grad(value, list(edges.values()), retain_graph=True, allow_unused=True)
    parts = [(g if m is None else g * m.to(g)).sum() for g, m in zip(grads, kept, strict=True) if g is not None]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def _measured(mantissa: Tensor, value: Scaled) -> Measured:
    return Measured(float(mantissa), value.exponent)


# Monte Carlo ------------------------------------------------------------------------------------------------------------


def _sampled(
    captured: Capture,
    fresh: Callable[[int], nn.Module],
    inputs: Inputs,
    masks: Mapping[str, Tensor] | None,
    *,
    draws: int,
    seed: int,
    why: str,
) -> Prediction:
    samples, parts = sampled_traces(captured, fresh, inputs, masks, draws, seed)
    reason = f"no closed form: {why}" if why else "it was asked for"
    if not bool(samples.isfinite().all()):
        return nothing(f"{reason}; a trace is beyond the range of float64")
    note = f"mean and standard error over {draws} initialisations, each at an input of its own"
    trace = Measured(float(samples.mean()), 0, standard_error(samples), "estimated", note)
    per_output = None if parts is None else parts.mean(0)
    return Prediction(trace, "monte carlo", reason, per_output, samples=samples, interval=interval(samples))
