"""Where training stands: epochs and steps that have ended, and the place within an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Reading:
    """One loop over a loader: the random states before its first batch, how many were read, whether it has ended."""

    before: Mapping[str, Any]
    batches: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Midway:
    """Within an epoch: the loops over batches that were begun in it, in their order."""

    readings: Sequence[Reading]

    @property
    def amid(self) -> bool:
        """Whether the place is in one of the loops, and so can be found again."""
        return any(not reading.ended for reading in self.readings)


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """``epoch``, ``step``: how many have ended. ``midway``: how far into the next epoch, None between epochs."""

    epoch: int = 0
    step: int = 0
    midway: Midway | None = None

    def __repr__(self) -> str:
        return f"Position(epoch={self.epoch}, step={self.step}{'' if self.midway is None else ', within an epoch'})"

    def tree(self) -> dict[str, Any]:
        """Plain data: numbers, lists and dicts."""
        return asdict(self)

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Position:
        """The position that ``tree()`` wrote."""
        midway = tree["midway"]
        return cls(tree["epoch"], tree["step"], None if midway is None else Midway([Reading(**r) for r in midway["readings"]]))
