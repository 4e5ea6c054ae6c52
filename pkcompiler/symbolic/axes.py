"""Dimensions as products of numbers and channel widths, and what couples them: unification with splits.

An *axis* is what a dimension consists of, outermost first: numbers (positions, heads), atoms (a group of channels), and sums (a
concatenation). A residual add, an elementwise product or a shared weight equates two axes; atoms that are equated are one group.
Where a reshape or an index does not respect the structure, the channels that it touches are *grounded*: they become numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Num:
    """``size`` entries told apart (positions), whatever the widths."""

    size: int


@dataclass(slots=True, eq=False)
class Atom:
    """``size`` entries that are alike. ``channel``: a weight's units; only those become symbols. ``bound``: what it is."""

    size: int
    channel: bool = False
    origin: str = ""
    bound: Axis | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Parts one after the other (a concatenation)."""

    parts: tuple[Axis, ...]


Factor = Num | Atom | Sum
Axis = tuple[Factor, ...]


def size(axis: Iterable[Factor]) -> int:
    """How many entries an axis has."""
    return math.prod(sum(size(p) for p in f.parts) if isinstance(f, Sum) else f.size for f in axis)


def resolved(axis: Axis) -> Axis:
    """The axis with bound atoms replaced, ones dropped, and sums of sums flattened."""
    return tuple(_factors(axis))


def _factors(axis: Axis) -> Iterator[Factor]:
    for factor in axis:
        match factor:
            case Num(1):
                continue
            case Atom(bound=bound) if bound is not None:
                yield from _factors(bound)
            case Sum():
                yield from _sum(factor)
            case _:
                yield factor


def _sum(factor: Sum) -> Iterator[Factor]:
    parts: list[Axis] = []
    for part in map(resolved, factor.parts):
        parts += part[0].parts if len(part) == 1 and isinstance(part[0], Sum) else [part]
    parts = [p for p in parts if size(p)]
    if all(isinstance(f, Num) for p in parts for f in p):
        yield Num(sum(size(p) for p in parts))
    elif len(parts) == 1:
        yield from parts[0]
    else:
        yield Sum(tuple(parts))


def atoms(axis: Axis) -> Iterator[Atom]:
    """The free atoms of an axis."""
    for factor in resolved(axis):
        if isinstance(factor, Atom):
            yield factor
        elif isinstance(factor, Sum):
            for part in factor.parts:
                yield from atoms(part)


@dataclass(slots=True)
class Unifier:
    """Equates axes. ``grounded``: the channel groups that became numbers, and at which operation."""

    at: str = ""
    grounded: dict[str, str] = field(default_factory=dict)

    def unify(self, first: Axis, second: Axis) -> None:
        """Make two axes of equal size one."""
        left, right = list(resolved(first)), list(resolved(second))
        while left and right:
            left, right = list(resolved(tuple(left))), list(resolved(tuple(right)))
            if not (left and right):
                break
            a, b = left[0], right[0]
            if size((a,)) == size((b,)):
                self._equate(a, b)
                left, right = left[1:], right[1:]
                continue
            larger, smaller = (left, right) if size((a,)) > size((b,)) else (right, left)
            pieces = self._split(larger[0], smaller[0])
            if pieces is None:
                self.ground((*left, *right))
                return
            larger[:1] = pieces
        for rest in (*left, *right):
            self.ground((rest,))

    def _split(self, large: Factor, small: Factor) -> Axis | None:
        """The larger of two factors as a product that begins with the size of the smaller; None where that is impossible."""
        if isinstance(small, Atom) and (small.size == 1 or not small.channel):
            self.ground((small,))
            return (large,)
        if isinstance(large, Sum) or isinstance(small, Sum) or large.size % small.size:
            return None
        rest = large.size // small.size
        if isinstance(large, Num):
            return Num(small.size), Num(rest)
        large.bound = (small, Atom(rest, False, large.origin))
        return large.bound

    def _equate(self, a: Factor, b: Factor) -> None:
        match a, b:
            case (Num(), Num()):
                return
            case (Atom(), _):
                self._bind(a, b)
            case (_, Atom()):
                self._bind(b, a)
            case (Sum(parts), Sum(others)) if [size(p) for p in parts] == [size(p) for p in others]:
                for p, q in zip(parts, others, strict=True):
                    self.unify(p, q)
            case _:
                self.ground((a,))
                self.ground((b,))

    def _bind(self, atom: Atom, other: Factor) -> None:
        if other is atom:
            return
        if isinstance(other, Num):
            self.ground((atom,))
            return
        if isinstance(other, Sum) and any(atom is x for x in atoms((other,))):
            self.ground((other,))
            return
        if atom.channel:
            for inner in atoms((other,)):
                inner.channel = True
                inner.origin = inner.origin or atom.origin
        atom.bound = (other,)

    def ground(self, axis: Axis) -> None:
        """Make every entry of an axis count as itself."""
        for atom in list(atoms(axis)):
            if atom.channel and atom.size > 1:
                self.grounded.setdefault(atom.origin, self.at)
            atom.bound = (Num(atom.size),)

    def take(self, axis: Axis, needed: int) -> tuple[Axis, Axis] | None:
        """The outermost ``needed`` entries as a product, and the rest; None where no split at that size exists.

        An atom is split into a number outside and an atom inside (heads times channels of a head).
        """
        taken: list[Factor] = []
        rest = list(resolved(axis))
        while needed > 1:
            if not rest:
                return None
            head = rest[0]
            n = size((head,))
            if needed % n == 0:
                taken.append(rest.pop(0))
                needed //= n
            elif isinstance(head, Sum) or n % needed:
                return None
            elif isinstance(head, Num):
                rest[0] = Num(n // needed)
                taken, needed = [*taken, Num(needed)], 1
            else:
                head.bound = (Num(needed), Atom(n // needed, head.channel, head.origin))
                rest = list(resolved(tuple(rest)))
        return tuple(taken), tuple(rest)

    def cut(self, axis: Axis, start: int, end: int) -> Axis:
        """The entries from ``start`` to ``end``; grounds what cannot be cut there."""
        axis = resolved(axis)
        if start == 0 and end == size(axis):
            return axis
        if start >= end:
            return (Num(0),)
        match axis:
            case (Atom() as atom,):
                bounds = sorted({0, start, end, atom.size})
                pieces = itertools.pairwise(bounds)
                atom.bound = (Sum(tuple((Atom(b - a, atom.channel, atom.origin),) for a, b in pieces)),)
                return self.cut(axis, start, end)
            case (Sum(parts),):
                return self._cut_parts(parts, start, end)
            case (Num(), *inner) if inner and start % size(inner) == end % size(inner) == 0:
                return (Num((end - start) // size(inner)), *inner)
        self.ground(axis)
        return (Num(end - start),)

    def _cut_parts(self, parts: tuple[Axis, ...], start: int, end: int) -> Axis:
        kept: list[Axis] = []
        offset = 0
        for part in parts:
            low, high = max(start - offset, 0), min(end - offset, size(part))
            if low < high:
                kept.append(self.cut(part, low, high))
            offset += size(part)
        return resolved((Sum(tuple(kept)),))


def collapsed(axis: Axis) -> int:
    """How many entries of an axis are told apart: numbers count in full, a group of channels once."""
    return math.prod(_collapsed(f) for f in resolved(axis))


def _collapsed(factor: Factor) -> int:
    match factor:
        case Num(n):
            return n
        case Atom():
            return 1
        case Sum(parts):
            return sum(collapsed(p) for p in parts)


def weights(axis: Axis) -> list[tuple[Atom, ...]]:
    """For every entry told apart, the groups whose widths say how often it stands there."""
    found: list[tuple[Atom, ...]] = [()]
    for factor in resolved(axis):
        found = [left + right for left in found for right in _weights(factor)]
    return found


def _weights(factor: Factor) -> list[tuple[Atom, ...]]:
    match factor:
        case Num(n):
            return [()] * n
        case Atom():
            return [(factor,)]
        case Sum(parts):
            return [w for part in parts for w in weights(part)]


def prefix(axis: Axis, count: int) -> int:
    """How many entries told apart the first ``count`` entries of an axis hold (``count`` as :meth:`Unifier.cut` leaves it)."""
    axis = resolved(axis)
    if count == 0 or not axis:
        return 0 if count == 0 else 1
    if count >= size(axis):
        return collapsed(axis)
    head, inner = axis[0], axis[1:]
    whole, rest = divmod(count, size(inner))
    if isinstance(head, Sum) and not inner:
        total = 0
        for part in head.parts:
            total += prefix(part, min(count, size(part)))
            count = max(0, count - size(part))
        return total
    return whole * collapsed(inner) + prefix(inner, rest)
