"""The nouns of the coupling: groups of units, their members, the layers that they make up, and what cannot be removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pkcompiler.structure.labels import Ints

Side = Literal["out", "in"]


@dataclass(frozen=True, slots=True)
class Member:
    """Entries ``indices`` of dimension ``axis`` of a parameter (or buffer), all of them ascending.

    ``side``: ``out`` where they make the unit (rows of a weight, its bias, gains, embeddings), ``in`` where they read it.
    """

    parameter: str
    axis: int
    indices: tuple[int, ...]
    side: Side


@dataclass(frozen=True, slots=True)
class Group:
    """Units that can only be removed together.

    ``name``: the entries that make it, of the first parameter that has such. ``size``: parameter entries that go with it.
    ``within``: numbers of the dimensions that lie entirely in groups and have entries in this one; each of them keeps a group.
    ``statistics``: operations that take a mean, a deviation or a sum over units of which these are some: there a unit whose
    parameters are 0 counts as 0, and a removed one does not count.
    """

    name: str
    members: tuple[Member, ...]
    buffers: tuple[Member, ...]
    size: int
    within: tuple[int, ...] = ()
    statistics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One dimension of a slot: the position of the group of every entry, -1 where an entry stays."""

    slot: str
    role: str
    dim: int
    shape: tuple[int, ...]
    side: Side
    units: Ints


@dataclass(frozen=True, slots=True)
class Layer:
    """Groups with members in the same parameters: what one line of ``pkc ir --groups`` says.

    ``made``, ``read``, ``buffers``: per parameter (or buffer) and dimension, how many entries one group has there.
    """

    groups: tuple[int, ...]
    made: tuple[tuple[str, int, int], ...]
    read: tuple[tuple[str, int, int], ...]
    buffers: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Excluded:
    """``count`` units that stay: the dimensions of parameters that would make them, and why."""

    made: tuple[tuple[str, int], ...]
    count: int
    reason: str


def ranges(indices: tuple[int, ...]) -> str:
    """``0:64`` or ``3, 7, 12``: runs of at least three as slices."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and index == runs[-1][1]:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return ", ".join(f"{a}:{b}" if b - a > 2 else ", ".join(map(str, range(a, b))) for a, b in runs)


def entry_name(parameter: str, axis: int, indices: tuple[int, ...]) -> str:
    """``conv.weight[3]``, ``attn.weight[:, 0:64]``, ``attn.weight[{0:64, 768:832}]``."""
    text = ranges(indices)
    return f"{parameter}[{':, ' * axis}{f'{{{text}}}' if ',' in text else text}]"
