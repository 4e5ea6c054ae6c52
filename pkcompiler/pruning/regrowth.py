"""What pruned weights may come back: ``regrow`` and ``among = all`` undo nothing that the user or a structure has removed.

Passes with ``among = all`` choose among what the masks kept when their stage began. ``regrow`` chooses among what the masks given
from outside keep and, after a stage with a structure, among what that one left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pkcompiler.lang.ast import Pass, Stage

Masks = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """``begun``: the masks when the stage began, where it chooses among all of them; ``left``: those after the last stage with a
    structure, where a stage regrows. Empty where neither is needed. Both belong to the state of a round."""

    begun: Masks = field(default_factory=dict)
    left: Masks = field(default_factory=dict)

    def of(self, stage: Stage, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What may be kept in a stage; parameters without a mask may be whole. ``given``: the masks from outside."""
        if stage.regrow is not None:
            return self.left or given
        return self.begun or given

    def next(self, stages: Sequence[Stage], passes: Sequence[Pass], place: int, masks: Masks) -> Ground:
        """That of the stage at ``place``, which begins at ``masks``."""
        stage = stages[place]
        begun = dict(masks) if passes[place].among == "all" and stage.regrow is None else {}
        if not any(s.regrow is not None for s in stages[place:]):
            return Ground(begun)
        left = dict(masks) if place and stages[place - 1].structure != "unstructured" else self.left
        return Ground(begun, left)
