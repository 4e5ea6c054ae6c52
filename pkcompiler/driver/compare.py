"""Several artifacts side by side, from their printed graphs, weights and masks alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from pkcompiler.artifact.comparison import Comparison, Overlap
from pkcompiler.artifact.read import Artifact
from pkcompiler.modes import in_own_modes
from pkcompiler.report.analyze import analyze_graph


@in_own_modes
def compare(artifacts: Sequence[Artifact]) -> Comparison:
    """Densities per parameter, overlaps of every pair, and the report of each."""
    names = tuple(dict.fromkeys(name for a in artifacts for name in a.manifest["parameters"]))
    reports = [analyze_graph(a.graph, a.tensors, a.masks, a.path.name) for a in artifacts]
    densities = {n: tuple(_density(a.masks.get(n)) for a in artifacts) for n in names}
    pairs = combinations(range(len(artifacts)), 2)
    return Comparison(artifacts, reports, names, densities, tuple(_overlap(artifacts, i, j, names) for i, j in pairs))


def _density(mask: Tensor | None) -> float | None:
    return None if mask is None else float(mask.sum()) / max(1, mask.numel())


def _overlap(artifacts: Sequence[Artifact], i: int, j: int, names: Sequence[str]) -> Overlap:
    one, other = artifacts[i].masks, artifacts[j].masks
    counts = {
        n: _both_either(one[n], other[n]) if n in one and n in other and one[n].shape == other[n].shape else None for n in names
    }
    known = [c for c in counts.values() if c is not None]
    whole = jaccard(sum(b for b, _ in known), sum(e for _, e in known)) if known else None
    return Overlap(i, j, whole, {n: None if c is None else jaccard(*c) for n, c in counts.items()})


def _both_either(one: Tensor, other: Tensor) -> tuple[int, int]:
    return int((one & other).sum()), int((one | other).sum())


def jaccard(both: int, either: int) -> float:
    """Two empty sets are equal: 1."""
    return both / either if either else 1.0
