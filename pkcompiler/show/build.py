"""From reports, kernels, dynamics and analyses to a page: every figure becomes a text that says what it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pkcompiler.analysis.layout import LABELS, percent, shown, status
from pkcompiler.analysis.measured import LOG2, Measured
from pkcompiler.analysis.report import Figure, Mass, Report, Row
from pkcompiler.markup import Cell, Column, Table, superscript
from pkcompiler.show.nodes import fold
from pkcompiler.show.page import Curve, Dynamics, Formula, Layer, Note, Page, Quantity, Spectrum

if TYPE_CHECKING:
    from pkcompiler.ir.types import PathGraph

SHARES = {"l1": "l1_share", "l2": "l2_share", "tau": "tau_share", "density": "density"}
COLUMNS = ("parameter", "shape", "entries", "density", "effective", "L1 share", "L2 share", "tau share", "effective units")


def page_of(
    report: Report,
    graph: PathGraph | None = None,
    *,
    kernel: Any = None,
    dynamics: Any = None,
    analyses: Iterable[Any] = (),
    formulas: Iterable[tuple[str, str, str]] = (),
    provenance: Iterable[tuple[str, str]] = (),
) -> Page:
    """The page of a report.

    ``graph`` is drawn. ``kernel``: a ``PathKernel`` (its spectrum is computed now), or a :class:`~pkcompiler.show.page.Spectrum`.
    ``dynamics``: has ``times``, ``predicted_flow``, ``predicted_steps``, ``trained`` (each may be None), or a
    :class:`~pkcompiler.show.page.Dynamics`. ``analyses``: each has ``name`` and ``rows`` of ``label, value, status``, or is a
    :class:`~pkcompiler.markup.Table`. ``formulas``: name, text, LaTeX.
    """
    spectrum = kernel if kernel is None or isinstance(kernel, Spectrum) else spectrum_of(kernel)
    curves = dynamics if dynamics is None or isinstance(dynamics, Dynamics) else dynamics_of(dynamics)
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
        dynamics=curves,
        formulas=tuple(Formula(*f) for f in formulas),
        totals=totals(report),
        parameters=parameters(report),
        analyses=tuple(a if isinstance(a, Table) else analysis(a) for a in analyses),
        provenance=tuple(provenance),
    )


# a report ---------------------------------------------------------------------------------------------------------------


def headline(report: Report, spectrum: Spectrum | None = None) -> tuple[Quantity, ...]:
    """The five or six figures that come first."""
    known = report.totals
    out = [_quantity("parameters", "parameters", known["parameters"], f"{known['prunable'].value:,} prunable")]
    if report.masked:
        part = known["kept"].value / max(1, known["prunable"].value)
        out.append(Quantity("density", percent(part), "exact", f"{known['kept'].value:,} kept"))
        out.append(_quantity("effective_sparsity", "effective sparsity", known["effective_sparsity"]))
    span = " to ".join(str(known[k].value) for k in ("shortest_path", "longest_path") if known[k].value is not None)
    out.append(_quantity("paths", "paths", known["paths"], f"through {span} parameters" if span else ""))
    out.append(_quantity("l2_squared", "squared path L2 norm", known["l2_squared"], "R₂, the mass of all paths"))
    if spectrum is None:
        out.append(_quantity("tau", "sum of tau", known["tau"], "of kept parameters"))
    return (*out, *(spectrum.quantities[:2] if spectrum else ()))


def _quantity(name: str, label: str, figure: Figure, note: str = "") -> Quantity:
    return Quantity(label, figure_text(name, figure), status(name, figure), note)


def figure_text(name: str, figure: Figure) -> str:
    """A figure of the totals in the typography of the page."""
    value = figure.value
    if isinstance(value, Mass):
        return power(value.log10 if value.mantissa else None)
    if name == "paths" and isinstance(value, int) and value >= 10**15:
        return power(math.log10(value))
    return shown(name, figure)


def power(log10: float | None) -> str:
    """A number of any size by its logarithm (None: 0): ``1.234``, or ``1.234 × 10²⁵``."""
    if log10 is None or log10 == -math.inf:
        return "0"
    if math.isnan(log10):
        return "-"
    if -3 <= log10 < 5:
        return f"{10**log10:,.4g}" if log10 < 4 else f"{10**log10:,.0f}"
    whole = math.floor(log10)
    leading = 10 ** (log10 - whole)
    if leading >= 9.9995:
        leading, whole = 1.0, whole + 1
    return f"{leading:.3f} × 10{superscript(whole)}"


def totals(report: Report) -> Table:
    """All totals with their status."""
    rows = tuple(
        (Cell(LABELS[name]), Cell(figure_text(name, f), _number(f.value)), Cell(status(name, f)))
        for name, f in report.totals.items()
    )
    return Table("Totals", (Column("figure"), Column("value", number=True), Column("status")), rows, _count(report))


def _number(value: Any) -> float | None:
    if isinstance(value, Mass):
        return value.log10 if value.mantissa else -1e9
    try:
        return None if value is None else float(value)
    except OverflowError:
        return 1e300


def _count(report: Report) -> str:
    from pkcompiler.analysis.report import digits

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


# other rooms' results ---------------------------------------------------------------------------------------------------


def spectrum_of(kernel: Any, k: int = 10, nodes: int = 20, probes: int = 3, samples: int = 8) -> Spectrum:
    """The spectrum of a ``PathKernel``: about ``2 k + nodes * probes + samples`` products and a few more."""
    pairs = kernel.eigenpairs(k)
    density = kernel.density(nodes, probes)
    shift = pairs.exponent * LOG2
    values = [float(v) for v in pairs.values]
    kept = [(math.log10(v) + shift, float(r)) for v, r in zip(values, pairs.residuals, strict=True) if v > 1e-14 * values[0] > 0]
    trace = kernel.trace()
    known = [quantity("Path Kernel trace", trace, "Tr Π, the sum of all eigenvalues")]
    if kept:
        known.append(quantity("effective rank", kernel.effective_rank(samples), "Tr² / ‖Π‖²"))
        stable = Measured(trace.mantissa / values[0], 0, None if trace.error is None else trace.error / values[0], trace.status)
        known.append(quantity("stable rank", stable, "Tr / λ₁"))
    known.append(quantity("mass at zero", density.zero, "part of the eigenvalues that are 0"))
    worst = max((r for _, r in kept), default=0.0)
    return Spectrum(
        tuple(v for v, _ in kept),
        tuple(r for _, r in kept),
        kernel.size,
        _finite(density.grid),
        _finite(density.density),
        _finite(density.error),
        tuple(known),
        f"{len(kept)} largest of {kernel.size:,} eigenvalues by Lanczos, relative residuals at most {worst:.0e}. Density by "
        f"stochastic Lanczos quadrature, {density.probes} probes of {nodes} nodes, smoothed over {density.width} decades; "
        "band: standard error.",
    )


def _finite(values: Any) -> tuple[float, ...]:
    listed = tuple(float(v) for v in values)
    return listed if all(map(math.isfinite, listed)) else ()


def quantity(label: str, measured: Any, note: str = "") -> Quantity:
    """A ``Measured`` (or a float) as a figure of the page; its own note wins."""
    if not isinstance(measured, Measured):
        measured = Measured(float(measured))
    if measured.status == "not predicted":
        return Quantity(label, "-", "not predicted", measured.note)
    text = ("-" if measured.mantissa < 0 else "") + power(measured.log10)
    relative = abs(measured.error / measured.mantissa) if measured.error and measured.mantissa else 0.0
    said = f"{measured.status} ± {100 * relative:.2g}%" if relative else measured.status
    return Quantity(label, text, said, measured.note or note)


def dynamics_of(dynamics: Any) -> Dynamics:
    """The curves of a ``Dynamics``: what is None is left out."""
    wanted = (("predicted_flow", "gradient flow, predicted", "line"), ("predicted_steps", "discrete steps, predicted", "dashed"))
    curves = [_curve(dynamics, *w) for w in (*wanted, ("trained", "trained", "dots"))]
    return Dynamics(tuple(c for c in curves if c is not None), note=str(getattr(dynamics, "note", "")))


def _curve(dynamics: Any, attribute: str, label: str, style: str) -> Curve | None:
    values = getattr(dynamics, attribute, None)
    if values is None:
        return None
    pairs = [(float(t), float(v)) for t, v in zip(dynamics.times, values, strict=False) if math.isfinite(float(v))]
    return Curve(label, style, tuple(t for t, _ in pairs), tuple(v for _, v in pairs)) if pairs else None


def analysis(found: Any) -> Table:
    """The rows of one analysis: label, value (a number, a ``Measured``, a list of them, a text) and status."""
    rows = tuple(cells for row in found.rows for cells in _rows(row.label, row.value, getattr(row, "status", "")))
    return Table(str(found.name), (Column("figure"), Column("value", number=True), Column("status")), rows)


def _rows(label: str, value: Any, said: str) -> list[tuple[Cell, ...]]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return [row for name, v in value.items() for row in _rows(f"{label}, {name}", v, said)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [row for i, v in enumerate(value, 1) for row in _rows(f"{label} {i}", v, said)]
    if isinstance(value, Measured):
        q = quantity(label, value)
        return [(Cell(label), Cell(q.value, value.log10 if math.isfinite(value.log10) else None), Cell(q.status))]
    if isinstance(value, float):
        text = ("-" if value < 0 else "") + power(math.log10(abs(value)) if value else None) if math.isfinite(value) else "-"
        return [(Cell(label), Cell(text, value if math.isfinite(value) else None), Cell(said))]
    if isinstance(value, int) and not isinstance(value, bool):
        return [(Cell(label), Cell(f"{value:,}", float(value) if abs(value) < 10**300 else None), Cell(said))]
    return [(Cell(label), Cell(str(value)), Cell(said))]
