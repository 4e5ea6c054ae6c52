"""Where training stands: epochs and steps that have ended, and the place within an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Midway:
    """Within an epoch: the random states before its first batch and now, and how many batches were read."""

    before: Mapping[str, Any]
    now: Mapping[str, Any]
    batches: int


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """``epoch``, ``step``: how many have ended. ``midway``: how far into the next epoch, None between epochs."""

    epoch: int = 0
    step: int = 0
    midway: Midway | None = None

    def tree(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Position:
        midway = tree["midway"]
        return cls(tree["epoch"], tree["step"], None if midway is None else Midway(**midway))
