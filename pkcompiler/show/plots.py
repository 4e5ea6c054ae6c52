"""The figures of a page as files, by matplotlib: the same bytes for the same page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from pkcompiler.markup import superscript
from pkcompiler.show import heat
from pkcompiler.show.nodes import shorten
from pkcompiler.show.numbers import decades, whole
from pkcompiler.show.page import Dynamics, Layer, Page, Spectrum
from pkcompiler.show.pictures import blank, check, write
from pkcompiler.show.theme import LIGHT


def write_plots(folder: str | Path, page: Page, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write ``network``, ``layers``, ``spectrum``, ``paths``, ``loss``, as far as the page has them.

    Returns the paths.

    Raises ``PKC632`` where matplotlib is missing, ``PKC633`` for an unknown format, ``PKC634`` where a file cannot be written.
    """
    check(formats)
    where, written = Path(folder), []
    for name, draw in _drawings(page).items():
        written += write(draw, where, name, formats)
    return written


def _drawings(page: Page) -> dict[str, Callable[[], Any]]:
    from pkcompiler.show.plot_network import network

    out: dict[str, Callable[[], Any]] = {}
    if page.drawing is not None:
        out["network"] = lambda: network(page)
    if page.layers:
        out["layers"] = lambda: layers(page.layers)
    if page.spectrum is not None and (page.spectrum.log10_values or page.spectrum.grid):
        spectrum = page.spectrum
        out["spectrum"] = lambda: spectral(spectrum)
    if page.heat is not None and page.heat.labels:
        shown = page.heat
        out["paths"] = lambda: heat.drawn(shown)
    if page.dynamics is not None and page.dynamics.curves:
        dynamics = page.dynamics
        out["loss"] = lambda: loss(dynamics)
    return out


def layers(shown: Sequence[Layer]) -> Any:
    """Shares and densities, layer by layer."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = blank(max(7.0, 0.28 * len(shown) + 2), 6.2, 3, 1, sharex=True, height_ratios=(3, 2, 2))
    top, middle, low = axes[:, 0]
    at = range(len(shown))
    for key, label, colour, marker in (("l2", "L2 share (of R₂)", "accent", "o"), ("l1", "L1 share (of R₁)", "second", "s")):
        values = [getattr(layer, key) for layer in shown]
        known = [float("nan") if v is None else v for v in values]
        top.plot(at, known, color=LIGHT[colour], marker=marker, markersize=4, linewidth=1.2, label=label)
    middle.bar(at, [layer.tau or 0.0 for layer in shown], 0.72, color=LIGHT["accent"])
    low.bar(
        at, [layer.density for layer in shown], 0.72, color=LIGHT["raised"], edgecolor=LIGHT["edge"], linewidth=0.6, label="kept"
    )
    low.bar(at, [layer.effective for layer in shown], 0.72, color=LIGHT["third"], label="effective (on a path)")
    names = [shorten(layer.name.removesuffix(".weight"), 26) for layer in shown]
    low.set_xticks(list(at), names, rotation=50, ha="right", rotation_mode="anchor", fontsize=7)
    for axis, label in ((top, "mass crossing"), (middle, "tau share"), (low, "density")):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(top)
    _legend(low)
    return figure


def _legend(axis: Any) -> None:
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderaxespad=0.2, columnspacing=1.4)


def spectral(shown: Spectrum) -> Any:
    """The leading eigenvalues, and the spectral density."""
    parts = [part for part, known in ((_leading, shown.log10_values), (_density, shown.grid)) if known]
    figure, axes = blank(5.2 * len(parts), 3.4, 1, len(parts))
    for part, axis in zip(parts, axes[0], strict=True):
        part(axis, shown)
    return figure


def _leading(axis: Any, shown: Spectrum) -> None:
    ranks = range(1, len(shown.log10_values) + 1)
    axis.plot(ranks, shown.log10_values, "o", color=LIGHT["accent"], markersize=5)
    axis.set_xticks(list(ranks) if len(ranks) <= 20 else list(ranks)[:: len(ranks) // 10])
    axis.set_xlabel("rank")
    axis.set_ylabel("eigenvalue")
    low, high = decades(min(shown.log10_values) - 0.15, max(shown.log10_values) + 0.15)
    axis.set_ylim(low, high)
    axis.set_yticks(whole(low, high), [f"10{superscript(t)}" for t in whole(low, high)])


def _density(axis: Any, shown: Spectrum) -> None:
    if shown.error:
        pairs = list(zip(shown.density, shown.error, strict=True))
        low, high = [max(0.0, m - e) for m, e in pairs], [m + e for m, e in pairs]
        axis.fill_between(shown.grid, low, high, color=LIGHT["accent"], alpha=0.25, linewidth=0)
    axis.plot(shown.grid, shown.density, color=LIGHT["accent"], linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("eigenvalue")
    axis.set_ylabel("part of the spectrum per decade")
    ticks = whole(shown.grid[0], shown.grid[-1])
    axis.set_xticks(ticks, [f"10{superscript(t)}" for t in ticks])


def loss(shown: Dynamics) -> Any:
    """Predicted and true losses."""
    figure, axes = blank(7.0, 3.2 + 0.3 * len(shown.curves))
    axis = axes[0, 0]
    for curve, colour in zip(shown.curves, ("accent", "second", "third", "muted", "text"), strict=False):
        style = {"line": "-", "dashed": "--", "dots": "o"}[curve.style]
        axis.plot(curve.x, curve.y, style, color=LIGHT[colour], linewidth=1.6, markersize=3.5, label=fill(curve.label, 80))
    axis.set_xlabel(shown.x_label)
    axis.set_ylabel(shown.y_label)
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=1, borderaxespad=0.2)
    return figure
