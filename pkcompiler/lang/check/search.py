"""What an expression holds, through its ``let`` names. A name is walked once, however often it is said: chains stay linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Unary
from pkcompiler.lang.check.facts import resolve


def children(expr: Expr) -> tuple[Expr, ...]:
    """The operands or arguments of an expression, in the order of its text."""
    match expr:
        case Unary(operand=operand):
            return (operand,)
        case Binary(_, left, right):
            return left, right
        case Call(_, args, kwargs):
            return (*args, *(value for _, value in kwargs))
    return ()


def walk(expr: Expr, lets: Mapping[str, Expr], within: Callable[[Expr], tuple[Expr, ...]] = children) -> Iterator[Expr]:
    """An expression and its parts, ``let`` names replaced by what they stand for; ``within``: the parts that are walked."""
    seen: set[str] = set()
    left = [expr]
    while left:
        part = left.pop()
        if isinstance(part, Name) and part.value in lets:
            if part.value in seen:
                continue
            seen.add(part.value)
            part = resolve(part, lets)
        yield part
        left += reversed(within(part))


def nesting(expr: Expr, known: Mapping[str, int]) -> int:
    """How deep the operations of an expression are nested, its names written out; ``known``: the depths of the names."""
    if isinstance(expr, Name) and expr.value in known:
        return known[expr.value]
    return 1 + max((nesting(inner, known) for inner in children(expr)), default=0)
