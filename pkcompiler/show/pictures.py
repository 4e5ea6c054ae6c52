"""What all pictures by matplotlib share: their style, an empty figure, and files that hold the same bytes for the same drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import fail
from pkcompiler.files import deliver, make_folder, reason
from pkcompiler.show.extra import need
from pkcompiler.show.theme import LIGHT

FORMATS = ("png", "svg", "pdf")
STYLE: Any = {
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "figure.facecolor": LIGHT["surface"],
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": LIGHT["line"],
    "legend.frameon": False,
    "svg.hashsalt": "pkcompiler",
    "text.color": LIGHT["text"],
    "text.parse_math": False,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
}
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(path: Path, draw: Callable[[], Any]) -> None:
    """One drawing as one file, in the format that its name ends in. Raises ``PKC632`` to ``PKC634``."""
    form = path.suffix.removeprefix(".")
    check([form])
    write(draw, path.parent, path.stem, [form])


def check(formats: Sequence[str]) -> None:
    """Raise ``PKC632`` where matplotlib is missing, ``PKC633`` for a format that it does not write here."""
    need("matplotlib", "a plot")
    unknown = [form for form in formats if form not in FORMATS]
    if unknown:
        raise fail("PKC633", f"no plots are written as {', '.join(map(repr, unknown))}", f"formats: {', '.join(FORMATS)}")


def write(draw: Callable[[], Any], where: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """One drawing in several formats; returns the paths. Raises ``PKC634`` where a file cannot be written."""
    from matplotlib import rc_context

    paths = [where / f"{name}.{form}" for form in formats]
    with rc_context(STYLE):
        figure = draw()
        for path, form in zip(paths, formats, strict=True):
            content = BytesIO()
            figure.savefig(content, format=form, dpi=160, metadata=UNDATED[form])
            _deliver(path, content.getvalue())
    return paths


def _deliver(path: Path, content: bytes) -> None:
    note = "name a folder that can be written"
    try:
        make_folder(path.parent)
    except OSError as error:
        raise fail("PKC634", f"'{path.parent}' cannot be written: {reason(error)}", note) from None
    deliver(path, content, "PKC634", note)


def blank(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure without a window, and its axes as an array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
