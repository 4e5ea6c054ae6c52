"""The network as a picture, by matplotlib: the drawing of the page, coloured by the L2 share."""

from __future__ import annotations

from typing import Any

from pkcompiler.show.nodes import DETAIL, TITLE, parts_of, shorten, values_of
from pkcompiler.show.page import Page
from pkcompiler.show.place import HEIGHT, WIDTH, place, rounded
from pkcompiler.show.theme import LIGHT, ramp

INCH = 96.0


def network(page: Page) -> Any:
    """Boxes and edges where the page has them, at 96 units to an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    assert page.drawing is not None
    placed = place(page.drawing)
    figure = Figure(figsize=(placed.width / INCH, placed.height / INCH))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(0, placed.width)
    axis.set_ylim(placed.height, 0)
    for route in placed.routes:
        points = rounded(route)
        axis.plot([x for x, _ in points], [y for _, y in points], color=LIGHT["edge"], linewidth=0.9)
        axis.annotate(
            "", route[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": LIGHT["edge"], "lw": 0, "shrinkA": 0, "shrinkB": 0}
        )
    nodes = page.drawing.nodes
    parts = parts_of(values_of(nodes, {layer.name: layer.l2 for layer in page.layers}))
    for node, part, (x, y) in zip(nodes, parts, placed.centres, strict=True):
        ink = LIGHT["onhigh"] if part is not None and part > 0.5 else LIGHT["onlow"]
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=7", zorder=2)
        box.set_facecolor(LIGHT["blank"] if part is None else ramp(part, LIGHT["low"], LIGHT["high"]))
        box.set_edgecolor(LIGHT["edge"])
        box.set_linewidth(0.8)
        axis.add_patch(box)
        axis.text(x, y - 7, shorten(node.title, TITLE), ha="center", va="center", fontsize=8.2, color=ink, zorder=3)
        axis.text(x, y + 10, node.detail[:DETAIL], ha="center", va="center", fontsize=6.6, color=ink, alpha=0.85, zorder=3)
    return figure
