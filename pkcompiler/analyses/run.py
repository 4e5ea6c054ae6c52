"""``run_analysis``: what an ``analysis`` declaration measures, on a model, under masks (docs/language.md, "Analyses")."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.analyses.analysis_report import AnalysisReport, Row
from pkcompiler.analyses.evaluate import AnalysisEvaluator
from pkcompiler.analyses.functions.figure import Mark
from pkcompiler.analyses.source import Source, source_of
from pkcompiler.analyses.values import Distribution, Series, Value
from pkcompiler.arguments import checked
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Analysis, ReportLine
from pkcompiler.lang.explain.formula_analysis import legend, line_formula, shown_kind
from pkcompiler.lang.library import find_analysis
from pkcompiler.measured import Measured, not_predicted, worst
from pkcompiler.modes import in_own_modes
from pkcompiler.scoring.losses import Loss
from pkcompiler.scoring.terms import PARAM, Term

ORDER = ("sample", "output", "rank", "step")
TOO_LARGE = ("PKC521", "PKC525")
"""Errors of one figure: too many products for a diagonal, a kernel that does not fit into memory."""


@checked
@in_own_modes
def run_analysis(
    model: nn.Module,
    example_inputs: Any,
    analysis: str | Path | Analysis,
    *,
    data: Any = None,
    masks: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    initialise: Callable[[int], nn.Module] | None = None,
    verify: bool = False,
) -> AnalysisReport:
    """Run an analysis on a model in evaluation mode, under ``masks``. The model is not changed.

    ``analysis``: a name of the library, the path of a ``.pkc`` file, or its text. ``data``: a pair (x, y) of tensors, used whole,
    or a Dataset, from which a class-balanced subset is drawn. ``loss(output, target)``: as of ``score``. ``seed``: of what is
    drawn at random. ``initialise(seed)`` builds a fresh model for what is predicted over initialisations (default: every module's
    ``reset_parameters`` on a copy). ``verify``: where the loss of discrete steps is predicted, a copy is trained for the same
    steps, and its loss stands in a line of its own.

    Raises PkcError: ``PKC1xx`` for the analysis, ``PKC2xx`` for the model, ``PKC4xx`` for masks, ``PKC5xx`` for data and numbers.
    """
    chosen = analysis if isinstance(analysis, Analysis) else find_analysis(analysis)
    captured = captured_for_caller(model, example_inputs, dtype=dtype)
    given: dict[str, Any] = {"data": data, "masks": masks, "loss": loss, "seed": seed, "dtype": dtype}
    given |= {"initialise": initialise, "verify": verify}
    return analyse_capture(captured, chosen, **given, name=type(model).__name__)


@in_own_modes
def analyse_capture(
    captured: Capture,
    analysis: Analysis,
    *,
    data: Any = None,
    masks: Mapping[str, Tensor] | None = None,
    loss: Loss | None = None,
    batch: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    initialise: Callable[[int], nn.Module] | None = None,
    verify: bool = False,
    name: str = "model",
) -> AnalysisReport:
    """:func:`run_analysis` on a model that is captured already (in ``dtype``)."""
    given: dict[str, Any] = {"data": data, "masks": masks, "loss": loss, "batch": batch, "seed": seed, "dtype": dtype}
    given |= {"initialise": initialise, "verify": verify}
    return _run(source_of(analysis, captured.graph, captured.tensors, captured, **given), analysis, name)


@in_own_modes
def analyse_graph(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    analysis: Analysis,
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    name: str = "model",
) -> AnalysisReport:
    """:func:`run_analysis` on a graph and its slots' tensors alone. Raises ``PKC550`` where the analysis runs the model."""
    return _run(source_of(analysis, graph, tensors, None, masks=masks, seed=seed, dtype=dtype), analysis, name)


def _run(source: Source, analysis: Analysis, name: str) -> AnalysisReport:
    evaluator = AnalysisEvaluator(source.workspace(), source.seed, analysis=analysis, source=source)
    rows = tuple(row for line in analysis.reports for row in _rows(line, evaluator))
    dropped = any(not bool(m.all()) for m in source.masks.values())
    return AnalysisReport(analysis.name, name, dropped, analysis.source, analysis.doc, rows, tuple(legend(analysis)))


def _rows(line: ReportLine, evaluator: AnalysisEvaluator) -> list[Row]:
    """A line, and the measured losses under a predicted loss curve that is to be verified."""
    row, trained = _row(line, evaluator), evaluator.trained(line.typed)
    if trained is None:
        return [row]
    note = "the network itself, trained by full-batch gradient descent with the same rate"
    return [row, Row(f"{row.label}, trained", row.kind, Series(trained, 0, ("step",), "exact", note), "exact", note, row.formula)]


def _row(line: ReportLine, evaluator: AnalysisEvaluator) -> Row:
    try:
        value = _value(line, evaluator)
    except PkcError as error:
        value = _refused(error)
    marks = evaluator.marks(line.typed)
    status = worst(*(m.status for m in marks))
    if isinstance(value, Measured):
        status = value.status
    elif isinstance(value, Mapping):
        status = worst(status, *(m.status for m in value.values()))
    elif not isinstance(value, Series):
        status = value.status
    notes = [note for note in dict.fromkeys(m.note for m in marks) if note]
    if isinstance(value, Measured) and value.note not in ("", *notes):
        notes.append(value.note)
    return Row(line.label, shown_kind(line), value, status, "; ".join(notes), line_formula(line))


def _refused(error: PkcError) -> Value:
    """A line that is too large to be computed says so, and the others are computed; any other error is raised."""
    first = error.diagnostics[0]
    if first.code not in TOO_LARGE:
        raise error
    return not_predicted(f"{first.code}: {first.message}")


def _value(line: ReportLine, evaluator: AnalysisEvaluator) -> Value:
    if line.axes in ({"layer"}, {"distribution"}):
        found = evaluator.figure(line.typed)
        assert isinstance(found, Distribution | Mapping)
        return found
    term = evaluator.evaluate(line.typed)
    marks = evaluator.marks(line.typed)
    if not line.axes:
        return _number(term, term.tensor, marks)
    if term.axes == PARAM:
        return {n: _number(term, _shown(t, line.spread), marks) for n, t in term.tensors.items()}
    axes = tuple(a for a in ORDER if a in line.axes)
    values = term.tensor.detach().double().cpu()
    return Series(values, term.exponent, axes, worst(*(m.status for m in marks)), "; ".join(m.note for m in marks if m.note))


def _shown(tensor: Tensor, spread: bool) -> Tensor:
    """What stands for a tensor: the number that it holds everywhere, or the sum over its entries."""
    return tensor.flatten()[0] if spread and tensor.numel() else tensor.sum()


def _number(term: Term, value: Tensor, marks: list[Mark]) -> Measured:
    """A number with the errors of the estimates in it, to first order and as if these were independent.

    It has none where a part is approximate without an error: what estimates are off by would not cover the truth.
    """
    mantissa = float(value.detach())
    status, note = worst(*(m.status for m in marks)), next((m.note for m in marks if m.note), "")
    if math.isnan(mantissa):
        return Measured(mantissa, term.exponent, None, "not predicted", note or "no number: 0 / 0, or a logarithm or root below 0")
    leaves = [(m.leaf, m.error) for m in marks if m.leaf is not None and m.error is not None]
    unknown = any(m.status == "approximate" and m.error is None for m in marks)
    if unknown or not leaves or not value.requires_grad or not math.isfinite(mantissa):
        return Measured(mantissa, term.exponent, None, status, note)
    slopes = torch.autograd.grad(value, [leaf for leaf, _ in leaves], retain_graph=True, allow_unused=True)
    parts = [float(s) * e for s, (_, e) in zip(slopes, leaves, strict=True) if s is not None]
    return Measured(mantissa, term.exponent, math.hypot(*parts) if parts else None, status, note)
