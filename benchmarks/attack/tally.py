"""What an attack has come to: how often it was tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

FAULTS = ("tracebacks", "lost", "silent")


@dataclass(slots=True)
class Tally:
    """``right``: it ended as if nothing had happened. ``refused``: a code. ``tracebacks``: anything else that was said or raised.
    ``lost``: a file that was there is gone or another one. ``silent``: something wrong was taken for right."""

    attack: str
    tried: int = 0
    right: int = 0
    refused: int = 0
    tracebacks: int = 0
    lost: int = 0
    silent: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, example: str = "") -> None:
        """Count one outcome; of faults the first few are kept."""
        setattr(self, kind, getattr(self, kind) + 1)
        if kind in FAULTS and len(self.examples) < 5:
            self.examples.append(f"{kind}: {example}")

    @property
    def faults(self) -> int:
        return sum(getattr(self, kind) for kind in FAULTS)


def shown(tallies: list[Tally]) -> str:
    """One row for each attack, and below them the first faults."""
    columns = ("tried", "right", "refused", *FAULTS)
    width = max(len(tally.attack) for tally in tallies)
    lines = ["  ".join([f"{'attack':<{width}}", *(f"{c:>10}" for c in columns)])]
    lines += ["  ".join([f"{t.attack:<{width}}", *(f"{getattr(t, c):>10,}" for c in columns)]) for t in tallies]
    lines += [f"{t.attack}: {example}" for t in tallies for example in t.examples]
    return "\n".join(lines)
