"""Syntax errors in words: sets of expected terminals become a sentence, the user's own token is named."""

from __future__ import annotations

from pkcompiler.diagnostics import Diagnostic
from pkcompiler.lang.syntax.tokens import Lexeme, Source

_SHAPES = "the three shapes are:  setting = value    keyword LABEL = value    kind NAME { ... }"


def describe(expected: set[str]) -> str:
    """``{"COMMA", "RPAR"}`` to ``',' or ')'``; the terminals that begin a value, or continue one, are said as one thing."""
    parts: list[str] = []
    rest = expected - {"PLUS", "MINUS", "STAR", "CIRCUMFLEX", "COLON", "_RANGE", "$END"}
    if "NUMBER" in rest:
        parts.append("a value")
        rest -= {"NUMBER", "STRING", "NAME", "LPAR"}
    elif "STAR" in expected or "CIRCUMFLEX" in expected:
        parts.append("an operator")
        rest -= {"EQUAL", "LPAR"}
    texts = [
        ("EQUAL", "'='"),
        ("LBRACE", "'{'"),
        ("LPAR", "'('"),
        ("COMMA", "','"),
        ("RPAR", "')'"),
        ("STRING", "a text in double quotes"),
    ]
    parts += [text for kind, text in texts if kind in rest]
    if "NAME" in rest:
        parts.append("a name" if "EQUAL" in rest or "STRING" in rest else "the next setting")
    if "RBRACE" in rest:
        parts.append("'}'")
    if not parts:
        return "the end of the file"
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " or " + parts[-1]


def unexpected(source: Source, tokens: tuple[Lexeme, ...], index: int, expected: set[str]) -> Diagnostic:
    """The diagnostic for the token at ``index`` (the end of the file where there is none)."""
    token = tokens[index] if index < len(tokens) else None
    before = tokens[index - 1] if index else None
    if token is None:
        at = before.end if before else 0
        span = source.span(max(0, at - 1), at)
        note = _open_parenthesis(source, tokens, index, expected) or _note(expected, "", before)
        return Diagnostic("PKC001", "the file ends too early", span, f"expected {describe(expected)} after this", (note,))
    shown = "this text" if token.type == "STRING" else f"'{_short(token.text)}'"
    message = f"unexpected {shown}"
    if before is not None and before.type in ("EQUAL", "COMMA", "STAR", "PLUS", "MINUS", "CIRCUMFLEX", "LPAR"):
        message += f" after '{before.text}'"
    note = (
        _power(token, before)
        or _open_parenthesis(source, tokens, index, expected)
        or _one_label(tokens, index, expected)
        or _note(expected, token.type, before)
    )
    return Diagnostic("PKC001", message, source.span(token.start, token.end), f"expected {describe(expected)}", (note,))


def unclosed(source: Source, tokens: tuple[Lexeme, ...], index: int) -> Diagnostic:
    """The ``{`` at ``index`` has no ``}``."""
    start = index
    while start and tokens[start - 1].type in ("NAME", "STRING") and start > index - 2:
        start -= 1
    header = " ".join(t.text for t in tokens[start:index])
    span = source.span(tokens[index].start, tokens[index].end)
    return Diagnostic(
        "PKC004",
        f"'{_short(header)} {{' is never closed".replace("' {", "'{"),
        span,
        "no matching '}'",
        ("add '}' on a line of its own where it ends",),
    )


def no_value(source: Source, tokens: tuple[Lexeme, ...], index: int) -> Diagnostic:
    """The ``=`` at ``index`` has nothing after it."""
    start = index
    while start and tokens[start - 1].type in ("NAME", "STRING") and start > index - 2:
        start -= 1
        if "\n" in source.text[tokens[start - 1].end : tokens[start].start] or start == 0:
            break
    header = _short(" ".join(t.text for t in tokens[start:index]))
    span = source.span(tokens[start].start, tokens[index].end)
    return Diagnostic(
        "PKC001", f"'{header}' has no value", span, "expected a value", (f"write the value after it: {header} = ...",)
    )


def _open_parenthesis(source: Source, tokens: tuple[Lexeme, ...], index: int, expected: set[str]) -> str:
    """Where a new line, a block's end or the file's follows, the '(' before it was probably never closed."""
    after = tokens[index] if index < len(tokens) else None
    ends = after is None or after.type == "RBRACE" or "\n" in source.text[tokens[index - 1].end : after.start]
    if "RPAR" not in expected or not ends:
        return ""
    depth = 0
    for token in reversed(tokens[:index]):
        depth += {"RPAR": 1, "LPAR": -1}.get(token.type, 0)
        if depth < 0:
            line = source.text.count("\n", 0, token.start) + 1
            column = token.start - source.text.rfind("\n", 0, token.start)
            return f"the '(' of line {line}, column {column} is not closed: write ')'"
    return ""


def _power(token: Lexeme, before: Lexeme | None) -> str:
    """``theta ** 2``."""
    twice = before is not None and before.type == token.type == "STAR" and before.end == token.start
    return "a power is written ^: theta^2" if twice else ""


def _one_label(tokens: tuple[Lexeme, ...], index: int, expected: set[str]) -> str:
    """``pass my pass {``: a declaration has one name."""
    if not {"EQUAL", "LBRACE"} <= expected or "NAME" in expected or index < 2:
        return ""
    kind, label = _short(tokens[index - 2].text), _short(tokens[index - 1].text)
    return f"one name is enough, and a hyphen joins words: {kind} {label} {{ ... }}, or {kind} {label} = value"


def _note(expected: set[str], kind: str, before: Lexeme | None) -> str:
    if kind in ("COLON", "_RANGE"):
        return "a ratio (2:4) or a range (2..20) is a value of its own, not a part of an expression"
    if kind in ("RBRACE", "RPAR") and not ({"RBRACE", "RPAR"} & expected):
        return "delete it, or open it first" if "NUMBER" not in expected else "write a value before it"
    if "NUMBER" in expected:
        return "write a value here: a number, a name, a call such as abs(theta), or a text in double quotes"
    if before is not None and before.type == "NAME" and ("EQUAL" in expected or "LBRACE" in expected):
        return f"write '{_short(before.text)} = value', or '{_short(before.text)} NAME {{ ... }}'"
    if kind in ("NAME", "NUMBER", "STRING", "LPAR") and "STAR" in expected:
        return "put an operator or a comma between the two values, or begin a new setting: NAME = value"
    return _SHAPES


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
