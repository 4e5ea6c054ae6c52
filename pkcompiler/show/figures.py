"""The figures of a page in Bokeh, which draws pan, zoom, taps and hovers from one inlined script, without a network or pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import BasicTickFormatter, ColumnDataSource, CustomJSTickFormatter, FixedTicker

from pkcompiler.show import heat
from pkcompiler.show.canvas import hover, legend, paint, plot, span
from pkcompiler.show.network import network
from pkcompiler.show.nodes import shorten
from pkcompiler.show.numbers import decades, power, whole
from pkcompiler.show.page import Dynamics, Layer, Page, Spectrum

POWERS = "const d='⁰¹²³⁴⁵⁶⁷⁸⁹';return Number.isInteger(tick)?'10'+String(tick).replace('-','⁻').replace(/[0-9]/g,c=>d[c]):''"


def figures(page: Page) -> dict[str, Any]:
    """The figures that a page has, by name: ``network mass tau density eigenvalues spectrum heat loss``."""
    out: dict[str, Any] = {}
    if page.drawing is not None:
        out["network"] = network(page)
    if page.layers:
        names = [layer.name for layer in page.layers]
        out["mass"] = shares(page.layers, names)
        out["tau"] = bars(names, "tau share", "accent", [layer.tau or 0.0 for layer in page.layers])
        out["density"] = densities(page.layers, names)
    if page.spectrum is not None and page.spectrum.log10_values:
        out["eigenvalues"] = eigenvalues(page.spectrum)
    if page.spectrum is not None and page.spectrum.grid:
        out["spectrum"] = spectral_density(page.spectrum)
    if page.heat is not None and page.heat.labels:
        out["heat"] = heat.figure(page.heat)
    if page.dynamics is not None and page.dynamics.curves:
        out["loss"] = loss(page.dynamics)
    return out


def _layered(height: int, label: str, names: Sequence[str], named: bool = False) -> Any:
    """A figure over the layers; the lowest one names them."""
    shown = plot(height, x_range=span(-0.7, len(names) - 0.3))
    shown.yaxis[0].axis_label = label
    shown.yaxis[0].formatter = CustomJSTickFormatter(code="return Number((100*tick).toPrecision(3))+'%'")
    axis, step = shown.xaxis[0], max(1, -(-len(names) // 48))
    ticks = list(range(0, len(names), step))
    axis.ticker = FixedTicker(ticks=ticks)
    axis.major_label_overrides = {i: shorten(names[i].removesuffix(".weight"), 26) for i in ticks}
    axis.major_label_orientation = 0.9
    if not named:
        axis.major_label_text_font_size, axis.major_label_text_alpha = "0px", 0
    return shown


def shares(layers: Sequence[Layer], names: Sequence[str]) -> Any:
    """The parts of R_1 and R_2 that cross every layer."""
    shown = _layered(190, "mass crossing", names)
    at = list(range(len(layers)))
    data = {"x": at, "name": list(names), "l1": [la.l1 for la in layers], "l2": [la.l2 for la in layers]}
    source = ColumnDataSource(data)
    marks = []
    for key, label, colour, marker in (
        ("l2", "L2 share (of R₂)", "accent", "circle"),
        ("l1", "L1 share (of R₁)", "second", "square"),
    ):
        line = shown.line("x", key, source=source, line_width=1.5, legend_label=label)
        mark = shown.scatter("x", key, source=source, size=7, marker=marker, legend_label=label)
        paint(line.glyph, line_color=colour)
        paint(mark.glyph, fill_color=colour, line_color="surface")
        marks.append(mark)
    top = max([1.0, *(v for la in layers for v in (la.l1, la.l2) if v is not None)])
    shown.y_range = span(0, 1.06 * top)
    legend(shown)
    hover(shown, marks, [("", "@name"), ("L2 share", "@l2{0.00%}"), ("L1 share", "@l1{0.00%}")])
    return shown


def bars(names: Sequence[str], label: str, colour: str, values: Sequence[float]) -> Any:
    """One bar per layer."""
    shown = _layered(130, label, names)
    drawn = shown.vbar(
        "x", 0.72, "top", source=ColumnDataSource({"x": list(range(len(names))), "top": list(values), "name": list(names)})
    )
    paint(drawn.glyph, fill_color=colour, line_color=colour)
    shown.y_range = span(0, 1.06 * (max(values, default=0.0) or 1.0))
    hover(shown, [drawn], [("", "@name"), (label, "@top{0.0000%}")])
    return shown


def densities(layers: Sequence[Layer], names: Sequence[str]) -> Any:
    """Kept (outlined) and effective (filled) parts of every layer."""
    shown = _layered(256, "density", names, named=True)
    data = {
        "x": list(range(len(layers))),
        "name": list(names),
        "kept": [la.density for la in layers],
        "on": [la.effective for la in layers],
    }
    source = ColumnDataSource(data)
    kept = shown.vbar("x", 0.72, "kept", source=source, legend_label="kept", line_width=1)
    paint(kept.glyph, fill_color="raised", line_color="edge")
    effective = shown.vbar("x", 0.72, "on", source=source, legend_label="effective (on a path)", line_color=None)
    paint(effective.glyph, fill_color="third")
    shown.y_range = span(0, 1.06 * max(la.density for la in layers) or 1.0)
    legend(shown)
    hover(shown, [kept], [("", "@name"), ("kept", "@kept{0.00%}"), ("effective", "@on{0.00%}")])
    return shown


def side_by_side(
    names: Sequence[str], labels: Sequence[str], rows: Sequence[Sequence[float | None]], colours: Sequence[str]
) -> Any:
    """The densities [layer][artifact] of every layer, one bar an artifact."""
    shown = _layered(330, "density", names, named=True)
    width = 0.8 / len(labels)
    top = max((v for row in rows for v in row if v is not None), default=0.0) or 1.0
    for i, label in enumerate(labels):
        at = [k - 0.4 + (i + 0.5) * width for k in range(len(names))]
        values = [row[i] or 0.0 for row in rows]
        source = ColumnDataSource({"x": at, "top": values, "name": list(names), "label": [label] * len(names)})
        drawn = shown.vbar("x", 0.92 * width, "top", source=source, legend_label=label, line_color=None)
        paint(drawn.glyph, fill_color=colours[i % len(colours)])
        hover(shown, [drawn], [("", "@label"), ("layer", "@name"), ("density", "@top{0.00%}")], "mouse")
    shown.y_range = span(0, 1.06 * top)
    legend(shown)
    return shown


def overlaps(names: Sequence[str], pairs: Sequence[tuple[str, Sequence[float | None]]], colours: Sequence[str]) -> Any:
    """The overlap of every pair of masks, layer by layer."""
    shown = _layered(300, "overlap", names, named=True)
    shown.yaxis[0].formatter = BasicTickFormatter()
    for (label, values), colour in zip(pairs, colours, strict=False):
        known = [(i, v) for i, v in enumerate(values) if v is not None]
        columns = {"x": [i for i, _ in known], "y": [v for _, v in known], "name": [names[i] for i, _ in known]}
        source = ColumnDataSource({**columns, "label": [label] * len(known)})
        line = shown.line("x", "y", source=source, line_width=1.5, legend_label=label)
        mark = shown.scatter("x", "y", source=source, size=7, legend_label=label)
        paint(line.glyph, line_color=colour)
        paint(mark.glyph, fill_color=colour, line_color="surface")
        hover(shown, [mark], [("", "@label"), ("layer", "@name"), ("overlap", "@y{0.0000}")], "mouse")
    shown.y_range = span(0, 1.06)
    legend(shown)
    return shown


def eigenvalues(spectrum: Spectrum) -> Any:
    """The leading eigenvalues by rank."""
    values = spectrum.log10_values
    shown = plot(300, x_range=span(0.4, len(values) + 0.6))
    shown.xaxis[0].axis_label, shown.yaxis[0].axis_label = "rank", "eigenvalue"
    shown.xaxis[0].ticker = FixedTicker(ticks=list(range(1, len(values) + 1)))
    shown.yaxis[0].formatter = CustomJSTickFormatter(code=POWERS)
    low, high = min(values), max(values)
    room = max(0.15, 0.12 * (high - low))
    floor, top = decades(low - room, high + room)
    shown.yaxis[0].ticker = FixedTicker(ticks=whole(floor, top))
    shown.y_range = span(floor, top)
    source = ColumnDataSource(
        {
            "rank": list(range(1, len(values) + 1)),
            "log": list(values),
            "floor": [floor] * len(values),
            "text": [power(v) for v in values],
            "residual": [f"{r:.0e}" for r in spectrum.residuals],
        }
    )
    stem = shown.segment("rank", "floor", "rank", "log", source=source, line_width=2)
    dots = shown.scatter("rank", "log", source=source, size=10)
    paint(stem.glyph, line_color="line")
    paint(dots.glyph, fill_color="accent", line_color="surface")
    hover(shown, [dots], [("λ@rank", "@text"), ("relative residual", "@residual")])
    return shown


def spectral_density(spectrum: Spectrum) -> Any:
    """Mass of the spectrum per decade, with a band of one standard error."""
    shown = plot(300)
    shown.xaxis[0].axis_label, shown.yaxis[0].axis_label = "eigenvalue", "part of the spectrum per decade"
    shown.xaxis[0].formatter = CustomJSTickFormatter(code=POWERS)
    shown.xaxis[0].ticker = FixedTicker(ticks=whole(spectrum.grid[0], spectrum.grid[-1]))
    shown.x_range = span(spectrum.grid[0], spectrum.grid[-1])
    grid, mass = list(spectrum.grid), list(spectrum.density)
    if spectrum.error:
        low = [max(0.0, m - e) for m, e in zip(mass, spectrum.error, strict=True)]
        high = [m + e for m, e in zip(mass, spectrum.error, strict=True)]
        band = shown.varea(grid, low, high, fill_alpha=0.25)
        paint(band.glyph, fill_color="accent")
    source = ColumnDataSource({"x": grid, "y": mass, "text": [power(v) for v in grid]})
    line = shown.line("x", "y", source=source, line_width=2)
    paint(line.glyph, line_color="accent")
    shown.y_range.start = 0
    hover(shown, [line], [("eigenvalue", "@text"), ("per decade", "@y{0.0000}")])
    return shown


def loss(dynamics: Dynamics) -> Any:
    """Predicted and true losses over steps."""
    shown = plot(320)
    shown.xaxis[0].axis_label, shown.yaxis[0].axis_label = dynamics.x_label, dynamics.y_label
    marks = []
    for curve, colour in zip(dynamics.curves, ("accent", "second", "third", "muted", "text"), strict=False):
        source = ColumnDataSource({"x": list(curve.x), "y": list(curve.y), "label": [curve.label] * len(curve.x)})
        if curve.style == "dots":
            drawn = shown.scatter("x", "y", source=source, size=6, legend_label=curve.label)
            paint(drawn.glyph, fill_color=colour, line_color="surface")
        else:
            dash = "dashed" if curve.style == "dashed" else "solid"
            drawn = shown.line("x", "y", source=source, line_width=2, line_dash=dash, legend_label=curve.label)
            paint(drawn.glyph, line_color=colour)
        marks.append(drawn)
    legend(shown)
    for drawn in marks:
        hover(shown, [drawn], [("", "@label"), (dynamics.x_label, "@x"), (dynamics.y_label, "@y{0.0000}")], "mouse")
    return shown
