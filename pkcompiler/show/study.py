"""The figures of a study: accuracy against compression with bands over seeds, effective against direct sparsity, and what was
measured before training beside the accuracy after it. By matplotlib: the same bytes for the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pkcompiler.show.pictures import blank, save
from pkcompiler.show.theme import LIGHT

Row = Mapping[str, Any]
DENSE = "dense"
MARKERS = "osD^v<>Pphd*X"
COLOURS = ("#0072b2", "#c45500", "#00805e", "#b0468c", "#5b6876", "#8a7a00", "#3aa0d8", "#7a3b1e")
"""Okabe and Ito (2008), darkened for white; the marker changes too, so that no two series share both."""
DASHES = ("-", "--", ":", "-.")
MOST = 6
"""Measured columns that are drawn."""
FEW = 7
"""So many compressions are all written along the axis."""
TOGETHER = len(COLOURS)
"""Methods whose curves one panel shows in colour; more are shown panel by panel, before all others in grey."""


@dataclass(frozen=True, slots=True)
class Point:
    """A method at a compression: mean and standard deviation over seeds, and whether a seed has no number."""

    x: float
    y: float
    spread: float
    lost: bool


def write_study_plots(
    folder: Path, rows: Sequence[Row], metric: str, measures: Sequence[str] = (), formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write ``accuracy``, ``sparsity`` and, where something was measured, ``measures``.

    ``rows``: of the table of results. ``metric``: the column that says how good a network is; ``measures``: those of the analyses.
    Returns the paths. Raises ``PKC632`` to ``PKC634``.
    """
    drawings: dict[str, Callable[[], Any]] = {"accuracy": lambda: accuracy(rows, metric), "sparsity": lambda: sparsity(rows)}
    if measures:
        drawings["measures"] = lambda: panels(rows, [metric, *measures[:MOST]])
    written = []
    for name, draw in drawings.items():
        for form in formats:
            path = folder / f"{name}.{form}"
            save(path, draw)
            written.append(path)
    return written


def accuracy(rows: Sequence[Row], metric: str) -> Any:
    """One panel for each model; panels for every eight methods where there are more."""
    models = _unique(rows, "model")
    names = [name for name in _unique(rows, "method") if name != DENSE]
    if len(names) > TOGETHER:
        return _parts(rows, metric, models, [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)])
    figure, axes = blank(5.6 * len(models) + 2.4, 4.4, 1, len(models))
    for axis, model in zip(axes[0], models, strict=True):
        own = [row for row in rows if row["model"] == model]
        _curves(axis, own, metric)
        axis.set_title(model if len(models) > 1 else "")
        axis.set_xlabel("compression (weights per kept weight)")
        axis.set_ylabel(_label(metric))
    _legend(figure, axes[0, 0])
    return figure


def _parts(rows: Sequence[Row], metric: str, models: Sequence[str], parts: Sequence[Sequence[str]]) -> Any:
    """Panels of a few methods each in their colours, all others behind them: two beside each other, those of a model together."""
    columns = 2
    lines = -(-len(parts) // columns)
    figure, axes = blank(5.6 * columns, 4.2 * lines * len(models), lines * len(models), columns, sharex=True, sharey=True)
    panels = iter(axes.flat)
    for model in models:
        own = [row for row in rows if row["model"] == model]
        for part in [*parts, *[()] * (lines * columns - len(parts))]:
            axis = next(panels)
            if not part:
                axis.set_visible(False)
                continue
            _curves(axis, own, metric, part)
            axis.set_title(model if len(models) > 1 else "")
            axis.set(xlabel="compression (weights per kept weight)", ylabel=_label(metric))
            axis.legend(loc="lower left", fontsize=8, framealpha=0.9)
    return figure


def panels(rows: Sequence[Row], columns: Sequence[str]) -> Any:
    """What was measured, beside each other over the same compressions: a row for each model."""
    models = _unique(rows, "model")
    figure, axes = blank(3.4 * len(columns) + 2.4, 3.2 * len(models), len(models), len(columns), sharex=True)
    for line, model in zip(axes, models, strict=True):
        own = [row for row in rows if row["model"] == model]
        for axis, column in zip(line, columns, strict=True):
            _curves(axis, own, column)
            values = [row[column] for row in own if row[column] is not None]
            _heights(axis, [float(v) for v in values])
            axis.set_title(_label(column))
            axis.set_xlabel("compression")
        line[0].set_ylabel(model if len(models) > 1 else "")
    _legend(figure, axes[0, 0])
    return figure


def sparsity(rows: Sequence[Row]) -> Any:
    """Compression by weights on paths against compression by kept weights: above the diagonal, kept weights do nothing."""
    models = _unique(rows, "model")
    figure, axes = blank(4.4 * len(models) + 2.4, 4.0, 1, len(models))
    for axis, model in zip(axes[0], models, strict=True):
        own = [row for row in rows if row["model"] == model and row["kept"] and row["on_paths"]]
        for name, style in _styles(own).items():
            mine = [row for row in own if row["method"] == name]
            x = [row["weights"] / row["kept"] for row in mine]
            y = [row["weights"] / row["on_paths"] for row in mine]
            axis.plot(x, y, **{**style, "linestyle": "none"}, label=name)
        ends = [row["weights"] / row["kept"] for row in own] or [1.0]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color=LIGHT["edge"], linewidth=0.8, zorder=0)
        axis.set(xscale="log", yscale="log")
        _plain_ticks(axis.xaxis, axis.yaxis)
        axis.set_title(model if len(models) > 1 else "")
        axis.set_xlabel("direct compression (kept weights)")
        axis.set_ylabel("effective compression (weights on a path)")
    _legend(figure, axes[0, 0])
    return figure


def points(rows: Sequence[Row], column: str) -> list[Point]:
    """The points of one method's rows, by compression; rows without a number (collapsed, failed) are only marked as lost."""
    by_x: dict[float, list[Any]] = {}
    for row in rows:
        reached = row["weights"] / row["kept"] if row["kept"] else None
        x = row["compression"] if row["compression"] is not None else reached
        if x is not None:
            by_x.setdefault(round(x, 9), []).append(row[column])
    found = []
    for x, values in sorted(by_x.items()):
        known = [float(v) for v in values if v is not None]
        if known:
            found.append(Point(x, mean(known), stdev(known) if len(known) > 1 else 0.0, len(known) < len(values)))
    return found


def _curves(axis: Any, rows: Sequence[Row], column: str, named: Sequence[str] | None = None) -> None:
    """The mean of every method with a band of one standard deviation; hollow where a seed has no number.

    ``named``: those that are told apart, all others grey; None for all, without bands where there are too many.
    """
    axis.set_xscale("log")
    _plain_ticks(axis.xaxis)
    asked = sorted({round(row["compression"], 9) for row in rows if row["compression"] is not None and row["method"] != DENSE})
    if 0 < len(asked) <= FEW:
        axis.set_xticks(asked)
        axis.set_xticks([], minor=True)
    crowded = len(_unique(rows, "method")) > TOGETHER + 1
    for name, style in _styles(rows).items():
        found = points([row for row in rows if row["method"] == name], column)
        if name == DENSE:
            for point in found:
                axis.axhline(point.y, color=LIGHT["edge"], linewidth=1.0, linestyle="--", label=name, zorder=0)
            continue
        x, y = [p.x for p in found], [p.y for p in found]
        if named is not None and name not in named:
            axis.plot(x, y, color=LIGHT["line"], linewidth=0.8, zorder=0)
            continue
        axis.plot(x, y, **style, label=name)
        if named is not None or not crowded:
            low, high = [p.y - p.spread for p in found], [p.y + p.spread for p in found]
            axis.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)
        lost = [p for p in found if p.lost]
        hollow = {**style, "linestyle": "none", "markerfacecolor": LIGHT["surface"]}
        axis.plot([p.x for p in lost], [p.y for p in lost], **hollow)


def _plain_ticks(*axes: Any) -> None:
    """Plain numbers along logarithmic axes, none at the small ticks."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())


def _heights(axis: Any, values: Sequence[float]) -> None:
    """A vertical axis that suits the values: logarithmic over more than a decade, around a value that never changes."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high > 20 * low:
        axis.set_yscale("log")
        _plain_ticks(axis.yaxis)
    elif high - low <= 1e-6 * abs(high):
        axis.set_ylim(sorted((0.0, 2 * high)) if high else (-1.0, 1.0))


def _styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every method, in the order of the table; the dense network's is plain."""
    names = [name for name in _unique(rows, "method") if name != DENSE]
    plain = {DENSE: {"color": LIGHT["edge"], "marker": "x", "markersize": 5}} if len(names) < len(_unique(rows, "method")) else {}
    return plain | {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
            "markersize": 4,
            "linewidth": 1.3,
        }
        for i, name in enumerate(names)
    }


def _legend(figure: Any, axis: Any) -> None:
    """Beside the panels, each series once, in as many columns as fit it into their height."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    size = 8
    fits = int(figure.get_figheight() * 72 / (1.9 * size))
    figure.legend(once.values(), once.keys(), loc="outside right upper", fontsize=size, ncols=-(-len(once) // fits))


def _unique(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(str(row[column]) for row in rows))


def _label(column: str) -> str:
    """A column without the part that says where it comes from."""
    return column.partition(": ")[2] or column
