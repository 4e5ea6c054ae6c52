"""A product as a tree: what it multiplies, and the same with some of its parts put elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from pkcompiler.frontend.equal.reading import MUL, NEG, SCALINGS, aten, called, put, seen_through
from pkcompiler.frontend.lift.classify import meta, op_name


def leaves(value: Any) -> list[Any]:
    """What a product multiplies, its numbers behind signs and quotients left aside."""
    value = seen_through(value)
    return [f for operand in operands(value) for f in leaves(operand)] or [value]


def operands(value: Any) -> tuple[Any, ...]:
    """What a node of a product multiplies; nothing of one of its leaves."""
    if called(value, MUL):
        return value.args[:2]
    scales = called(value, *SCALINGS) and isinstance(value.args[1], int | float)
    return value.args[:1] if scales or called(value, NEG) else ()


def parts(value: Any) -> Iterator[Any]:
    """A product and all products and factors in it."""
    value = seen_through(value)
    yield value
    for operand in operands(value):
        yield from parts(operand)


class Regrouped:
    """A product, before ``place``, with other nodes or numbers for some of its parts (the first of each)."""

    def __init__(self, place: fx.Node, instead: Mapping[fx.Node, Any]) -> None:
        self.place, self.left = place, dict(instead)

    def of(self, value: Any) -> Any:
        """A value with those parts replaced that have not been yet."""
        value = seen_through(value)
        if not isinstance(value, fx.Node):
            return value
        if value in self.left:
            return self.left.pop(value)
        if called(value, MUL):
            return self.times(*map(self.of, value.args[:2]))
        if called(value, NEG):
            return self.times(self.of(value.args[0]), -1)
        if operands(value):
            number: Any = value.args[1]
            return self.times(self.of(value.args[0]), number if "mul" in op_name(value) else 1 / number)
        return value

    def times(self, left: Any, right: Any) -> Any:
        """The product of two values: two numbers are multiplied now, a factor of the number 1 is left out."""
        if not isinstance(left, fx.Node):
            left, right = right, left
        if not isinstance(left, fx.Node):
            return left * right
        if not isinstance(right, fx.Node):
            return left if right == 1 else put(self.place, aten.mul.Tensor, (left, right), meta(left))
        return put(self.place, aten.mul.Tensor, (left, right), meta(left) * meta(right))
