"""A stage on a model: what competes, what its target counts and at what part of the whole it ends, and how masks are chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir.types import PathGraph
from pkcompiler.lang.ast import Pass, Stage
from pkcompiler.selection import quantity as quantities
from pkcompiler.selection.candidates import Candidates, candidates
from pkcompiler.selection.channels import check_stored, coupled_parameters, removal, within
from pkcompiler.selection.floors import in_blocks
from pkcompiler.selection.quantity import Quantity
from pkcompiler.selection.select import Masks, Survivors, select
from pkcompiler.selection.structures import Block, Structure, check_fits, structure_of
from pkcompiler.structure import Coupling, coupling


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """A stage, resolved. ``part``: where it ends, of the whole quantity; ``coupling``: of ``structure = channel``."""

    stage: Stage
    found: Candidates
    quantity: Quantity
    part: float
    structure: Structure | None = None
    coupling: Coupling | None = None

    @property
    def plain(self) -> bool:
        """Whether single weights are counted: a density, and no structure."""
        return self.quantity.word == "density" and self.structure is None and self.coupling is None

    def budget(self, part: float) -> int:
        """The amount at a part of the whole; at the end of the stage its target, exactly."""
        if self.quantity.word == "size" and part == self.part:
            return int(self.stage.target[1])
        return self.quantity.budget(part)

    def amount(self, masks: Mapping[str, Tensor]) -> int:
        """How much of the quantity masks keep."""
        return self.quantity.at({n: int(np.count_nonzero(masks[n].cpu().numpy())) for n in self.found.sizes if n in masks})

    def choose(
        self,
        pass_: Pass,
        scores: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        part: float,
        survivors: Survivors | None = None,
        ground: Mapping[str, Tensor] | None = None,
    ) -> Masks:
        """The masks of all candidates at a part of the whole. ``ground``: what competes where pruned entries do, default all."""
        if self.coupling is not None:
            order = removal(self.coupling, scores, masks, self.found, pass_.order)
            return within(order, self.quantity, self.budget(part))
        return select(
            scores,
            masks,
            self.found,
            part,
            rule=self.stage.select or "exact",
            scope=self.stage.scope or "global",
            among=pass_.among,
            order=pass_.order,
            survivors=survivors,
            ground=ground,
            structure=self.structure,
            quantity=None if self.plain else self.quantity,
            budget=None if self.plain else self.budget(part),
        )


def aim_of(
    stage: Stage,
    graph: PathGraph,
    state: Mapping[str, Tensor],
    watched: frozenset[str] | None = None,
    frozen: Collection[str] = (),
) -> Aim:
    """The stage on a model. ``state``: its ``state_dict``, whose element types a target in bytes counts. ``watched``: what the
    recorded factors of a lifted model read. ``frozen``: its parameters that do not train.

    Raises ``PKC402`` for globs that match nothing, ``PKC422`` for parameters that a structure does not fit, ``PKC445`` for channels
    of weights that are computed from parameters.
    """
    units = coupling(graph, watched) if stage.structure == "channel" else None
    if units is not None:
        check_stored(units, graph)
    coupled = coupled_parameters(units) if units is not None else ()
    found = candidates(graph, (*stage.include, *map(_exactly, coupled)), stage.exclude, stage.floors, frozen)
    structure = structure_of(stage.structure)
    if structure is not None:
        check_fits(structure, found.competing, found.shapes, found.sides, stage.exclude)
    if isinstance(structure, Block):
        floors = {n: k for n, k in found.floors.items() if n not in found.protected}
        found = replace(found, floors=in_blocks(floors, structure, found.shapes, found.sides))
    word, value = stage.target
    if word == "flops":
        return Aim(stage, found, quantities.flops(graph, found.sizes), value, structure, units)
    if word == "size":
        counted = quantities.size(state, found.sizes)
        return Aim(stage, found, counted, min(1.0, value / counted.whole), structure, units)
    return Aim(stage, found, quantities.weights(found.sizes), stage.density, structure, units)


def _exactly(name: str) -> str:
    """A glob that matches a name and nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def globbed(globs: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """The names that each glob matches. Raises ``PKC402`` where one matches none."""
    found = {glob: [n for n in names if fnmatchcase(n, glob)] for glob in globs}
    for glob, hits in found.items():
        if not hits:
            raise fail(
                "PKC402",
                f'structure "{glob}" of lower matches no masked parameter',
                f"masked are {', '.join(list(names)[:4])}, ...",
            )
    return found
