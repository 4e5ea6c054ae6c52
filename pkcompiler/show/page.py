"""What a page shows, as plain data: texts and numbers, no tensor. A part that is missing (None or empty) is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pkcompiler.markup import Cell, Column, Table
from pkcompiler.show.nodes import Drawing

__all__ = ["Cell", "Column", "Curve", "Dynamics", "Formula", "Heat", "Layer", "Note", "Page", "Reading", "Spectrum", "Table"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure of the strip on top: what it is, its text, ``exact``, ``estimated``, ``bound`` ..., and one more line."""

    label: str
    value: str
    status: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A warning: what it is about, what it says, what to do."""

    kind: str
    subject: str
    message: str
    help: str


@dataclass(frozen=True, slots=True)
class Layer:
    """A parameter with weights, in order: the part that is kept and on a path; its shares (0 to 1; None: undefined)."""

    name: str
    entries: int
    density: float
    effective: float
    l1: float | None
    l2: float | None
    tau: float | None


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of the Path Kernel as log10, descending, with relative residuals; and its density.

    ``grid``: log10 of the eigenvalue; ``density``: mass per decade there, ``error`` its standard error (empty where there is
    none). ``size``: the dimension. ``quantities``: trace, ranks, the mass at zero. ``note``: how it was computed.
    """

    log10_values: tuple[float, ...]
    residuals: tuple[float, ...]
    size: int
    grid: tuple[float, ...] = ()
    density: tuple[float, ...] = ()
    error: tuple[float, ...] = ()
    quantities: tuple[Reading, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Heat:
    """Pi of a small graph, or of its heaviest paths: a label per row and the entries; ``paths``: how many there are in all."""

    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    paths: int


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve by its legend and style: ``line``, ``dashed`` or ``dots``."""

    label: str
    style: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Losses over steps, predicted and true, with the figures that belong to them."""

    curves: tuple[Curve, ...]
    x_label: str = "step"
    y_label: str = "loss"
    quantities: tuple[Reading, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Formula:
    """A symbolic result: its name, its text, and LaTeX ("" where there is none)."""

    name: str
    text: str
    latex: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A report to be looked at.

    ``statuses``: of the columns ``density``, ``l1``, ``l2``, ``tau``. ``provenance``: label and text, in order.
    """

    name: str
    subtitle: str
    headline: tuple[Reading, ...] = ()
    warnings: tuple[Note, ...] | None = None
    drawing: Drawing | None = None
    layers: tuple[Layer, ...] = ()
    masked: bool = False
    statuses: Mapping[str, str] = field(default_factory=dict)
    spectrum: Spectrum | None = None
    heat: Heat | None = None
    dynamics: Dynamics | None = None
    formulas: tuple[Formula, ...] = ()
    totals: Table | None = None
    parameters: Table | None = None
    analyses: tuple[Table, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
