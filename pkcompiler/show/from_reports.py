"""From reports, kernels, dynamics and analyses to a page: every figure becomes a text that says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pkcompiler.markup import Cell, Column, Table
from pkcompiler.report.layout import LABELS, percent, shown, status
from pkcompiler.report.report import Figure, Mass, Report, Row
from pkcompiler.show.heat import heat_of
from pkcompiler.show.nodes import fold
from pkcompiler.show.numbers import power
from pkcompiler.show.page import Dynamics, Formula, Layer, Note, Page, Reading, Spectrum
from pkcompiler.show.results import dynamics_of, losses_of, spectrum_of, tables_of

if TYPE_CHECKING:
    from pkcompiler.ir.types import PathGraph
    from pkcompiler.kernel.explicit import ExplicitKernel

SHARES = {"l1": "l1_share", "l2": "l2_share", "tau": "tau_share", "density": "density"}
COLUMNS = ("parameter", "shape", "entries", "density", "effective", "L1 share", "L2 share", "tau share", "effective units")


def page_of(
    report: Report,
    graph: PathGraph | None = None,
    *,
    kernel: Any = None,
    paths: ExplicitKernel | None = None,
    dynamics: Any = None,
    analyses: Iterable[Any] = (),
    formulas: Iterable[tuple[str, str, str]] = (),
    provenance: Iterable[tuple[str, str]] = (),
) -> Page:
    """The page of a report.

    ``graph`` is drawn. ``kernel``: a ``PathKernel`` (its spectrum is computed now), or a :class:`~pkcompiler.show.page.Spectrum`.
    ``paths``: the enumerated kernel of a small graph, for the heat map. ``dynamics``: has ``times``, ``predicted_flow``,
    ``predicted_steps``, ``trained`` (each may be None), or a :class:`~pkcompiler.show.page.Dynamics`; without it the curves over
    steps that the analyses report are drawn. ``analyses``: an ``AnalysisReport`` each, or a :class:`~pkcompiler.markup.Table`.
    ``formulas``: name, text, LaTeX.
    """
    spectrum = kernel if kernel is None or isinstance(kernel, Spectrum) else spectrum_of(kernel)
    found = list(analyses)
    curves = dynamics if isinstance(dynamics, Dynamics) else losses_of(found) if dynamics is None else dynamics_of(dynamics)
    return Page(
        name=report.name,
        subtitle="under masks" if report.masked else "nothing masked",
        headline=headline(report, spectrum),
        warnings=tuple(Note(w.kind, w.subject, w.message, w.help) for w in report.warnings),
        drawing=None if graph is None else fold(graph),
        layers=tuple(_layer(row) for row in report.rows if row.prunable or len(row.shape) > 1),
        masked=report.masked,
        statuses={key: report.columns[column] for key, column in SHARES.items()},
        spectrum=spectrum,
        heat=None if paths is None else heat_of(paths),
        dynamics=curves,
        formulas=tuple(Formula(*f) for f in formulas),
        totals=totals(report),
        parameters=parameters(report),
        analyses=tuple(table for a in found for table in ((a,) if isinstance(a, Table) else tables_of(a))),
        provenance=tuple(provenance),
    )


# a report ---------------------------------------------------------------------------------------------------------------


def headline(report: Report, spectrum: Spectrum | None = None) -> tuple[Reading, ...]:
    """The five or six figures that come first."""
    known = report.totals
    out = [_quantity("parameters", "parameters", known["parameters"], f"{known['prunable'].value:,} prunable")]
    if report.masked:
        part = known["kept"].value / max(1, known["prunable"].value)
        out.append(Reading("density", percent(part), "exact", f"{known['kept'].value:,} kept"))
        out.append(_quantity("effective_sparsity", "effective sparsity", known["effective_sparsity"]))
    span = " to ".join(str(known[k].value) for k in ("shortest_path", "longest_path") if known[k].value is not None)
    out.append(_quantity("paths", "paths", known["paths"], f"through {span} parameters" if span else ""))
    out.append(_quantity("l2_squared", "squared path L2 norm", known["l2_squared"], "R₂, the mass of all paths"))
    if spectrum is None:
        out.append(_quantity("tau", "sum of tau", known["tau"], "of kept parameters"))
    return (*out, *(spectrum.quantities[:2] if spectrum else ()))


def _quantity(name: str, label: str, figure: Figure, note: str = "") -> Reading:
    return Reading(label, figure_text(name, figure), status(name, figure), note)


def figure_text(name: str, figure: Figure) -> str:
    """A figure of the totals in the typography of the page."""
    value = figure.value
    if isinstance(value, Mass):
        return power(value.log10 if value.mantissa else None)
    if name == "paths" and isinstance(value, int) and value >= 10**15:
        return power(math.log10(value))
    return shown(name, figure)


def totals(report: Report) -> Table:
    """All totals with their status."""
    rows = tuple(
        (Cell(LABELS[name]), Cell(figure_text(name, f), number(f.value)), Cell(status(name, f)))
        for name, f in report.totals.items()
    )
    return Table("Totals", (Column("figure"), Column("value", number=True), Column("status")), rows, _count(report))


def number(value: Any) -> float | None:
    """What a figure is sorted by: of masses the logarithm."""
    if isinstance(value, Mass):
        return value.log10 if value.mantissa else -1e9
    try:
        return None if value is None else float(value)
    except OverflowError:
        return 1e300


def _count(report: Report) -> str:
    from pkcompiler.measured import digits

    count = report.totals["paths"].value
    return f"All digits of the number of paths: {digits(count)}" if isinstance(count, int) and 10**15 <= count < 10**400 else ""


def parameters(report: Report) -> Table:
    """One row per parameter."""
    columns = report.columns
    keys = ("", "", "entries", "density", "effective", "l1_share", "l2_share", "tau_share", "effective_units")
    heads = tuple(Column(t, i > 1, columns.get(k, "")) for i, (t, k) in enumerate(zip(COLUMNS, keys, strict=True)))
    note = (
        "Shares are parts of the mass that crosses a parameter; a path crosses several, so they add up to more than 100%. "
        "Gates open, all entries of a max-pool, pairs through products, constants as sources."
    )
    return Table("Parameters", heads, tuple(_cells(row) for row in report.rows), note)


def _cells(row: Row) -> tuple[Cell, ...]:
    shares = (Cell(percent(v), -1.0 if v is None else v) for v in (row.l1, row.l2, row.tau))
    return (
        Cell(row.name),
        Cell(" × ".join(map(str, row.shape)) or "-", float(row.entries)),
        Cell(f"{row.entries:,}", row.entries),
        Cell(percent(row.density), row.density),
        Cell(f"{row.effective:,}", row.effective),
        *shares,
        Cell(f"{row.alive:,}/{row.units:,}", row.alive / max(1, row.units)),
    )


def _layer(row: Row) -> Layer:
    return Layer(row.name, row.entries, row.density, row.effective / max(1, row.entries), row.l1, row.l2, row.tau)
