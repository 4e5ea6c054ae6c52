"""The state of a run after a round."""

from __future__ import annotations

from dataclasses import dataclass, field

from pkcompiler.lang.ast import Pass
from pkcompiler.pruning.regrowth import Ground, Masks


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The state after one round: everything that the next one needs."""

    stage: int  # from 0
    round: int  # from 1
    rounds: int
    density: float
    kept: int
    total: int
    masks: Masks
    log10_mass: float | None = None
    start: float | None = None  # the part of its quantity at which the stage began
    stopped: str = ""  # why the rest of the stage changes nothing
    begun: Masks = field(default_factory=dict)  # see Ground
    left: Masks = field(default_factory=dict)
    missed: str = ""  # of the last round of a stage: by how much it misses its target
    uncertain: str = ""  # of the last round of a stage: how far its scores are estimates
    by_position: int = 0  # of the last round of a stage: kept weights of score 0, which position chose among equals
    arbitrary: str = ""  # the same in words, with the reason

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the masks at the end of a stage."""
        missed = (f"stage {self.stage + 1} misses its target: {self.missed}",) * bool(self.missed)
        return missed + (f"stage {self.stage + 1}: {self.arbitrary}",) * bool(self.arbitrary)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What there is to say at the end of a stage."""
        return self.faults + (f"stage {self.stage + 1}: {self.uncertain}",) * bool(self.uncertain)

    @property
    def ground(self) -> Ground:
        """What pruned weights may come back."""
        return Ground(self.begun, self.left)


def estimated(pass_: Pass, error: float) -> str:
    """How far the scores of a pass are estimates. ``error``: of the means over its draws, as a part of their size."""
    return (
        f"the scores of '{pass_.name}' are means of {pass_.repeat} random draws; their standard error is {error:.2g} of their size"
    )
