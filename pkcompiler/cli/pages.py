"""``--html`` and ``--plot``: a report as a page and as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pkcompiler.cli import closed_forms
from pkcompiler.cli.output import say, typed

if TYPE_CHECKING:
    from torch import Tensor

    from pkcompiler.artifact.comparison import Comparison
    from pkcompiler.driver.analyse import Analysed
    from pkcompiler.ir.types import PathGraph
    from pkcompiler.kernel.explicit import ExplicitKernel
    from pkcompiler.report.report import Report
    from pkcompiler.symbolic import ClosedForms

EIGENVALUES = 10
LARGE = 10**9
"""Multiply-adds of one sample from which the spectrum is left out unless ``--eigenvalues`` asks for it."""


def prepare(html: str | None, plot: str | None) -> None:
    """Say what is missing before anything long begins. Raises ``PKC632``, ``PKC634``."""
    from pathlib import Path

    from pkcompiler.diagnostics import fail
    from pkcompiler.files import hidden
    from pkcompiler.show.extra import need

    if html is not None:
        need("bokeh", "--html")
        if (why := hidden(Path(html).parent)) is not None:
            raise fail("PKC634", f"'{html}' cannot be written: {why}", "name a file that can be written")
        if not os.path.isdir(Path(html).parent):
            raise fail(
                "PKC634", f"'{html}' cannot be written: there is no folder '{Path(html).parent}'", f"mkdir -p {Path(html).parent}"
            )
    if plot is not None:
        need("matplotlib", "--plot")


def deliver(
    html: str | None,
    plot: str | None,
    found: Analysed,
    *,
    eigenvalues: int | None = None,
    closed: ClosedForms | None = None,
    **provenance: Any,
) -> None:
    """Write what was asked for. Raises ``PKC632``, ``PKC634``."""
    if html is None and plot is None:
        return
    from pkcompiler.show.from_reports import page_of

    kernel = _spectrum(found.graph, found.tensors, found.masks, eigenvalues)
    paths = _paths(found.report, found.graph, found.tensors, found.masks)
    formulas = () if closed is None else closed_forms.pieces(closed)
    page = page_of(
        found.report,
        found.graph,
        kernel=kernel,
        paths=paths,
        analyses=found.analyses,
        formulas=formulas,
        provenance=_provenance(**provenance),
    )
    if html is not None:
        from pkcompiler.show.html import write_html

        write_html(html, page)
        say(f"page: {html}")
    if plot is not None:
        from pkcompiler.show.plots import write_plots

        say(f"plots: {', '.join(str(path) for path in write_plots(plot, page))}")


def deliver_comparison(html: str, found: Comparison) -> None:
    """Write a comparison as a page."""
    from pkcompiler.show.compare import write_comparison

    write_comparison(html, found, _provenance())
    say(f"page: {html}")


def _spectrum(
    graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None, eigenvalues: int | None
) -> Any | None:
    """The spectrum of the Path Kernel, where it can be had: None for networks that are large, not finite or without a path."""
    from pkcompiler.diagnostics import PkcError
    from pkcompiler.kernel.path_kernel import kernel_of
    from pkcompiler.paths.semiring import settings
    from pkcompiler.selection.quantity import flops
    from pkcompiler.show.results import spectrum_of

    if eigenvalues == 0 or not graph.parameters:
        return None
    size = flops(graph, {}).whole
    if eigenvalues is None and size > LARGE:
        say(f"no spectrum: {size:.1e} multiply-adds a sample, and it takes hundreds of passes; --eigenvalues 10 asks for it")
        return None
    if not all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point()):
        return None
    chosen = settings(edge="theta^2", pools="sum", products="pairs", constants="on")
    try:
        return spectrum_of(kernel_of(graph, tensors, chosen, masks), eigenvalues or EIGENVALUES)
    except PkcError as error:
        say(f"no spectrum: {error.diagnostics[0].message}")
        return None


def _paths(
    report: Report, graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None
) -> ExplicitKernel | None:
    """The Path Kernel path by path, where there are few."""
    from pkcompiler.kernel.explicit import MOST_PATHS, explicit

    count = report.totals["paths"].value
    return explicit(graph, tensors, masks) if isinstance(count, int) and 0 < count <= MOST_PATHS else None


def _provenance(**known: Any) -> tuple[tuple[str, str], ...]:
    """Where a page comes from; nothing of it changes from run to run."""
    import torch

    from pkcompiler.version import __version__

    listed = {**known, "command": typed(), "version": f"pkcompiler {__version__}, torch {torch.__version__.partition('+')[0]}"}
    return tuple((label, str(text)) for label, text in listed.items() if text is not None)
