"""What a line of a report can hold, and how it is said and written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkcompiler.measured import LOG2, Measured, Status, scaled_float, shown_float

SHOWN = 5
"""Points of a curve in a text."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Numbers along axes (``rank``, ``step``, ``sample``, ``output``): ``values * 2**exponent``."""

    values: Tensor
    exponent: int
    axes: tuple[str, ...]
    status: Status = "exact"
    note: str = ""

    def __str__(self) -> str:
        if self.axes == ("rank",):
            return ", ".join(self._at(i) for i in range(len(self.values))) or "none"
        if self.axes == ("step",):
            last = len(self.values) - 1
            points = sorted({round(i * last / (SHOWN - 1)) for i in range(SHOWN)})
            return ", ".join(f"{self._at(i)} ({i})" for i in points)
        ordered = self.values.flatten().sort().values
        marks = (0, (len(ordered) - 1) // 2, len(ordered) - 1)
        return " .. ".join(shown_float(float(ordered[i]), self.exponent) for i in marks) + f" ({len(ordered)} values)"

    def _at(self, i: int) -> str:
        return shown_float(float(self.values[i]), self.exponent)

    def floats(self) -> list[float]:
        """The values in order, flat (inf where one does not fit)."""
        return [scaled_float(float(v), self.exponent) for v in self.values.flatten()]

    def to_json(self) -> dict[str, Any]:
        """``values`` flat in the order of ``shape``; None where a double cannot hold one."""
        plain = [v if math.isfinite(v) else None for v in self.floats()]
        return {
            "axes": list(self.axes),
            "shape": list(self.values.shape),
            "values": plain,
            "status": self.status,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """A spectral measure of mass 1: ``nodes * 2**exponent`` with ``weights``.

    ``grid`` [points] is log10 of the eigenvalue, ``density`` [points] the mass per decade there, ``error`` its standard error
    (None: all eigenvalues are known). ``zero``: the mass at the eigenvalue 0, which the density leaves out.
    """

    nodes: Tensor
    weights: Tensor
    exponent: int
    grid: Tensor
    density: Tensor
    error: Tensor | None
    zero: Measured
    status: Status
    note: str = ""

    def __str__(self) -> str:
        inside = self.nodes > 1e-12 * self.nodes.max()
        nodes, order = self.nodes[inside].sort()
        reached = self.weights[inside][order].cumsum(0)
        if not len(nodes):
            return "all of it at 0"
        marks = [nodes[int((reached < part * reached[-1]).sum().clamp(max=len(nodes) - 1))] for part in (0.05, 0.5, 0.95)]
        low, middle, high = (shown_float(float(m), self.exponent) for m in marks)
        rest = f"90% in {low} .. {high}, median {middle}"
        known = self.zero.status != "not predicted"
        return f"{float(self.zero):.1%} at 0; of the rest {rest}" if known else f"{rest}; the part at 0 is not resolved"

    def to_json(self) -> dict[str, Any]:
        """Nodes as log10 (None for 0), weights, and the smoothed density with its error."""
        logs = [math.log10(v) + self.exponent * LOG2 if v > 0 else None for v in self.nodes.tolist()]
        error = None if self.error is None else [e if math.isfinite(e) else None for e in self.error.tolist()]
        return {
            "log10_nodes": logs,
            "weights": self.weights.tolist(),
            "grid": self.grid.tolist(),
            "density": self.density.tolist(),
            "error": error,
            "zero": self.zero.to_json(),
            "status": self.status,
            "note": self.note,
        }


Value = Measured | Mapping[str, Measured] | Series | Distribution
"""A number, one per parameter tensor, numbers along axes, or a distribution."""


def smoothed(values: Tensor, width: float = 0.1, points: int = 200) -> tuple[Tensor, Tensor]:
    """The density of known eigenvalues in mass per decade: each smoothed by a bell of ``width`` decades; grid and density."""
    logs = values[values > 1e-12 * values.max()].log10()
    if not len(logs):
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    grid = torch.linspace(float(logs.min()) - 4 * width, float(logs.max()) + 4 * width, points, dtype=torch.float64)
    bells = torch.exp(-0.5 * ((grid[:, None] - logs) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    return grid, bells.sum(1) / len(values)
