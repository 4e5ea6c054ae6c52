"""``pkc analyze``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.model import model_options, opened

if TYPE_CHECKING:
    from pkcompiler.analysis.report import Report


@click.command()
@model_options
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON (- is stdout, in place of the table).")
def analyze(json_file: str | None, model: str, **options: Any) -> None:
    """Report on a model or an artifact: warnings, paths, norms, shares.

    MODEL is a model spec, or the folder of an artifact, whose printed graph, weights and masks are read (no code of it runs).
    """
    from pkcompiler.cli.artifacts import finished

    finished(Path(model))
    report = _of_artifact(model) if (Path(model) / "manifest.json").is_file() else _of_model(model, options)
    if json_file is not None:
        _write_json(json_file, report)
    if json_file != "-":
        click.echo(str(report))


def _of_model(model: str, options: dict[str, Any]) -> Report:
    import torch

    from pkcompiler.analysis.report import analyze_graph

    found = opened(model=model, **options)
    captured = found.capture(torch.float64)
    return analyze_graph(captured.graph, captured.tensors, name=found.name)


def _of_artifact(folder: str) -> Report:
    from pkcompiler.analysis.report import analyze_graph
    from pkcompiler.pruning.artifact import load

    artifact = load(folder)
    return analyze_graph(artifact.graph, artifact.tensors, artifact.masks, Path(folder).resolve().name)


def _write_json(file: str, report: Report) -> None:
    from pkcompiler.cli.output import write_json
    from pkcompiler.diagnostics import fail

    if file == "-":
        write_json(report.to_json())
        return
    try:
        Path(file).write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise fail("PKC613", f"'{file}' cannot be written: {error.strerror}", "print the report instead: --json -") from None
