"""The densities of a dry run as files: every layer and the whole over the rounds, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pkcompiler.show.nodes import shorten
from pkcompiler.show.pictures import blank, save
from pkcompiler.show.theme import LIGHT

NAMED = 12
"""So many layers are named beside their lines; more are told apart by a scale of colours, from the first to the last."""

MOMENTS = 20
"""So many moments of training are named below the axis."""


def write_densities(folder: str | Path, states: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``densities.png`` and ``densities.svg``. ``states``: of every round ``density``, ``when``, and by name ``layers``.

    Returns the paths. Raises ``PKC632`` where matplotlib is missing, ``PKC634`` where a file cannot be written.
    """
    paths = [Path(folder) / f"densities.{form}" for form in ("png", "svg")]
    for path in paths:
        save(path, lambda: densities(states))
    return paths


def densities(states: Sequence[Mapping[str, Any]]) -> Any:
    """One line per layer from 1 before the first round, the whole drawn thicker; densities on a logarithmic axis.

    A cross ends the line of a layer that is empty from then on. Rounds in training have no layers, and are named by their moments;
    without a density nothing is drawn.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    figure, axes = blank(7.0, 3.6)
    axis = axes[0, 0]
    rounds = range(len(states) + 1)
    names = list(dict.fromkeys(name for state in states for name in state["layers"]))
    values = {name: [1.0, *(_density(state, name) for state in states)] for name in names}
    _layers(figure, axis, values)
    whole = [1.0, *(math.nan if state["density"] is None else state["density"] for state in states)]
    axis.plot(rounds, whole, color=LIGHT["text"], linewidth=2.0, marker="" if names else ".", label="all")
    axis.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    lowest = min(v for line in axis.lines for v in line.get_ydata() if v > 0)
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(plain if lowest > 0.1 else NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    moments = [state["when"] for state in states]
    if len(set(moments)) > 1 and len(moments) <= MOMENTS:
        axis.set_xticks(rounds, ["", *(moment.split(",")[0].removeprefix("after ") for moment in moments)], rotation=30, ha="right")
    axis.set_xlabel("round")
    axis.set_ylabel("density")
    axis.legend(loc="lower left", fontsize=7, ncols=2)
    return figure


def _layers(figure: Any, axis: Any, values: Mapping[str, Sequence[float]]) -> None:
    """One line per layer: few with their names, many on a scale of colours."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    scale = ScalarMappable(Normalize(1, max(2, len(values))), "viridis")
    colours = colormaps["viridis"](scale.norm(np.arange(1.0, len(values) + 1)))
    few = len(values) <= NAMED
    emptied: list[tuple[int, float, Any]] = []
    for (name, line), colour in zip(values.items(), colours, strict=True):
        look = {"label": shorten(name, 26)} if few else {"color": colour}
        (drawn,) = axis.plot(range(len(line)), [value or math.nan for value in line], linewidth=1.0, alpha=0.75, **look)
        if 0.0 in line:
            last = line.index(0.0) - 1
            emptied.append((last, line[last], drawn.get_color()))
    for x, y, colour in emptied:
        axis.plot([x], [y], "x", color=colour, markersize=7, label="_nolegend_")
    if emptied:
        axis.plot([], [], "x", color=LIGHT["text"], label="empty from the next round on")
    if not few:
        figure.colorbar(scale, ax=axis, ticks=MaxNLocator(integer=True), label="layer, in order of the graph")


def _density(state: Mapping[str, Any], name: str) -> float:
    """A layer's density; NaN in a round whose layers are not known."""
    found: float = state["layers"].get(name, 1.0 if state["layers"] else math.nan)
    return found
