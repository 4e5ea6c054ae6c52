"""What a comparison of artifacts says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pkcompiler.artifact.read import Artifact
from pkcompiler.report.report import Report


@dataclass(frozen=True, slots=True)
class Overlap:
    """Jaccard overlap of two masks: kept by both over kept by either. ``layers``: by parameter; None where the shapes differ."""

    first: int
    second: int
    whole: float | None
    layers: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``names``: every masked parameter, in order of appearance; ``densities[name][i]``: None where artifact i has no such mask."""

    artifacts: Sequence[Artifact]
    reports: Sequence[Report]
    names: tuple[str, ...]
    densities: Mapping[str, tuple[float | None, ...]]
    overlaps: tuple[Overlap, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, ``schema`` 1; artifacts in the order given, ``first`` and ``second`` are positions in it."""
        totals = [report.to_json()["totals"] for report in self.reports]
        return {
            "schema": 1,
            "artifacts": [
                {"path": str(a.path), "kept": a.kept, "total": a.total, "totals": t}
                for a, t in zip(self.artifacts, totals, strict=True)
            ],
            "densities": {name: list(row) for name, row in self.densities.items()},
            "overlaps": [
                {"first": o.first, "second": o.second, "jaccard": o.whole, "layers": dict(o.layers)} for o in self.overlaps
            ],
        }
