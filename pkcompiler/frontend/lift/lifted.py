"""What a lift returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pkcompiler.ir.types import PathGraph

OBSERVED = "value of "
"""What is recorded of a factor of a product stands under this before the name of its value."""


@dataclass(frozen=True, slots=True)
class Record:
    """What to observe for one operation of the path graph: ``node`` and its input ``source`` are nodes of the program.

    A window over two tensors has an ``other`` beside its source, and both count times ``sign`` (-1: the smaller wins).
    """

    kind: str  # gate | window | normalise | softmax | frozen | factor
    node: str
    source: str = ""
    slope: float = 0.0  # of a gate: phi'(0)
    other: str = ""
    sign: int = 1

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the program that the observation reads."""
        return tuple(name for name in (self.node, self.source, self.other) if name)


@dataclass(frozen=True, slots=True)
class Lifted:
    """A path graph, the tensors of its constants, what to record for each operation, and the parameters that are only observed.

    ``watched``: the values and parameters of the graph that frozen factors (and masks computed from data) are computed from.
    """

    graph: PathGraph
    constants: Mapping[str, Tensor]
    records: Mapping[str, Record]
    observed_only: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]  # (input of the graph, placeholder of the program)
    watched: frozenset[str] = frozenset()
