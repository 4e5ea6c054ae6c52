"""``--with`` of ``pkc analyze``: analyses of the library or of files, and the data that they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.output import say

if TYPE_CHECKING:
    from pkcompiler.analyses.analysis_report import AnalysisReport
    from pkcompiler.artifact.read import Artifact
    from pkcompiler.data import LoadedData
    from pkcompiler.diagnostics import Diagnostic
    from pkcompiler.frontend.capture import Capture
    from pkcompiler.lang.ast import Analysis
    from pkcompiler.pipeline import Opened


def chosen(given: Sequence[str], data: str | None, loss: str | None) -> list[Analysis]:
    """The analyses of ``--with a,b --with c``, each once. Raises PkcError with what is wrong with any of them."""
    from pkcompiler.diagnostics import PkcError
    from pkcompiler.lang.library import find_analysis

    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not names and (data is not None or loss is not None):
        flag = "--data" if data is not None else "--loss"
        raise click.UsageError(f"The report itself reads no data, so {flag} needs an analysis: type --with ntk,dynamics.")
    found: list[Analysis] = []
    wrong: list[Diagnostic] = []
    for name in dict.fromkeys(names):
        try:
            found.append(find_analysis(name))
        except PkcError as error:
            wrong += error.diagnostics
    if wrong:
        raise PkcError(*wrong)
    _require_data(found, data)
    return found


def check_verify(analyses: Sequence[Analysis], verify: bool) -> None:
    """``--verify`` needs a predicted loss curve."""
    predicted = any("dynamics(" in a.text for a in analyses)
    if verify and not predicted:
        raise click.UsageError("--verify trains beside a predicted loss curve: add --with dynamics --data DATA.")


def _require_data(analyses: Sequence[Analysis], data: str | None) -> None:
    from pkcompiler.diagnostics import fail

    reader = next((a.name for a in analyses if a.needs_data), None)
    if reader is not None and data is None:
        raise fail("PKC502", f"the analysis '{reader}' reads data, and none was given", "give data, e.g. --data digits")
    if data is not None and analyses and reader is None:
        say("the analyses read no data: none is loaded")


def of_model(
    analyses: Sequence[Analysis], model: Opened, captured: Capture, data: str | None, loss: str | None, verify: bool = False
) -> list[AnalysisReport]:
    """Each analysis on a model that is opened and captured in float64."""
    if not analyses:
        return []
    from pkcompiler.analyses.run import analyse_capture
    from pkcompiler.pipeline import objective_of

    reads = any(a.needs_data for a in analyses)
    loaded = _loaded(data, model.seed) if reads and data is not None else None
    objective, _ = objective_of(model, loss) if reads else (None, None)
    pair = None if loaded is None else (loaded.x, loaded.y)
    given: dict[str, Any] = {"data": pair, "loss": objective, "batch": loaded.batch if loaded else None, "seed": model.seed}
    given |= {"initialise": model.initialise, "verify": verify}
    return [analyse_capture(captured, analysis, name=model.name, **given) for analysis in analyses]


def of_artifact(analyses: Sequence[Analysis], artifact: Artifact, seed: int) -> list[AnalysisReport]:
    """Each analysis under the masks of an artifact, of which only the graph and its tensors are read."""
    if not analyses:
        return []
    from pkcompiler.analyses.run import analyse_graph

    name = Path(artifact.path).resolve().name
    given: dict[str, Any] = {"masks": artifact.masks, "seed": seed, "name": name}
    return [analyse_graph(artifact.graph, artifact.tensors, analysis, **given) for analysis in analyses]


def _loaded(data: str, seed: int) -> LoadedData:
    from pkcompiler.data import load_data

    return load_data(data, seed)
