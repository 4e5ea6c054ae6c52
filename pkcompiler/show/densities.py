"""The densities of a dry run as files: every layer and the whole over the rounds, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pkcompiler.show.nodes import shorten
from pkcompiler.show.plots import blank, save
from pkcompiler.show.theme import LIGHT

NAMED = 12
"""So many layers are named beside their lines; more are told apart by a scale of colours, from the first to the last."""


def write_densities(folder: str | Path, states: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write ``densities.png`` and ``densities.svg``. ``states``: per round ``density`` and ``layers``, name to density.

    Returns the paths. Raises ``PKC632`` where matplotlib is missing, ``PKC634`` where a file cannot be written.
    """
    paths = [Path(folder) / f"densities.{form}" for form in ("png", "svg")]
    for path in paths:
        save(path, lambda: densities(states))
    return paths


def densities(states: Sequence[Mapping[str, Any]]) -> Any:
    """One line per layer from 1 before the first round, the whole drawn thicker; densities on a logarithmic axis."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    figure, axes = blank(7.0, 3.6)
    axis = axes[0, 0]
    rounds = range(len(states) + 1)
    names = list(dict.fromkeys(name for state in states for name in state["layers"]))
    scale = ScalarMappable(Normalize(1, max(2, len(names))), "viridis")
    colours = colormaps["viridis"](scale.norm(np.arange(1.0, len(names) + 1)))
    few = len(names) <= NAMED
    for i, name in enumerate(names):
        values = [1.0, *(state["layers"].get(name, 1.0) or float("nan") for state in states)]
        look = {"label": shorten(name, 26)} if few else {"color": colours[i]}
        axis.plot(rounds, values, linewidth=1.0, alpha=0.75, **look)
    if not few:
        figure.colorbar(scale, ax=axis, ticks=MaxNLocator(integer=True), label="layer, in order of the graph")
    whole = [1.0, *(state["density"] for state in states)]
    axis.plot(rounds, whole, color=LIGHT["text"], linewidth=2.0, label="all")
    axis.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    lowest = min(v for line in axis.lines for v in line.get_ydata() if v > 0)
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(plain if lowest > 0.1 else NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("round")
    axis.set_ylabel("density")
    axis.legend(loc="lower left", fontsize=7, ncols=2)
    return figure
