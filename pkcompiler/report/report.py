"""The nouns of a report: figures and masses, a row per parameter, and the report itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pkcompiler.measured import LOG2, digits, scaled_float
from pkcompiler.paths.topology import Layer
from pkcompiler.report.remarks import Finding

SETTINGS = {"gates": "open", "pools": "sum", "products": "pairs", "constants": "on", "input": "ones", "output": "ones"}
"""The path functionals of a report (docs/theory.md, section 3's defaults)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and what it is: ``exact`` (up to rounding), ``approximate`` (no centring of norms; gains), ``bound``
    (the text says on which side), or ``undefined`` (``value`` is None)."""

    value: Any
    status: str = "exact"


UNDEFINED = Figure(None, "undefined")


@dataclass(frozen=True, slots=True)
class Mass:
    """mantissa * 2**exponent, of any size."""

    mantissa: float
    exponent: int

    @property
    def log10(self) -> float:
        """log10 (-inf for 0)."""
        return math.log10(self.mantissa) + self.exponent * LOG2 if self.mantissa else -math.inf

    def root(self) -> Mass:
        """The square root."""
        even = self.exponent - self.exponent % 2
        return Mass(math.sqrt(math.ldexp(self.mantissa, self.exponent - even)), even // 2)

    def to_json(self) -> dict[str, Any]:
        """``value`` is None where a double cannot hold it, ``log10`` where the mass is 0."""
        value = scaled_float(self.mantissa, self.exponent)
        fits = math.isfinite(value) and (value != 0 or self.mantissa == 0)
        log10 = self.log10 if self.mantissa else None
        return {"value": value if fits else None, "mantissa": self.mantissa, "exponent": self.exponent, "log10": log10}


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter. ``kept``, ``effective``, ``fed`` count entries; ``units``, ``alive``: output units, and those with an
    effective entry; ``l1``, ``l2``, ``tau``: shares of the whole (None: undefined).

    ``l1`` is theta dR_1/dtheta / R_1, ``l2`` is w dR_2/dw / R_2: the parts of the mass that cross (a path that crosses twice
    counts twice); ``tau`` is the part of the sum of tau.
    """

    name: str
    shape: tuple[int, ...]
    prunable: bool
    entries: int
    kept: int
    effective: int
    fed: int
    units: int
    alive: int
    l1: float | None
    l2: float | None
    tau: float | None

    @property
    def density(self) -> float:
        """``kept / entries``; 1 of a parameter without entries."""
        return self.kept / self.entries if self.entries else 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """What :func:`analyze` found. ``str`` is the table of ``pkc analyze``; ``totals`` holds the figures in the order of the table.

    ``masked``: a mask drops something.

    ``totals``: ``parameters``, ``prunable``, ``kept``, ``effective`` (of the prunable), ``direct_sparsity``,
    ``effective_sparsity``, ``paths`` (an int; a Mass where its digits are too many), ``shortest_path``, ``longest_path``
    (parameters crossed from an input to the output; as ``bound``: at least and at most), ``l1`` (R_1), ``l2_squared`` (R_2),
    ``l2`` (the root of R_2), ``tau`` (the sum of tau = dR_2/dw over kept parameters), ``fed_share`` (the part of R_2 on paths from
    an input; the rest begins at biases).
    """

    name: str
    masked: bool
    warnings: tuple[Finding, ...]
    totals: Mapping[str, Figure]
    rows: tuple[Row, ...]
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        from pkcompiler.report.layout import lay_out

        return lay_out(self)

    def _repr_html_(self) -> str:
        from pkcompiler.report.notebook import report_html

        return report_html(self)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data (no NaN, no infinity), ``schema`` 1. Keys are stable; new ones may be added.

        ``name``, ``masked``, ``settings`` (of the path functionals), ``warnings`` [{kind, subject, message, help}], ``totals``
        {figure: {value, status}} (masses add ``mantissa``, ``exponent``, ``log10``; ``paths`` is a string of digits, or null where
        they are too many, and adds ``log10``), ``parameters`` [{name, shape, prunable, entries, kept, density, effective, fed,
        units, effective_units, l1_share, l2_share, tau_share}], ``columns`` {key of a parameter: status}, ``layers`` [{operation,
        weight, units, alive, constant, dead, entries, kept, effective, fed, at_risk}].
        """
        return {
            "schema": 1,
            "name": self.name,
            "masked": self.masked,
            "settings": dict(SETTINGS),
            "warnings": [finding.to_json() for finding in self.warnings],
            "totals": {name: _plain(name, figure) for name, figure in self.totals.items()},
            "columns": self.columns,
            "parameters": [_row_json(row) for row in self.rows],
            "layers": [_layer_json(layer) for layer in self.layers],
        }

    @property
    def columns(self) -> dict[str, str]:
        """The status of each column of the table of parameters."""
        counted = dict.fromkeys(("entries", "kept", "density", "effective", "fed", "units", "effective_units"), "exact")
        shares = {"l1_share": "l1", "l2_share": "l2_squared", "tau_share": "tau"}
        return counted | {column: self.totals[total].status for column, total in shares.items()}


def _plain(name: str, figure: Figure) -> dict[str, Any]:
    if isinstance(figure.value, Mass):
        exact = {"value": None} if name == "paths" else {}
        return figure.value.to_json() | exact | {"status": figure.status}
    if name == "paths":
        log10 = math.log10(figure.value) if figure.value else None
        return {"value": digits(figure.value), "log10": log10, "status": figure.status}
    return {"value": figure.value, "status": figure.status}


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "shape": list(row.shape),
        "prunable": row.prunable,
        "entries": row.entries,
        "kept": row.kept,
        "density": row.density,
        "effective": row.effective,
        "fed": row.fed,
        "units": row.units,
        "effective_units": row.alive,
        "l1_share": row.l1,
        "l2_share": row.l2,
        "tau_share": row.tau,
    }


def _layer_json(layer: Layer) -> dict[str, Any]:
    counts = {key: getattr(layer, key) for key in ("units", "alive", "constant", "dead", "entries", "kept", "effective", "fed")}
    return {"operation": layer.op, "weight": layer.weight, **counts, "at_risk": layer.at_risk or layer.collapsed}
