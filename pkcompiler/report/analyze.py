"""``analyze``: what a network (and a mask) amounts to, without data (docs/theory.md, sections 2, 3 and 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.frontend.capture import captured_for_caller
from pkcompiler.ir.types import PathGraph, Slot
from pkcompiler.measured import LOG2, scaled_float
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.functional import Functional, is_approximate, open_functional, static_batch
from pkcompiler.paths.lengths import path_lengths
from pkcompiler.paths.scaled import numbers
from pkcompiler.paths.semiring import Settings, settings
from pkcompiler.paths.sources import check_masks, unit_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.paths.topology import Layer, Topology, layers, topology, units
from pkcompiler.report.remarks import Finding, find

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


@checked
@in_own_modes
def analyze(model: nn.Module, example_inputs: Any, masks: Mapping[str, Tensor] | None = None) -> Report:
    """Warnings, totals and one row per parameter of a model in evaluation mode, in float64 and without data.

    ``masks``: boolean tensors by parameter name; a missing one keeps everything. Raises ``PKC2xx`` where the model cannot be
    lifted, ``PKC401`` for masks that do not fit.
    """
    captured = captured_for_caller(model, example_inputs, dtype=torch.float64)
    return analyze_graph(captured.graph, captured.tensors, masks, type(model).__name__)


@in_own_modes
def analyze_graph(
    graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, name: str = "model"
) -> Report:
    """:func:`analyze` from a graph and its slots' tensors alone; no model is needed, and no code of its author runs."""
    check_masks(graph, masks)
    kept = {n: m.detach().cpu().bool() for n, m in (masks or {}).items()}
    left = topology(graph, tensors, kept)
    masses = _masses(graph, tensors, kept) if _finite(tensors) else None
    rows = tuple(_row(graph, slot, kept, left, masses) for slot in graph.parameters)
    found = layers(graph, left, kept)
    totals = _totals(graph, tensors, kept, left, rows, masses)
    dropped = any(not bool(m.all()) for m in kept.values())
    return Report(name, dropped, find(graph, tensors, kept, left, found, totals), totals, rows, found)


@dataclass(frozen=True, slots=True, eq=False)
class _Masses:
    """R_1 and R_2 with their derivatives, the sum of tau (at R_2's exponent), and the part of R_2 that begins at an input."""

    l1: Functional
    l2: Functional
    tau: float
    fed: float | None
    crossing: Mapping[str, tuple[float, float]]


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def _masses(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> _Masses:
    chosen = {edge: settings(edge=edge, pools="sum", products="pairs", constants="on") for edge in ("abs(theta)", "theta^2")}
    l1, l2 = (open_functional(graph, tensors, c, masks=masks) for c in chosen.values())
    tau = math.fsum(numbers(_kept(grad, name, masks).sum() for name, grad in l2.grad.items()))
    batch = static_batch(graph)
    sweep = Sweep(graph, tensors, chosen["theta^2"], batch=batch)
    nothing = {n: t * 0 for n, t in unit_sources(graph, batch, torch.float64).items()}
    squares = sweep.edges(masks)
    with torch.no_grad():
        rest = sweep.run(squares, nothing)
    by_l1 = numbers((w.sqrt() * l1.grad[n]).sum() for n, w in squares.items())
    by_l2 = numbers((w * l2.grad[n]).sum() for n, w in squares.items())
    crossing = dict(zip(squares, zip(by_l1, by_l2, strict=True), strict=True))
    beside = math.ldexp(float(rest.tensor.sum()), max(-2000, min(2000, rest.exponent - l2.exponent)))
    fed = max(0.0, 1 - beside / l2.mantissa) if l2.mantissa else None
    return _Masses(l1, l2, tau, fed, crossing)


def _kept(values: Tensor, name: str, masks: Mapping[str, Tensor]) -> Tensor:
    return values * masks[name].to(values.device) if name in masks else values


def _row(graph: PathGraph, slot: Slot, masks: Mapping[str, Tensor], left: Topology, masses: _Masses | None) -> Row:
    effective = left.effective[slot.name]
    alive = units(graph, slot.name, effective)
    kept = int(masks[slot.name].sum()) if slot.name in masks else effective.numel()
    shares = (None, None, None) if masses is None else _shares(slot.name, masks, masses)
    counts = (effective.numel(), kept, int(effective.sum()), int(left.fed[slot.name].sum()), alive.numel(), int(alive.sum()))
    return Row(slot.name, tuple(effective.shape), slot.prunable or slot.name in masks, *counts, *shares)


def _shares(name: str, masks: Mapping[str, Tensor], masses: _Masses) -> tuple[float | None, ...]:
    parts = (*masses.crossing[name], float(_kept(masses.l2.grad[name], name, masks).sum()))
    wholes = (masses.l1.mantissa, masses.l2.mantissa, masses.tau)
    return tuple(part / whole if whole else None for part, whole in zip(parts, wholes, strict=True))


def _totals(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    left: Topology,
    rows: tuple[Row, ...],
    masses: _Masses | None,
) -> dict[str, Figure]:
    prunable = [row for row in rows if row.prunable]
    n, kept, effective = (sum(getattr(row, f) for row in prunable) for f in ("entries", "kept", "effective"))
    counting = settings(edge="1", pools="sum", products="pairs", constants="on")
    status = "approximate" if is_approximate(graph, counting) else "exact"
    alive = {name for name, entries in left.effective.items() if entries.any()}
    whole = all(bool(m.all()) for m in masks.values())
    lengths = path_lengths(graph, alive, whole=whole)
    return {
        "parameters": Figure(sum(row.entries for row in rows)),
        "prunable": Figure(n),
        "kept": Figure(kept),
        "effective": Figure(effective),
        "direct_sparsity": Figure(1 - kept / n) if n else UNDEFINED,
        "effective_sparsity": Figure(1 - effective / n) if n else UNDEFINED,
        "paths": _paths(graph, tensors, counting, masks, status),
        "shortest_path": Figure(lengths.shortest, lengths.status) if left.connected else UNDEFINED,
        "longest_path": Figure(lengths.longest, lengths.status) if left.connected else UNDEFINED,
    } | _mass_figures(masses)


def _paths(graph: PathGraph, tensors: Mapping[str, Tensor], counting: Settings, masks: Mapping[str, Tensor], status: str) -> Figure:
    count = count_paths(graph, tensors, counting, masks, static_batch(graph))
    if count is not None:
        return Figure(count, status)
    size = open_functional(graph, tensors, counting, masks=masks, gradients=False)
    return Figure(Mass(size.mantissa, size.exponent), "approximate")


def _mass_figures(masses: _Masses | None) -> dict[str, Figure]:
    if masses is None:
        return dict.fromkeys(("l1", "l2_squared", "l2", "tau", "fed_share"), UNDEFINED)
    l1, l2 = masses.l1, masses.l2
    squared = Mass(l2.mantissa, l2.exponent)
    return {
        "l1": Figure(Mass(l1.mantissa, l1.exponent), l1.status),
        "l2_squared": Figure(squared, l2.status),
        "l2": Figure(squared.root(), l2.status),
        "tau": Figure(Mass(masses.tau, l2.exponent), l2.status),
        "fed_share": UNDEFINED if masses.fed is None else Figure(masses.fed, l2.status),
    }


def _plain(name: str, figure: Figure) -> dict[str, Any]:
    if isinstance(figure.value, Mass):
        exact = {"value": None} if name == "paths" else {}
        return figure.value.to_json() | exact | {"status": figure.status}
    if name == "paths":
        log10 = math.log10(figure.value) if figure.value else None
        return {"value": digits(figure.value), "log10": log10, "status": figure.status}
    return {"value": figure.value, "status": figure.status}


def digits(number: int) -> str:
    """A whole number of any size in decimal (``str`` refuses more than 4,300 digits)."""
    if number < 10**4000:
        return str(number)
    half = int(number.bit_length() * math.log10(2)) // 2
    high, low = divmod(number, 10**half)
    return digits(high) + digits(low).zfill(half)


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
