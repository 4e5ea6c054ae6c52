"""What Bokeh's figures share: axes, legends, hovers and colours in the page's style.

Colours are tagged on the models by their names in :mod:`pkcompiler.show.theme` (``fill_color=accent``), so that the page's script
repaints them on light and dark.
"""

from __future__ import annotations

from typing import Any, Literal

from bokeh.models import HoverTool, Model, Range1d
from bokeh.plotting import figure

from pkcompiler.show.theme import FONT, LIGHT

Mode = Literal["mouse", "hline", "vline"]


def paint(model: Model, **colours: str) -> None:
    """Give a model's properties colours by name, now (light) and for the script that repaints."""
    for key, name in colours.items():
        setattr(model, key, LIGHT[name])
        model.tags = [*model.tags, f"{key}={name}"]


def plot(height: int, **options: Any) -> Any:
    """An empty figure in the page's style."""
    shown: Any = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools=[],
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        min_border_left=64,
        output_backend="canvas",
        **options,
    )
    for axis in (shown.xaxis[0], shown.yaxis[0]):
        paint(
            axis,
            axis_line_color="line",
            major_label_text_color="muted",
            axis_label_text_color="muted",
            major_tick_line_color="line",
        )
        axis.minor_tick_line_color = None
        axis.major_tick_in, axis.major_tick_out = 0, 4
        axis.major_label_text_font = axis.axis_label_text_font = FONT
        axis.major_label_text_font_size, axis.axis_label_text_font_size = "11px", "12px"
        axis.axis_label_text_font_style = "normal"
    shown.xgrid[0].grid_line_color = None
    paint(shown.ygrid[0], grid_line_color="line")
    return shown


def legend(shown: Any) -> None:
    """The legend as a line above the figure."""
    box = shown.legend[0]
    paint(box, label_text_color="text")
    box.background_fill_color = box.border_line_color = None
    box.label_text_font, box.label_text_font_size = FONT, "12px"
    box.orientation, box.padding, box.spacing, box.margin = "horizontal", 0, 18, 0
    box.glyph_height, box.glyph_width, box.label_standoff = 14, 22, 6
    shown.add_layout(box, "above")


def span(start: float, end: float) -> Range1d:
    """A range that data do not change."""
    return Range1d(start=start, end=end)


def hover(shown: Any, renderers: list[Any], lines: list[tuple[str, str]], mode: Mode = "vline") -> None:
    """What a pointer over a figure (or over one mark) reads."""
    shown.add_tools(HoverTool(renderers=renderers[:1], tooltips=lines, mode=mode, point_policy="snap_to_data"))
