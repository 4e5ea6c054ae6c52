"""The parser's tree to the nodes of :mod:`pkcompiler.lang.ast`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace

from pkcompiler.diagnostics import Diagnostic, Span
from pkcompiler.lang.ast import Binary, Block, Call, Expr, Item, Labelled, Name, Number, Range, Ratio, Setting, Text, Unary
from pkcompiler.lang.syntax.tokens import MAX_DIGITS, MAX_NESTING, Lexeme, Source, split_unit


class Branch:
    """A node of the parser's tree: the name of its rule, and what it is made of (``tree_class`` of lark)."""

    __slots__ = ("children", "data")

    def __init__(self, data: str, children: list[Lexeme | Branch]) -> None:
        self.data, self.children = data, children


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
        """Every setting, labelled value and block directly below ``branch``; what is nested too deep is reported and left out."""
        found = (self._item(c) for c in branch.children if isinstance(c, Branch))
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
        second = children[1]
        label = self._label(second) if isinstance(second, Lexeme) and second.type != "RBRACE" else None
        before = len(self.diagnostics)
        items = self.items(branch)
        start, end = self._edges(children[0])[0], self._edges(children[-1])[1]
        at = bisect_left(self.errors, start)
        damaged = len(self.diagnostics) > before or (at < len(self.errors) and self.errors[at] < max(end, start + 1))
        return Block(name, label, items, damaged or name.value == "?", self.source.span(start, end))

    def _values(self, children: Iterable[Lexeme | Branch]) -> tuple[Expr, ...]:
        return tuple(self._expr(c, 0) for c in children)

    def _expr(self, node: Lexeme | Branch, depth: int) -> Expr:
        if depth > MAX_NESTING:
            raise _TooDeep
        if isinstance(node, Lexeme):
            return self._leaf(node)
        parts = node.children
        match str(node.data):
            case "binary":
                left, right = self._expr(parts[0], depth + 1), self._expr(parts[2], depth + 1)
                return Binary(_text(parts[1]), left, right, self._join(left.span, right.span))
            case "negative":
                operand = self._expr(parts[1], depth + 1)
                return Unary("-", operand, self.source.span(self._edges(parts[0])[0], self._end(operand.span)))
            case "group":
                span = self.source.span(self._edges(parts[0])[0], self._edges(parts[2])[1])
                return replace(self._expr(parts[1], depth + 1), span=span)
            case "range":
                start, end = self._expr(parts[0], depth + 1), self._expr(parts[1], depth + 1)
                return Range(start, end, self._join(start.span, end.span))
            case "ratio":
                return self._ratio(parts)
            case _:
                return self._call(parts, depth)

    def _call(self, parts: list[Lexeme | Branch], depth: int) -> Call:
        args: list[Expr] = []
        kwargs: list[tuple[str, Expr]] = []
        for part in parts[1:-1]:
            if isinstance(part, Branch) and part.data == "keyword":
                kwargs.append((_text(part.children[0]), self._expr(part.children[1], depth + 1)))
            else:
                args.append(self._expr(part, depth + 1))
        span = self.source.span(self._edges(parts[0])[0], self._edges(parts[-1])[1])
        return Call(_text(parts[0]), tuple(args), tuple(kwargs), span)

    def _ratio(self, parts: list[Lexeme | Branch]) -> Ratio:
        span = self.source.span(self._edges(parts[0])[0], self._edges(parts[1])[1])
        kept, of = _text(parts[0]), _text(parts[1])
        if kept.isdigit() and of.isdigit() and len(kept + of) <= MAX_DIGITS:
            return Ratio(int(kept), int(of), span)
        note = "write two whole numbers: 2:4"
        self.diagnostics.append(Diagnostic("PKC001", "a ratio needs two whole numbers", span, "not a ratio", (note,)))
        return Ratio(0, 0, span)

    def _leaf(self, leaf: Lexeme) -> Number | Text | Name:
        span = self.source.span(leaf.start, leaf.end)
        if leaf.type == "NUMBER":
            literal, unit = split_unit(leaf.text)
            if len(literal) > 2 * MAX_DIGITS or not abs(float(literal)) < float("inf"):
                raise _Unreadable
            return Number(int(literal) if literal.isdigit() else float(literal), unit, span)
        if leaf.type == "STRING":
            return Text(re.sub(r"\\(.)", r"\1", leaf.text[1:-1]), span)
        return Name(leaf.text, span)

    def _name(self, leaf: Lexeme | Branch) -> Name:
        return Name(_text(leaf), self.source.span(*self._edges(leaf)))

    def _label(self, leaf: Lexeme | Branch) -> Name | Text:
        assert isinstance(leaf, Lexeme)
        label = self._leaf(leaf)
        assert isinstance(label, Name | Text)
        return label

    def _edges(self, leaf: Lexeme | Branch) -> tuple[int, int]:
        assert isinstance(leaf, Lexeme)
        return leaf.start, leaf.end

    def _end(self, span: Span | None) -> int:
        return span.end if span else 0

    def _join(self, first: Span | None, last: Span | None) -> Span:
        return self.source.span(first.start if first else 0, self._end(last))


def _text(leaf: Lexeme | Branch) -> str:
    assert isinstance(leaf, Lexeme)
    return leaf.text
