"""The edges of a path functional kept from round to round: folded once, masked in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pkcompiler.ir.types import PathGraph
from pkcompiler.paths.fold import columns, fold
from pkcompiler.paths.sweep import Sweep


@dataclass(slots=True, eq=False)
class Edges:
    """Leaves t(theta) * mask for the ``wanted`` parameters of a sweep; everything else is folded or fixed.

    ``leaves`` hold the folded edges, which the sweep runs on, ``base`` the same without masks;
    ``factors`` turn derivatives by them into derivatives by the edges.
    Memory: twice the wanted parameters.
    """

    sweep: Sweep
    wanted: frozenset[str]
    leaves: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, Tensor] = field(default_factory=dict)
    base: dict[str, Tensor] = field(default_factory=dict)
    _masks: dict[str, Tensor | None] = field(default_factory=dict)
    _others: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: Sweep, wanted: frozenset[str], masks: Mapping[str, Tensor]) -> Edges:
        """Fold the sweep's graph (the sweep is changed to run the folded one) and prepare its edges."""
        graph: PathGraph = sweep.graph
        edges = sweep.edges({n: m for n, m in masks.items() if n not in wanted})
        folded = fold(graph, wanted, sweep.settings.constants)
        factors, shifts = columns(sweep, folded, edges)
        sweep.graph = folded.graph
        made = cls(sweep, wanted, factors=factors)
        for name, edge in edges.items():
            whole = (edge * factors[name] if name in factors else edge).contiguous()
            if name in wanted:
                made.base[name] = whole
                made.leaves[name] = whole.clone().requires_grad_()
            else:
                made._others[name] = whole
        made._others |= shifts
        return made

    def at(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All edges under the masks; only what a mask has changed is written."""
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                mask, before = masks.get(name), self._masks.get(name)
                if mask is not before:
                    self._write(leaf, self.base[name], mask, before)
                    self._masks[name] = mask
        return {**self._others, **self.leaves}

    @staticmethod
    def _write(leaf: Tensor, base: Tensor, mask: Tensor | None, before: Tensor | None) -> None:
        """Write the entries in which two masks differ: zero where dropped, the edge itself where regained."""
        if mask is None:
            leaf.copy_(base)
            return
        new = mask.numpy().reshape(-1)
        changed = np.flatnonzero(~new if before is None else new != before.numpy().reshape(-1))
        kept = new.take(changed)
        leaf.view(-1).index_fill_(0, torch.from_numpy(changed).to(leaf.device), 0)
        if kept.any():
            regained = torch.from_numpy(changed[kept]).to(leaf.device)
            leaf.view(-1)[regained] = base.view(-1)[regained]
