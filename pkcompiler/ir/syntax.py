"""Text of the printed IR to a syntax tree. The only file of this grammar that knows lark."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from lark import Lark
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import Token

from pkcompiler import resources
from pkcompiler.diagnostics import PkcError, Span, fail

MAX_CHARACTERS = 64_000_000
MAX_NESTING = 100

_BRACKETS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|[\[({]|[\])}]')
_PROSE = {
    "HEAD": "'path.graph'",
    "RETURN": "'return'",
    "VALUE": "a value such as %x",
    "SLOT": "a slot such as @fc1.weight",
    "STRING": "a string",
    "NUMBER": "a number",
    "WORD": "a word",
    "$END": "the end of the text",
    "ARROW": "'->'",
}
_HELP = "a graph reads: path.graph @name(%x: f32[B, 4]) -> f32[B, 2] { ... return %y }"


@dataclass(slots=True)
class Node:
    """A node of the syntax tree: the grammar's rule and its children, nodes or tokens."""

    data: str
    children: list[Node | Token]
    meta: object = None


def tree(text: str, file: str) -> Node:
    """The syntax tree of a printed graph.

    :raises PkcError: PKC051 (too large, nested too deep), PKC052 (a character or token that does not belong there)
    """
    _bound(text, file)
    try:
        found = _parser().parse(text)
    except UnexpectedInput as error:
        raise _unexpected(error, text, file) from None
    if not isinstance(found, Node):
        raise TypeError(found)
    return found


@cache
def _parser() -> Lark:
    return Lark(resources.read("grammar", "ir.lark"), parser="lalr", maybe_placeholders=False, tree_class=Node)


def _bound(text: str, file: str) -> None:
    if len(text) > MAX_CHARACTERS:
        size = f"{len(text):,} characters, at most {MAX_CHARACTERS:,}"
        raise fail("PKC051", f"the graph is too large: {size}", "print a part of the model", span=Span(file, text[:80], 0, 1))
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += (match[0] in "[({") - (match[0] in "])}")
        if depth > MAX_NESTING:
            span = Span(file, text, match.start(), match.end())
            raise fail(
                "PKC051", f"brackets are nested more than {MAX_NESTING} deep", "flatten this list", span=span, label="one too many"
            )


def _unexpected(error: UnexpectedInput, text: str, file: str) -> PkcError:
    match error:
        case UnexpectedToken(token=token) if token.type != "$END":
            found, start, end, wanted = f"unexpected '{token}'", token.start_pos or 0, token.end_pos or 0, error.expected
        case UnexpectedCharacters():
            start = error.pos_in_stream or 0
            found, end, wanted = f"unexpected character {text[start]!r}", start + 1, error.allowed
        case _:
            start = len(text.rstrip())
            found, end, wanted = "the graph ends too early", start + 1, getattr(error, "expected", set())
    label = f"expected {_list(wanted)}" if wanted else ""
    return fail("PKC052", found, _HELP, span=Span(file, text, start, max(end, start + 1)), label=label)


def _list(terminals: object) -> str:
    if not isinstance(terminals, (set, frozenset, list, tuple)):
        return "something else"
    words = sorted({_PROSE.get(t) or f"'{_symbol(t)}'" for t in terminals})
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _symbol(terminal: str) -> str:
    definition = next((t.pattern.value for t in _parser().terminals if t.name == terminal), terminal)
    return str(definition)
