"""Scores of 0: all of them (nothing to choose by), or of what is kept where position alone chose it among equals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pkcompiler.diagnostics import PkcError, fail, first_few
from pkcompiler.frontend.capture import Capture
from pkcompiler.lang.ast import Pass
from pkcompiler.paths.topology import has_path
from pkcompiler.pruning.collapse import count
from pkcompiler.pruning.target import Aim
from pkcompiler.selection.candidates import parameter_kinds
from pkcompiler.selection.structures import Block, groups_of
from pkcompiler.structure import Coupling, group_scores

Masks = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Zeros:
    """What is to be said of scores of 0 in a stage. ``compete``: the masks of what competes, of a parameter not named all of it."""

    captured: Capture
    aim: Aim
    pass_: Pass

    def check(self, scores: Masks, compete: Masks, before: Masks, masks: Masks, when: str) -> None:
        """Refuse to prune by position alone (``PKC413``): everything that competes has score 0, though paths are left."""
        some = (scores[n].cpu() * compete[n].cpu() if n in compete else scores[n] for n in self.aim.found.competing)
        if any(bool(t.any()) for t in some):
            return
        more = any(count(m) < (count(before[n]) if n in before else m.numel()) for n, m in masks.items())
        if more and has_path(self.captured.graph, self.captured.tensors, before):
            raise self._nothing_to_choose_by(when)

    def chosen(self, scores: Masks, compete: Masks, masks: Masks) -> int:
        """How many weights that ``masks`` keep have score 0 (they, or the block or channel that they make) where others of score 0
        have gone: which of them stay, their position chose.
        """
        kept, gone = 0, False
        for name, zero in self._zeros(scores, compete).items():
            kept += int(np.count_nonzero(zero & masks[name].numpy()))
            gone = gone or bool((zero & ~masks[name].numpy()).any())
        return kept if gone else 0

    def said(self, chosen: int, kept: int) -> str:
        """Loud words for so many weights that position chose; '' for none."""
        if not chosen:
            return ""
        zero = self._factors()
        why = f"; {first_few(zero, 2)} {'is' if len(zero) == 1 else 'are'} 0 throughout" if zero else ""
        return f"{chosen / kept:.1%} of what is kept ({chosen:,} of {kept:,} weights) has score 0: position alone chose it{why}"

    def _zeros(self, scores: Masks, compete: Masks) -> dict[str, np.ndarray]:
        """The entries of every parameter that competed with score 0."""
        aim, found = self.aim, self.aim.found
        names = [n for n in found.competing if aim.coupling is not None or aim.quantity.costs[n]]
        alive = {n: compete[n].cpu().numpy() if n in compete else np.ones(found.shapes[n], dtype=bool) for n in names}
        if aim.coupling is not None:
            return _of_units(aim.coupling, scores, alive)
        values = {n: scores[n].detach().cpu().numpy() for n in names}
        if isinstance(aim.structure, Block):
            for name in names:
                groups, number = groups_of(aim.structure, found.shapes[name], found.sides[name])
                sums = np.bincount(groups, np.where(alive[name], values[name], 0).reshape(-1), number)
                values[name] = sums[groups].reshape(found.shapes[name])
        return {n: (values[n] == 0) & alive[n] for n in names}

    def _factors(self) -> list[str]:
        """The parameters that are 0 throughout and multiply what passes: weights and gains, not biases."""
        graph, tensors = self.captured.graph, self.captured.tensors
        kinds = parameter_kinds(graph)
        return [s.name for s in graph.parameters if "bias" not in kinds[s.name] and not bool(tensors[s.name].any())]

    def _nothing_to_choose_by(self, when: str) -> PkcError:
        zero, name = self._factors(), self.pass_.name
        if zero:
            why = f"{first_few(zero, 3)} {'is' if len(zero) == 1 else 'are'} 0 throughout: so is every product over such a layer"
            remedy = "initialise them, load trained weights, or take magnitude or random, which multiply nothing"
        elif self.pass_.needs_data:
            why = "nothing that it reads of the data changes with a weight: all targets ignored, or all outputs the same"
            remedy = "look at the data and the loss"
        else:
            why, remedy = "no path has a value, though no single parameter is 0 throughout", "look at the weights"
        return fail("PKC413", f"every score of '{name}' is 0 in {when}: only position would choose", why, remedy)


def _of_units(coupling: Coupling, scores: Masks, alive: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The entries that make units of score 0."""
    masks = {n: torch.from_numpy(m) for n, m in alive.items()}
    none = np.append(group_scores(coupling, {n: scores[n] for n in alive if n in scores}, masks=masks).numpy() == 0, False)
    out = {n: np.zeros_like(m) for n, m in alive.items()}
    for axis in coupling.axes:
        if axis.role == "parameter" and axis.side == "out" and axis.slot in out:
            own = none[axis.units].reshape([-1 if d == axis.dim else 1 for d in range(len(axis.shape))])
            out[axis.slot] |= own & alive[axis.slot]
    return out
