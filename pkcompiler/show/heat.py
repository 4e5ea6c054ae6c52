"""The Path Kernel of a small graph as a heat map: Pi, path by path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pkcompiler.show.page import Heat
from pkcompiler.show.pictures import blank
from pkcompiler.show.theme import LIGHT, ramp

if TYPE_CHECKING:
    from pkcompiler.kernel.explicit import ExplicitKernel

MOST = 64
"""Paths that are drawn: those with the largest diagonal entries."""

NAMED = 40
"""Paths up to which each row is labelled."""

BLANK = "#f4f4f2"


def heat_of(kernel: ExplicitKernel) -> Heat:
    """Pi of a graph whose paths are enumerated, or its ``MOST`` heaviest paths."""
    chosen = kernel.heat_map(MOST)
    rows = tuple(tuple(float(v) for v in row) for row in chosen.values.tolist())
    return Heat(tuple(chosen.labels), rows, len(kernel.paths))


def colour(value: float, largest: float) -> str:
    """Blue above 0, orange below, pale at 0; the depth is |value| / largest."""
    part = abs(value) / largest if largest else 0.0
    return ramp(part, BLANK, LIGHT["accent"] if value >= 0 else LIGHT["second"])


def peak(shown: Heat) -> float:
    """The largest |entry|."""
    return max((abs(v) for row in shown.values for v in row), default=0.0)


def figure(shown: Heat) -> Any:
    """For the page: a square for every pair of paths, whose pointer reads both paths and the entry."""
    from bokeh.models import ColumnDataSource, FixedTicker

    from pkcompiler.show.canvas import hover, plot, span

    count, largest = len(shown.labels), peak(shown)
    made = plot(520, x_range=span(-0.5, count - 0.5), y_range=span(count - 0.5, -0.5), match_aspect=True)
    made.xaxis[0].axis_label = made.yaxis[0].axis_label = "path"
    for axis in (made.xaxis[0], made.yaxis[0]):
        axis.ticker = FixedTicker(ticks=list(range(0, count, max(1, count // 10))))
        axis.major_label_overrides = {i: str(i + 1) for i in range(count)}
    made.ygrid[0].grid_line_color = None
    pairs = [(i, j) for i in range(count) for j in range(count)]
    source = ColumnDataSource(
        {
            "x": [j for _, j in pairs],
            "y": [i for i, _ in pairs],
            "colour": [colour(shown.values[i][j], largest) for i, j in pairs],
            "value": [f"{shown.values[i][j]:.4g}" for i, j in pairs],
            "one": [shown.labels[i] for i, _ in pairs],
            "other": [shown.labels[j] for _, j in pairs],
        }
    )
    squares = made.rect("x", "y", width=1, height=1, source=source, fill_color="colour", line_color=None)
    hover(made, [squares], [("Π", "@value"), ("path", "@one"), ("path", "@other")], "mouse")
    return made


def drawn(shown: Heat) -> Any:
    """For files: the same by matplotlib, with a colour bar."""
    from matplotlib.colors import LinearSegmentedColormap

    count, largest = len(shown.labels), peak(shown) or 1.0
    made, axes = blank(7.2, 6.4)
    axis = axes[0][0]
    scale = LinearSegmentedColormap.from_list("kernel", [LIGHT["second"], BLANK, LIGHT["accent"]])
    image = axis.imshow(shown.values, cmap=scale, vmin=-largest, vmax=largest, interpolation="nearest")
    axis.grid(visible=False)
    if count <= NAMED:
        axis.set_yticks(range(count), shown.labels, fontsize=5)
    axis.set_xticks([])
    axis.set_title(f"Path Kernel: {count} of {shown.paths:,} paths" if count < shown.paths else f"Path Kernel: {count} paths")
    made.colorbar(image, ax=axis, shrink=0.8)
    return made
