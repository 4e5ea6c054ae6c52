"""``pkc analyze``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli import analyses
from pkcompiler.cli.model import model_options, opened

if TYPE_CHECKING:
    from pkcompiler.analyses.report import AnalysisReport
    from pkcompiler.analysis.report import Report
    from pkcompiler.lang.ast import Analysis

Found = tuple["Report", "list[AnalysisReport]"]


@click.command()
@model_options
@click.option(
    "--with", "with_", multiple=True, metavar="NAME|FILE,...", help="Analyses to run as well: names of 'pkc passes', files."
)
@click.option("--data", metavar="DATA", help="Samples: digits, mnist5k, file.npz, module:factory, with (per_class = 10).")
@click.option("--loss", metavar="SPEC", help="path/file.py:function, called with output and target.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON (- is stdout, in place of the table).")
def analyze(json_file: str | None, with_: tuple[str, ...], data: str | None, loss: str | None, model: str, **options: Any) -> None:
    """Report on a model or an artifact: warnings, paths, norms, shares.

    --with adds analyses: of the Path Kernel, the NTK on data, loss curves, layer collapse, or of your own files. MODEL is a model spec, or the folder of an artifact, whose printed graph, weights and masks are read (no code of it runs).
    """
    from pkcompiler.cli.artifacts import finished

    finished(Path(model))
    chosen = analyses.chosen(with_, data, loss)
    if (Path(model) / "manifest.json").is_file():
        report, more = _of_artifact(model, chosen, options["seed"])
    else:
        report, more = _of_model(model, options, chosen, data, loss)
    if json_file is not None:
        _write_json(json_file, report, more)
    if json_file != "-":
        click.echo("\n\n".join(str(part) for part in (report, *more)))


def _of_model(model: str, options: dict[str, Any], chosen: list[Analysis], data: str | None, loss: str | None) -> Found:
    import torch

    from pkcompiler.analysis.report import analyze_graph

    found = opened(model=model, **options)
    captured = found.capture(torch.float64)
    report = analyze_graph(captured.graph, captured.tensors, name=found.name)
    return report, analyses.of_model(chosen, found, captured, data, loss)


def _of_artifact(folder: str, chosen: list[Analysis], seed: int) -> Found:
    from pkcompiler.analysis.report import analyze_graph
    from pkcompiler.pruning.artifact import load

    artifact = load(folder)
    report = analyze_graph(artifact.graph, artifact.tensors, artifact.masks, Path(folder).resolve().name)
    return report, analyses.of_artifact(chosen, artifact, seed)


def _write_json(file: str, report: Report, more: list[AnalysisReport]) -> None:
    from pkcompiler.cli.output import write_json
    from pkcompiler.diagnostics import fail

    plain = {**report.to_json(), "analyses": [part.to_json() for part in more]}
    if file == "-":
        write_json(plain)
        return
    try:
        Path(file).write_text(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise fail("PKC613", f"'{file}' cannot be written: {error.strerror}", "print the report instead: --json -") from None
