"""Text to tokens: one regular expression made of the grammar's own terminals. What is no token becomes a diagnostic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pkcompiler.diagnostics import Diagnostic, Span

MAX_BYTES = 1_000_000
MAX_NESTING = 100
MAX_DIGITS = 40
MAX_ERRORS = 50

_DOTTED = re.compile(r"[A-Za-z_]\w*\.(?=[\w*])[\w*./:-]*[\w*]|\*\.[A-Za-z_][\w*.]*")
"""``fc.weight``, ``train.py:train``, ``*.weight``: what was meant as a text."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name of the file that it came from; hands out spans."""

    file: str
    text: str

    def span(self, start: int, end: int) -> Span:
        """Characters ``start`` (included) to ``end`` (excluded)."""
        return Span(self.file, self.text, start, end)


@dataclass(frozen=True, slots=True)
class Lexeme:
    """One token: the name of its terminal, its text, and where it lies. (lark reads the attribute ``type``.)"""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """All tokens of a text, its comments, and the positions of what could not be read."""

    tokens: tuple[Lexeme, ...]
    comments: tuple[Lexeme, ...]
    bad: tuple[int, ...]
    diagnostics: tuple[Diagnostic, ...]


def scanner(terminals: Iterable[tuple[str, str]]) -> re.Pattern[str]:
    """One pattern with a named group per terminal; longer fixed texts first, so that ``..`` is not two dots."""
    ordered = sorted(terminals, key=lambda t: -len(t[1]))
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in ordered))


def scan(source: Source, pattern: re.Pattern[str]) -> Scan:
    """Read every token; runs of unreadable characters are reported once each and skipped."""
    tokens: list[Lexeme] = []
    comments: list[Lexeme] = []
    bad: list[int] = []
    diagnostics: list[Diagnostic] = []
    for lexeme in _lexemes(source.text, pattern):
        if lexeme.type == "COMMENT":
            comments.append(lexeme)
        elif lexeme.type == "":
            bad.append(lexeme.start)
            diagnostics.append(_unreadable(source, lexeme, tokens[-1] if tokens else None))
        elif lexeme.type == "DOTTED":
            diagnostics.append(_unquoted(source, lexeme))
            tokens.append(Lexeme("STRING", f'"{lexeme.text}"', lexeme.start, lexeme.end))
        elif lexeme.type != "SPACE":
            tokens.append(lexeme)
        if len(diagnostics) >= MAX_ERRORS:
            break
    return Scan(tuple(tokens), tuple(comments), tuple(bad), tuple(diagnostics))


def _lexemes(text: str, pattern: re.Pattern[str]) -> Iterator[Lexeme]:
    position = 0
    while position < len(text):
        if dotted := _DOTTED.match(text, position):
            yield Lexeme("DOTTED", dotted.group(), position, dotted.end())
            position = dotted.end()
            continue
        found = pattern.match(text, position)
        end = found.end() if found else _end_of_unreadable(text, position, pattern)
        yield Lexeme((found.lastgroup or "") if found else "", text[position:end], position, end)
        position = end


def _end_of_unreadable(text: str, start: int, pattern: re.Pattern[str]) -> int:
    """A text that is not closed ends with its line; anything else where a token, or a new line, begins again."""
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    if text[start] == '"':
        return line_end
    if text[start] == "'" and text.find("'", start + 1, line_end) > 0:
        return text.find("'", start + 1, line_end) + 1
    end = start + 1
    while end < line_end and not pattern.match(text, end):
        end += 1
    return end


def _unreadable(source: Source, lexeme: Lexeme, before: Lexeme | None) -> Diagnostic:
    span = source.span(lexeme.start, lexeme.end)
    first = lexeme.text[0]
    if first == '"':
        return Diagnostic(
            "PKC003", "this text is not closed", span, "no closing '\"' on this line", ("end the text with '\"' on the same line",)
        )
    shown = repr(first) if first.isprintable() else f"U+{ord(first):04X}"
    return Diagnostic("PKC002", f"unexpected character {shown}", span, "not part of the language", (_hint(first, lexeme, before),))


def _unquoted(source: Source, lexeme: Lexeme) -> Diagnostic:
    span = source.span(lexeme.start, lexeme.end)
    message, note = f"{lexeme.text} stands without quotes", f'write it in double quotes: "{lexeme.text}"'
    return Diagnostic("PKC002", message, span, "a name with dots is a text", (note,))


def _hint(first: str, lexeme: Lexeme, before: Lexeme | None) -> str:
    if first == "'":
        return 'texts stand in double quotes: "like this"'
    if first == "%" and before is not None and before.type == "NUMBER":
        return f"write the percent sign directly after the number: {before.text}%"
    if first in "‘’“”":
        return 'use the plain double quote: "'
    if first in "−–—":
        return "use the plain minus sign: -"
    if first in "×·":
        return "multiplication is written *"
    if first == "|":
        return "an absolute value is written abs(theta)"
    if first in ";&":
        return "settings need no separator: write one to a line"
    return "delete it, or put it in double quotes if it belongs to a text"


def check_tokens(source: Source, tokens: tuple[Lexeme, ...]) -> list[Diagnostic]:
    """Bounds on digits, and texts whose backslashes mean nothing."""
    found = []
    for token in tokens:
        if token.type == "NUMBER":
            found += _check_number(source, token)
        elif token.type == "STRING":
            found += _check_escapes(source, token)
    return found[:MAX_ERRORS]


def _check_number(source: Source, token: Lexeme) -> list[Diagnostic]:
    span = source.span(token.start, token.end)
    digits = sum(c.isdigit() for c in token.text)
    if digits > MAX_DIGITS:
        note = f"round it to {MAX_DIGITS} digits or fewer"
        return [
            Diagnostic("PKC007", f"a number of {digits} digits; at most {MAX_DIGITS} are read", span, "too many digits", (note,))
        ]
    literal, _ = split_unit(token.text)
    if abs(float(literal)) == float("inf"):
        return [Diagnostic("PKC007", f"the number {literal} is too large", span, "beyond 1.8e308", ("write a smaller number",))]
    return []


def _check_escapes(source: Source, token: Lexeme) -> list[Diagnostic]:
    found = []
    for match in re.finditer(r"\\(.)", token.text):
        if match.group(1) in '"\\':
            continue
        at = token.start + match.start()
        note = "write '\\\\' for a backslash; paths are written with '/'"
        message = f"'{match.group()}' means nothing in a text"
        found.append(Diagnostic("PKC002", message, source.span(at, at + 2), "only '\\\"' and '\\\\' are known", (note,)))
    return found


def split_unit(text: str) -> tuple[str, str]:
    """``"98%"`` to ``("98", "%")``: the number and whatever letters follow it."""
    match = re.match(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)(.*)", text)
    assert match is not None, text
    return match.group(1), match.group(2)
