"""Sums of single paths as numbers that numpy can add and multiply: the entries of a symbolic walk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Number = int | float | Fraction


class Path(NamedTuple):
    """One path (through products: one tuple of paths): its fixed factor, and what it crosses, each a sorted multiset.

    ``parameters``: flat positions in the order of ``graph.parameters``. ``sources``: entries of inputs (none: of value 1).
    """

    coefficient: Number
    parameters: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    def joined(self, other: Path) -> Path:
        """What both paths cross, with the product of their coefficients."""
        return Path(
            self.coefficient * other.coefficient,
            tuple(sorted(self.parameters + other.parameters)),
            tuple(sorted(self.sources + other.sources)),
            tuple(sorted(self.gates + other.gates)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """The paths that reach an entry; added they are listed together, never merged; multiplied each is joined with each."""

    listed: tuple[Path, ...] = ()

    def __add__(self, other: Any) -> Paths:
        return Paths(self.listed + other.listed) if isinstance(other, Paths) else self

    __radd__ = __add__

    def __mul__(self, other: Any) -> Paths:
        if isinstance(other, Paths):
            return Paths(tuple(p.joined(q) for p in self.listed for q in other.listed))
        return Paths(tuple(p._replace(coefficient=p.coefficient * other) for p in self.listed if other != 0))

    __rmul__ = __mul__


def entries(shape: tuple[int, ...], made: Iterable[Path]) -> Any:
    """An array of one path each."""
    found = np.empty(shape, dtype=object)
    found.reshape(-1)[:] = [Paths((p,)) for p in made]
    return found


def numbers(values: Any) -> Any:
    """An array of constant sources; zeros have no path."""
    array = np.asarray(values, dtype=np.float64)
    found = np.empty(array.shape, dtype=object)
    found.reshape(-1)[:] = [Paths((Path(short(v)),)) if v else Paths() for v in array.reshape(-1).tolist()]
    return found


def short(value: float) -> Number:
    """A double as the short fraction that rounds to it, if there is one."""
    fraction = Fraction(value).limit_denominator(1000)
    if float(fraction) != value:
        return value
    return fraction.numerator if fraction.denominator == 1 else fraction


def factors(values: Any) -> Any:
    """An array of plain factors."""
    array = np.asarray(values, dtype=np.float64)
    found = np.empty(array.shape, dtype=object)
    found.reshape(-1)[:] = [short(v) for v in array.reshape(-1).tolist()]
    return found
