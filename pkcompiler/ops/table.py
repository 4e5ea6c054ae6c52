"""The operator table: ATen overload -> what it does to paths.

An entry is a function from a :class:`Use` (one call of the operator, arguments bound by the names of its schema) to a reference; it
emits path maps and nothing else. ``@path_op("aten.linear.default")`` adds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pkcompiler.ir.maps import Dim, Fixed, Named, PathMap


@dataclass(frozen=True, slots=True)
class Path:
    """A value of the path graph."""

    name: str
    shape: tuple[Any, ...]  # sizes, and Batch dimensions


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole parameter, used as it is stored."""

    slot: str
    shape: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A tensor that no input and no parameter enters, on the CPU; ``slot`` when it is a whole buffer. Batch dimensions have their
    size at batch 1."""

    tensor: torch.Tensor
    shape: tuple[Any, ...]
    slot: str | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """A data-dependent tensor that is no path: recorded at x, 1 without data."""

    node: str
    kind: str
    what: str
    shape: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """An integer input of the model (or a reshaped one)."""

    name: str
    shape: tuple[Any, ...]


Ref = Path | Stored | Known | Observed | Index


class Use(Protocol):
    """One call of an operator, as its table entry sees it."""

    shape: tuple[Any, ...]
    """Of the result: sizes and Batch dimensions; one shape per result where the operator returns several tensors."""
    dtype: str
    name: str

    def __getitem__(self, argument: str) -> Any:
        """The argument of that name in the operator's schema: a reference, or a Python value."""

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or ``default`` where the schema has none of that name, or the call gives None."""

    def path(self, ref: Ref) -> Path:
        """``ref`` as a path value (a parameter or constant becomes a source)."""

    def fixed(self, ref: Ref) -> Fixed:
        """A known tensor as a fixed factor."""

    def constant(self, tensor: torch.Tensor) -> Named:
        """A tensor made by the entry, as a constant slot: a fixed factor, indices, a mask."""

    def emit(self, map: PathMap, *inputs: Ref, shape: Sequence[Dim] | None = None) -> Path:
        """One more operation of the path graph (``shape`` defaults to that of the operator's result)."""

    def weight(self, ref: Ref | None) -> Any:
        """The slot of a parameter used as stored (None for None)."""

    def factor(self, ref: Ref) -> Path:
        """``ref`` as an operand of a product: constants and observed tensors stay when constant sources are off."""

    def record(self, kind: str, result: Path) -> Path:
        """Ask for an observation of this node (``window``, ``normalise``, ``softmax``) under the name of ``result``."""

    def record_pair(self, result: Path, sign: int) -> Path:
        """Ask for the winners of a window over both operands of this node, times ``sign``."""

    def step_back(self, argument: str) -> Use | None:
        """The use that computed an argument, if an operator did, seen through plumbing and through what changes large numbers alone
        (``max(x, finfo.min)``); None behind any other gate."""

    def unsupported(self, why: str) -> Exception:
        """The error to raise when this use has no meaning for paths."""


Entry = Callable[[Use], Ref | list[Ref]]

TABLE: dict[str, Entry] = {}
"""Operators with a meaning of their own. Gates and plumbing are in :mod:`pkcompiler.ops.gates`."""


def path_op(*names: str) -> Callable[[Entry], Entry]:
    """Put an entry into the table, of one or several overloads. That of users is :func:`pkcompiler.ops.own.path_op`."""

    def register(entry: Entry) -> Entry:
        for name in names:
            TABLE[name] = entry
        return entry

    return register
