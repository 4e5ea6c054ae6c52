"""The parser's tree to the nodes of :mod:`pkcompiler.lang.ast`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from pkcompiler.diagnostics import Diagnostic, Span
from pkcompiler.lang.ast import Binary, Block, Call, Expr, Item, Labelled, Name, Number, Range, Ratio, Setting, Text, Unary
from pkcompiler.lang.tokens import MAX_DIGITS, MAX_NESTING, Source, split_unit


class Leaf(Protocol):
    """What this module needs of a token."""

    type: str
    value: str
    start_pos: int | None
    end_pos: int | None


class Branch(Protocol):
    """What this module needs of a tree."""

    data: str
    children: list[Leaf | Branch]


class _TooDeep(Exception):
    """An expression nested beyond the bound."""


class _Unreadable(Exception):
    """A number beyond the bounds, which the scan has reported."""


class Builder:
    """Builds the items of one source; ``errors`` are the positions (ascending) at which it could not be read."""

    def __init__(self, source: Source, errors: list[int]) -> None:
        self.source, self.errors = source, errors
        self.diagnostics: list[Diagnostic] = []

    def items(self, branch: Branch) -> tuple[Item, ...]:
        """Every setting, labelled value and block directly below ``branch``; an expression that is nested too deep drops its item."""
        found = (self._item(c) for c in branch.children if _is_branch(c))
        return tuple(item for item in found if item is not None)

    def _item(self, branch: Branch) -> Item | None:
        name = self._name(branch.children[0])
        if branch.data == "block":
            return self._block(branch, name)
        try:
            if branch.data == "setting":
                values = self._values(branch.children[1:])
                return Setting(name, values, self._join(name.span, values[-1].span))
            label = self._label(branch.children[1])
            values = self._values(branch.children[2:])
            return Labelled(name, label, values, self._join(name.span, values[-1].span))
        except _Unreadable:
            return None
        except _TooDeep:
            note = "name the inner parts: let NAME = ..."
            message = f"an expression of more than {MAX_NESTING} nested operations"
            self.diagnostics.append(Diagnostic("PKC005", message, name.span, "nested too deep", (note,)))
            return None

    def _block(self, branch: Branch, name: Name) -> Block:
        children = branch.children
        has_label = len(children) > 1 and not _is_branch(children[1]) and children[1].type != "RBRACE"
        label = self._label(children[1]) if has_label else None
        before = len(self.diagnostics)
        items = self.items(branch)
        start, end = self._edges(children[0])[0], self._edges(children[-1])[1]
        at = bisect_left(self.errors, start)
        damaged = len(self.diagnostics) > before or (at < len(self.errors) and self.errors[at] < max(end, start + 1))
        return Block(name, label, items, damaged or name.value == "?", self.source.span(start, end))

    def _values(self, children: Iterable[Leaf | Branch]) -> tuple[Expr, ...]:
        return tuple(self._expr(c, 0) for c in children)

    def _expr(self, node: Leaf | Branch, depth: int) -> Expr:
        if depth > MAX_NESTING:
            raise _TooDeep
        if not _is_branch(node):
            return self._leaf(node)
        parts = node.children
        match str(node.data):
            case "binary":
                left, right = self._expr(parts[0], depth + 1), self._expr(parts[2], depth + 1)
                return Binary(parts[1].value, left, right, self._join(left.span, right.span))
            case "negative":
                operand = self._expr(parts[1], depth + 1)
                return Unary("-", operand, self.source.span(self._edges(parts[0])[0], self._end(operand.span)))
            case "group":
                return self._widen(self._expr(parts[1], depth + 1), self._edges(parts[0])[0], self._edges(parts[2])[1])
            case "range":
                start, end = self._expr(parts[0], depth + 1), self._expr(parts[1], depth + 1)
                return Range(start, end, self._join(start.span, end.span))
            case "ratio":
                return self._ratio(parts)
            case _:
                return self._call(parts, depth)

    def _call(self, parts: list[Leaf | Branch], depth: int) -> Call:
        args: list[Expr] = []
        kwargs: list[tuple[str, Expr]] = []
        for part in parts[1:-1]:
            if _is_branch(part) and part.data == "keyword":
                kwargs.append((part.children[0].value, self._expr(part.children[1], depth + 1)))
            else:
                args.append(self._expr(part, depth + 1))
        span = self.source.span(self._edges(parts[0])[0], self._edges(parts[-1])[1])
        return Call(parts[0].value, tuple(args), tuple(kwargs), span)

    def _ratio(self, parts: list[Leaf | Branch]) -> Ratio:
        span = self.source.span(self._edges(parts[0])[0], self._edges(parts[1])[1])
        if all(p.value.isdigit() and len(p.value) <= MAX_DIGITS for p in parts):
            return Ratio(int(parts[0].value), int(parts[1].value), span)
        note = "write two whole numbers: 2:4"
        self.diagnostics.append(Diagnostic("PKC001", "a ratio needs two whole numbers", span, "not a ratio", (note,)))
        return Ratio(0, 0, span)

    def _leaf(self, leaf: Leaf) -> Number | Text | Name:
        span = self.source.span(*self._edges(leaf))
        if leaf.type == "NUMBER":
            literal, unit = split_unit(leaf.value)
            if len(literal) > 2 * MAX_DIGITS or not abs(float(literal)) < float("inf"):
                raise _Unreadable
            return Number(int(literal) if literal.isdigit() else float(literal), unit, span)
        if leaf.type == "STRING":
            return Text(re.sub(r"\\(.)", r"\1", leaf.value[1:-1]), span)
        return Name(leaf.value, span)

    def _name(self, leaf: Leaf | Branch) -> Name:
        return Name(leaf.value, self.source.span(*self._edges(leaf)))

    def _label(self, leaf: Leaf | Branch) -> Name | Text:
        label = self._leaf(leaf)
        assert isinstance(label, Name | Text)
        return label

    def _widen(self, expr: Expr, start: int, end: int) -> Expr:
        return replace(expr, span=self.source.span(start, end))

    def _edges(self, leaf: Leaf | Branch) -> tuple[int, int]:
        return leaf.start_pos or 0, leaf.end_pos or 0

    def _end(self, span: Span | None) -> int:
        return span.end if span else 0

    def _join(self, first: Span | None, last: Span | None) -> Span:
        return self.source.span(first.start if first else 0, self._end(last))


def _is_branch(node: Leaf | Branch) -> bool:
    return hasattr(node, "children")
