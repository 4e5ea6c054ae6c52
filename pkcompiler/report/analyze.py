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
from pkcompiler.frontend.pruned import both, unpruned
from pkcompiler.ir.types import PathGraph, Slot
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.functional import Functional, is_approximate, open_functional, static_batch
from pkcompiler.paths.lengths import path_lengths
from pkcompiler.paths.scaled import numbers
from pkcompiler.paths.semiring import Settings, settings
from pkcompiler.paths.sources import check_masks, unit_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.paths.topology import Topology, layers, topology, units
from pkcompiler.report.remarks import find
from pkcompiler.report.report import UNDEFINED, Figure, Mass, Report, Row


@checked
@in_own_modes
def analyze(model: nn.Module, example_inputs: Any, masks: Mapping[str, Tensor] | None = None) -> Report:
    """Warnings, totals and one row per parameter of a model in evaluation mode, in float64 and without data.

    ``masks``: boolean tensors by parameter name, besides those of a model that ``torch.nn.utils.prune`` has pruned; a missing one
    keeps everything. Raises ``PKC2xx`` where the model cannot be
    lifted, ``PKC401`` for masks that do not fit.
    """
    model, held = unpruned(model, example_inputs)
    captured = captured_for_caller(model, example_inputs, dtype=torch.float64)
    return analyze_graph(captured.graph, captured.tensors, both(masks, held), type(model).__name__)


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
