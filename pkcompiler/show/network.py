"""The network as a figure that is moved, zoomed and clicked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, PanTool, TapTool, WheelZoomTool
from bokeh.plotting import figure

from pkcompiler.show.canvas import paint, span
from pkcompiler.show.nodes import DETAIL, TITLE, Drawing, parts_of, shorten, values_of
from pkcompiler.show.page import Page
from pkcompiler.show.place import HEIGHT, WIDTH, place, rounded
from pkcompiler.show.theme import FONT, LIGHT, ramp


def tall(drawing: Drawing) -> int:
    """The height of the frame: more for a long network."""
    return 620 if len(drawing.nodes) <= 48 else 800


def network(page: Page) -> Any:
    """Boxes coloured by mass, edges at right angles; taps are answered by the page's script."""
    assert page.drawing is not None
    placed = place(page.drawing)
    shown: Any = figure(
        name="network",
        height=tall(page.drawing),
        sizing_mode="stretch_width",
        toolbar_location=None,
        x_axis_type=None,
        y_axis_type=None,
        tools=[],
        x_range=span(0, placed.width),
        y_range=span(placed.height, 0),
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=0,
    )
    lines = [rounded(route) for route in placed.routes]
    ends = [(*route[-1], *_heading(route)) for route in placed.routes]
    edges = ColumnDataSource(
        {"xs": [[round(x, 1) for x, _ in p] for p in lines], "ys": [[round(y, 1) for _, y in p] for p in lines]}
    )
    wires = shown.multi_line("xs", "ys", source=edges, line_width=1.3, line_join="round")
    paint(wires.glyph, line_color="edge")
    heads = ColumnDataSource({"xs": [_arrow(e)[0] for e in ends], "ys": [_arrow(e)[1] for e in ends]})
    tips = shown.patches("xs", "ys", source=heads, line_color=None)
    paint(tips.glyph, fill_color="edge")
    boxes = shown.rect(
        "x",
        "y",
        WIDTH,
        HEIGHT,
        source=_boxes(page, placed.centres),
        fill_color="fill",
        line_color="line",
        line_width="width",
        border_radius=7,
    )
    boxes.name = "boxes"
    boxes.nonselection_glyph = boxes.selection_glyph = None
    for key, offset, size, colour in (("title", -7, "12px", "ink"), ("detail", 10, "10px", "ink")):
        text = shown.text("x", {"field": "y"}, key, source=boxes.data_source, y_offset=offset, text_color=colour)
        text.glyph.text_align, text.glyph.text_baseline, text.glyph.text_font, text.glyph.text_font_size = (
            "center",
            "middle",
            value(FONT),
            size,
        )
        text.glyph.text_alpha = 1.0 if key == "title" else 0.8
        text.visible = False  # until the script knows their size
        text.name, text.nonselection_glyph, text.selection_glyph = key, None, None
    wheel = WheelZoomTool(modifiers={"ctrl": True})
    shown.add_tools(PanTool(), wheel, TapTool(renderers=[boxes]))
    return shown


def _boxes(page: Page, centres: Sequence[tuple[float, float]]) -> ColumnDataSource:
    assert page.drawing is not None
    nodes = page.drawing.nodes
    columns: dict[str, list[Any]] = {
        key: values_of(nodes, {layer.name: getattr(layer, key) for layer in page.layers}) for key in ("l2", "l1", "tau", "density")
    }
    parts = parts_of(columns["l2"])
    return ColumnDataSource(
        columns
        | {
            "x": [x for x, _ in centres],
            "y": [y for _, y in centres],
            "title": [shorten(n.title, TITLE) for n in nodes],
            "detail": [n.detail if len(n.detail) <= DETAIL else n.detail[: DETAIL - 1] + "…" for n in nodes],
            "fill": [LIGHT["blank"] if p is None else ramp(p, LIGHT["low"], LIGHT["high"]) for p in parts],
            "ink": [LIGHT["onhigh"] if p is not None and p > 0.5 else LIGHT["onlow"] for p in parts],
            "line": [LIGHT["edge"]] * len(nodes),
            "width": [1.0] * len(nodes),
        }
    )


def _heading(route: Sequence[tuple[float, float]]) -> tuple[int, int]:
    (x0, y0), (x1, y1) = route[-2:]
    return (0, 1) if abs(y1 - y0) > abs(x1 - x0) else (1 if x1 > x0 else -1, 0)


def _arrow(end: tuple[float, float, int, int]) -> tuple[list[float], list[float]]:
    x, y, dx, dy = end
    xs = [x, x - 6 * dx - 3.5 * dy, x - 6 * dx + 3.5 * dy]
    ys = [y, y - 6 * dy - 3.5 * dx, y - 6 * dy + 3.5 * dx]
    return xs, ys
