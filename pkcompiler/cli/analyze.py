"""``pkc analyze``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli import analyses, closed_forms, pages
from pkcompiler.cli.model import model_options, opened
from pkcompiler.cli.output import deliver_json, put

if TYPE_CHECKING:
    from pkcompiler.analyses.analysis_report import AnalysisReport
    from pkcompiler.report.report import Report
    from pkcompiler.symbolic import ClosedForms


@click.command()
@model_options
@click.option(
    "--with", "with_", multiple=True, metavar="NAME|FILE,...", help="Analyses to run as well: names of 'pkc passes', files."
)
@click.option("--data", metavar="DATA", help="Samples: digits, mnist5k, file.npz, module:factory, with (per_class = 10).")
@click.option("--loss", metavar="SPEC", help="path/file.py:function, called with output and target.")
@click.option("--verify", is_flag=True, help="Train a copy beside every predicted loss curve (--with dynamics), and show both.")
@click.option("--symbolic", is_flag=True, help="Path count, E[R_2] and E[Tr Pi] in symbolic widths, and how they grow.")
@click.option(
    "--variances",
    type=click.Choice(["weights", "slots", "roles", "he"]),
    help="With --symbolic: a sigma per weight (default), parameter or kind of layer, or 2 / fan-in.",
)
@click.option("--latex", metavar="FILE|-", help="Write what --symbolic finds as LaTeX (- is stdout, in place of the table).")
@click.option("--json", "json_file", metavar="FILE|-", help="Write the report as JSON (- is stdout, in place of the table).")
@click.option("--html", metavar="FILE", help="Write the report as a page to look at: one file, without network access.")
@click.option("--plot", metavar="DIR", help="Write the figures of the page as PNG and SVG.")
@click.option(
    "--eigenvalues",
    type=click.IntRange(0, 1000),
    metavar="K",
    help="How many, in the page: 10 by default, 0 to leave the spectrum out.",
)
def analyze(
    *,
    json_file: str | None,
    with_: tuple[str, ...],
    data: str | None,
    loss: str | None,
    verify: bool,
    symbolic: bool,
    variances: str | None,
    latex: str | None,
    html: str | None,
    plot: str | None,
    eigenvalues: int | None,
    model: str,
    **options: Any,
) -> None:
    """Report on a model or an artifact: warnings, paths, norms, shares.

    --with adds analyses: of the Path Kernel, the NTK on data, loss curves, layer collapse, or of your own files. MODEL is a model
    spec, or the folder of an artifact, whose printed graph, weights and masks are read (no code of it runs).
    """
    from pkcompiler.cli.artifacts import finished, is_artifact

    finished(Path(model))
    chosen = analyses.chosen(with_, data, loss)
    analyses.check_verify(chosen, verify)
    scheme = closed_forms.scheme(symbolic, variances, latex)
    if latex == json_file == "-":
        raise click.UsageError("stdout holds one of --latex and --json: name a file for the other.")
    pages.prepare(html, plot)
    from pkcompiler.driver.analyse import analyse, analyse_artifact

    artifact = is_artifact(model)
    if artifact:
        found = analyse_artifact(model, chosen, options["seed"])
    else:
        found = analyse(opened(model=model, **options), chosen, data=data, loss=loss, verify=verify)
    closed = None if scheme is None else closed_forms.of(found.graph, found.tensors, scheme)
    report, more = found.report, found.analyses
    deliver_json(_json(report, more, closed) if json_file else None, json_file)
    if latex is not None and closed is not None:
        closed_forms.write_latex(latex, closed)
    if "-" not in (json_file, latex):
        said = () if closed is None else (closed_forms.text(closed),)
        put("\n\n".join(str(part) for part in (report, *said, *more)))
    origin = {"model": model, "weights": options.get("weights"), "seed": None if artifact else options["seed"], "data": data}
    pages.deliver(html, plot, found, eigenvalues=eigenvalues, closed=closed, **origin)


def _json(report: Report, more: Sequence[AnalysisReport], closed: ClosedForms | None) -> dict[str, Any]:
    plain = {**report.to_json(), "analyses": [part.to_json() for part in more]}
    return plain if closed is None else {**plain, "symbolic": closed_forms.plain(closed)}
