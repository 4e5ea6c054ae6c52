"""What kernels, dynamics and analyses found, as the parts of a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pkcompiler.analyses.values import Series
from pkcompiler.kernel.quadrature import Density
from pkcompiler.markup import Cell, Column, Table
from pkcompiler.measured import LOG2, Measured
from pkcompiler.show.numbers import power
from pkcompiler.show.page import Curve, Dynamics, Reading, Spectrum


def spectrum_of(kernel: Any, k: int = 10, nodes: int = 16, probes: int = 3, samples: int = 8) -> Spectrum:
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
    if density.zero.status != "not predicted":
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
        f"{len(kept)} largest of {kernel.size:,} eigenvalues by Lanczos, relative residuals at most {worst:.0e}. "
        + _how(density, nodes),
    )


def _how(density: Density, nodes: int) -> str:
    """How a density was computed, and what it says of the eigenvalue 0."""
    if not density.probes:
        return f"Density of all eigenvalues, smoothed over {density.width} decades."
    unresolved = " The part of the spectrum at 0 is not resolved." if density.zero.status == "not predicted" else ""
    return (
        f"Density by stochastic Lanczos quadrature, {density.probes} probes of {nodes} nodes, smoothed over {density.width} "
        f"decades; band: standard error.{unresolved}"
    )


def _finite(values: Any) -> tuple[float, ...]:
    listed = tuple(float(v) for v in values)
    return listed if all(map(math.isfinite, listed)) else ()


def quantity(label: str, measured: Any, note: str = "") -> Reading:
    """A ``Measured`` (or a float) as a figure of the page; its own note wins."""
    if not isinstance(measured, Measured):
        measured = Measured(float(measured))
    if measured.status == "not predicted":
        return Reading(label, "-", "not predicted", measured.note)
    text = ("-" if measured.mantissa < 0 else "") + power(measured.log10)
    relative = abs(measured.error / measured.mantissa) if measured.error and measured.mantissa else 0.0
    said = f"{measured.status} ± {100 * relative:.2g}%" if relative else measured.status
    return Reading(label, text, said, measured.note or note)


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


def losses_of(analyses: Iterable[Any]) -> Dynamics | None:
    """The curves over steps that analyses report, in one figure; None where there are none."""
    rows = [row for found in analyses if not isinstance(found, Table) for row in found.rows if _steps(row.value)]
    curves = [
        _points(row.label, style, row.value) for row, style in zip(rows, ("line", "dashed", "dots") * len(rows), strict=False)
    ]
    note = "; ".join(dict.fromkeys(row.value.note for row in rows if row.value.note))
    return Dynamics(tuple(curves), note=note) if curves else None


def _steps(value: Any) -> bool:
    return isinstance(value, Series) and value.axes == ("step",)


def _points(label: str, style: str, value: Series) -> Curve:
    pairs = [(float(i), v) for i, v in enumerate(value.floats()) if math.isfinite(v)]
    return Curve(f"{label} ({value.status})", style, tuple(i for i, _ in pairs), tuple(v for _, v in pairs))


def tables_of(found: Any) -> tuple[Table, ...]:
    """The tables of an analysis: its figures, and what it says of every parameter."""
    plain = [cells for row in found.rows if not isinstance(row.value, Mapping) for cells in _rows(row)]
    notes = "; ".join(f"{row.label}: {row.note}" for row in found.rows if row.note)
    heads = (Column("figure"), Column("value", number=True), Column("status"))
    tables = [Table(found.name, heads, tuple(plain), ". ".join(filter(None, (found.doc, notes))))] if plain else []
    wide = [row for row in found.rows if isinstance(row.value, Mapping)]
    if wide:
        names = dict.fromkeys(name for row in wide for name in row.value)
        titles = (Column("parameter"), *(Column(row.label, True, row.status) for row in wide))
        body = tuple((Cell(name), *(_cell(row.value.get(name)) for row in wide)) for name in names)
        tables.append(Table(f"{found.name}, by parameter", titles, body, "" if plain else found.doc))
    return tuple(tables)


def _rows(row: Any) -> list[tuple[Cell, ...]]:
    if isinstance(row.value, Measured):
        return [(Cell(row.label), _cell(row.value), Cell(quantity("", row.value).status))]
    if isinstance(row.value, Series) and row.value.axes == ("rank",):
        shift = row.value.exponent * LOG2
        logs = [math.log10(v) + shift if v > 0 else -math.inf for v in row.value.values.tolist()]
        return [(Cell(f"{row.label}, {i}"), Cell(power(v), v), Cell(row.status)) for i, v in enumerate(logs, 1)]
    return [(Cell(row.label), Cell(str(row.value)), Cell(row.status))]


def _cell(value: Measured | None) -> Cell:
    if value is None:
        return Cell("-")
    if value.status == "bound" and value.note:
        return Cell(value.note, float(value) if math.isfinite(float(value)) else None)
    size = float(value)
    whole = value.status == "exact" and abs(size) < 10**15 and size == math.floor(size)
    text = f"{int(size):,}" if whole else quantity("", value).value
    return Cell(text, size if math.isfinite(size) else None)
