"""Analyse: a model or an artifact -> its report, and what analyses measure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkcompiler.analyses.analysis_report import AnalysisReport
from pkcompiler.analyses.run import analyse_capture, analyse_graph
from pkcompiler.artifact.read import load
from pkcompiler.data import load_data
from pkcompiler.driver.open import Opened, objective_of
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Analysis
from pkcompiler.report.analyze import analyze_graph
from pkcompiler.report.report import Report


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """What was analysed, and what was found."""

    report: Report
    analyses: Sequence[AnalysisReport]
    graph: PathGraph
    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] | None = None


def analyse(
    opened: Opened, analyses: Sequence[Analysis] = (), *, data: str | None = None, loss: str | None = None, verify: bool = False
) -> Analysed:
    """The report of an opened model, and each analysis of it, in float64.

    ``data``: samples as ``--data`` names them, read where an analysis reads data; ``loss``: the spec of a function; ``verify``:
    train beside predicted dynamics.
    """
    captured = opened.capture(torch.float64)
    report = analyze_graph(captured.graph, captured.tensors, name=opened.name)
    reads = any(analysis.needs_data for analysis in analyses)
    loaded = load_data(data, opened.seed) if reads and data is not None else None
    given: dict[str, Any] = {
        "data": None if loaded is None else (loaded.x, loaded.y),
        "loss": objective_of(opened, loss)[0] if reads else None,
        "batch": loaded.batch if loaded else None,
        "seed": opened.seed,
        "initialise": opened.initialise,
        "verify": verify,
    }
    more = [analyse_capture(captured, analysis, name=opened.name, **given) for analysis in analyses]
    return Analysed(report, more, captured.graph, captured.tensors)


def analyse_artifact(folder: str, analyses: Sequence[Analysis], seed: int) -> Analysed:
    """The report of an artifact under its masks, and each analysis of it; only its graph and tensors are read."""
    artifact, name = load(folder), Path(folder).resolve().name
    report = analyze_graph(artifact.graph, artifact.tensors, artifact.masks, name)
    given: dict[str, Any] = {"masks": artifact.masks, "seed": seed, "name": name}
    more = [analyse_graph(artifact.graph, artifact.tensors, analysis, **given) for analysis in analyses]
    return Analysed(report, more, artifact.graph, artifact.tensors, artifact.masks)
