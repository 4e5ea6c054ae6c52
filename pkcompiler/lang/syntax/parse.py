"""Text to syntax tree. The only file that imports lark. Reports every syntax error from which it can go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import cast

from lark import Lark, Token, lexer
from lark.exceptions import UnexpectedToken
from lark.lexer import Lexer, PatternStr
from lark.parsers.lalr_analysis import Shift
from lark.parsers.lalr_parser_state import ParserState

from pkcompiler import resources
from pkcompiler.diagnostics import Diagnostic
from pkcompiler.lang.ast import Document, Text
from pkcompiler.lang.syntax.build import Branch, Builder
from pkcompiler.lang.syntax.prose import no_value, unclosed, unexpected
from pkcompiler.lang.syntax.tokens import MAX_BYTES, MAX_ERRORS, MAX_NESTING, Lexeme, Source, check_tokens, scan, scanner

_END = "$END"
_OPENING = {"LPAR": "RPAR", "LBRACE": "RBRACE"}


class _NoLexer(Lexer):
    """The tokens come from :mod:`pkcompiler.lang.syntax.tokens`, which goes on after an unreadable character."""

    def __init__(self, conf: object) -> None:
        pass

    def lex(self, lexer_state: object, parser_state: object):  # type: ignore[no-untyped-def]
        return iter(())


@contextmanager
def _quick() -> Iterator[None]:
    """Where interegular is installed, lark searches the grammar of grammars for colliding terminals: 130 ms for tests only."""
    before = lexer.has_interegular
    lexer.has_interegular = False
    try:
        yield
    finally:
        lexer.has_interegular = before


@cache
def _machine() -> tuple[Lark, re.Pattern[str]]:
    grammar = resources.read("grammar", "language.lark")
    with _quick():
        lark = Lark(grammar, parser="lalr", lexer=_NoLexer, tree_class=Branch)
    patterns = [
        (t.name, re.escape(t.pattern.value) if isinstance(t.pattern, PatternStr) else t.pattern.value) for t in lark.terminals
    ]
    return lark, scanner(patterns)


def parse(text: str, file: str = "<text>") -> tuple[Document, list[Diagnostic]]:
    """The document and its syntax errors, in order of position.

    Items that could not be read are left out; the block that held them is ``damaged``.
    """
    source = Source(file, text)
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1_000_000} MB"
        return Document((), (), text, file), [Diagnostic("PKC006", message, None, "", ("split it into several files",))]
    lark, pattern = _machine()
    scanned = scan(source, pattern)
    diagnostics = [*scanned.diagnostics, *check_tokens(source, scanned.tokens)]
    too_deep = _check_nesting(source, scanned.tokens)
    if too_deep is not None:
        return Document((), (), text, file), [*diagnostics, too_deep]
    run = _Run(lark, source, scanned.tokens, scanned.bad)
    tree = run.tree()
    diagnostics += run.diagnostics
    builder = Builder(source, sorted([d.span.start for d in diagnostics if d.span is not None]))
    items = builder.items(tree)
    diagnostics += builder.diagnostics
    diagnostics.sort(key=lambda d: d.span.start if d.span else 0)
    comments = tuple(Text(c.text, source.span(c.start, c.end)) for c in scanned.comments)
    return Document(items, comments, text, file), diagnostics[:MAX_ERRORS]


def _check_nesting(source: Source, tokens: tuple[Lexeme, ...]) -> Diagnostic | None:
    depth = 0
    for token in tokens:
        if token.type in _OPENING:
            depth += 1
        elif token.type in _OPENING.values():
            depth = max(0, depth - 1)
        if depth > MAX_NESTING:
            span = source.span(token.start, token.end)
            note = "name the inner parts: let NAME = ..."
            return Diagnostic("PKC005", f"nested more than {MAX_NESTING} deep", span, "one level too many", (note,))
    return None


class _Run:
    """One run of the LALR machine over the tokens, with recovery at the next item."""

    def __init__(self, lark: Lark, source: Source, tokens: tuple[Lexeme, ...], bad: tuple[int, ...]) -> None:
        self.source, self.tokens, self.bad = source, tokens, bad
        self.state = lark.parse_interactive("").parser_state
        self.diagnostics: list[Diagnostic] = []
        self.open: list[int] = []  # the index of each open block's "{"

    def tree(self) -> Branch:
        """The tree of everything readable."""
        index = 0
        while index < len(self.tokens) and len(self.diagnostics) < MAX_ERRORS:
            index = self._step(index)
        return self._finish()

    def _step(self, index: int) -> int:
        token = self.tokens[index]
        if self._lacks_value(index):
            self._report(no_value(self.source, self.tokens, index), token.end, self.tokens[index + 1].start)
            self._forget()
            return index + 1
        try:
            self._feed(token)
        except UnexpectedToken as error:
            return self._recover(index, {t for t in error.expected if not self._refusal(t)})
        if token.type == "LBRACE":
            self.open.append(index)
        elif token.type == "RBRACE":
            self.open.pop()
        return index + 1

    def _feed(self, token: Lexeme) -> None:
        self.state.feed_token(cast(Token, token))

    def _recover(self, index: int, expected: set[str]) -> int:
        """Report the token, forget the unfinished item, and return the index of the token to go on with."""
        before = self.tokens[index - 1].end if index else 0
        self._report(unexpected(self.source, self.tokens, index, expected), before, self.tokens[index].end)
        self._forget()
        return self._resume(index)

    def _report(self, diagnostic: Diagnostic, start: int, end: int) -> None:
        """Report an error, unless an unreadable character between these positions is the cause."""
        if not any(start <= at < end for at in self.bad):
            self.diagnostics.append(diagnostic)

    def _lacks_value(self, index: int) -> bool:
        """Whether this is a ``=`` after which the next line begins another item."""
        if self.tokens[index].type != "EQUAL" or not self._begins_line(index + 1) or not self._begins_item(index + 1):
            return False
        return self._depth(index) == 0

    def _complete(self) -> None:
        """Reduce what is whole already: a name could follow, and the machine has only waited for the next token."""
        conf, states, values = self.state.parse_conf, self.state.state_stack, self.state.value_stack
        while (step := conf.states[states[-1]].get("NAME")) is not None and step[0] is not Shift:
            rule = step[1]
            size = len(rule.expansion)
            parts = values[len(values) - size :]
            del states[len(states) - size :], values[len(values) - size :]
            states.append(conf.states[states[-1]][rule.origin.name][1])
            values.append(conf.callbacks[rule](parts))

    def _forget(self) -> None:
        """Drop the item that is not whole."""
        self._complete()
        table = self.state.parse_conf.states
        while "item" not in table[self.state.state_stack[-1]]:
            self.state.state_stack.pop()
            self.state.value_stack.pop()

    def _resume(self, index: int) -> int:
        """The next index at which an item begins or a block ends; balanced parentheses around ``index`` are skipped first."""
        if self.tokens[index].type == "RBRACE" and not self.open:
            return index + 1
        if self._kinds(index, 2) == ["NAME", "LBRACE"] and not self._begins_line(index):
            index += 1
        index = self._past_parentheses(index)
        while index < len(self.tokens):
            token = self.tokens[index]
            if token.type == "RBRACE" and self.open:
                return index
            if token.type == "LBRACE":
                self._feed(Lexeme("NAME", "?", token.start, token.start))
                return index
            if self._begins_item(index):
                return index
            index += 1
        return index

    def _past_parentheses(self, index: int) -> int:
        """Past the ``)`` that closes the parentheses open at ``index``; ``index`` itself when they are never closed."""
        depth, at = self._depth(index), index
        while depth > 0 and at < len(self.tokens) and self.tokens[at].type not in ("LBRACE", "RBRACE"):
            depth += {"LPAR": 1, "RPAR": -1}.get(self.tokens[at].type, 0)
            at += 1
        return at if depth == 0 else index

    def _depth(self, index: int) -> int:
        depth = 0
        for at in range(index - 1, -1, -1):
            kind = self.tokens[at].type
            if kind in ("LBRACE", "RBRACE"):
                break
            depth += {"LPAR": 1, "RPAR": -1}.get(kind, 0)
            if depth >= 0 and self._begins_item(at) and self._begins_line(at):
                break
        return max(depth, 0)

    def _kinds(self, index: int, count: int) -> list[str]:
        return [t.type for t in self.tokens[index : index + count]]

    def _begins_item(self, index: int) -> bool:
        match self._kinds(index, 3):
            case ["NAME", "EQUAL" | "LBRACE", *_] | ["NAME", "NAME" | "STRING", "EQUAL" | "LBRACE"]:
                return True
        return False

    def _begins_line(self, index: int) -> bool:
        if not 0 < index < len(self.tokens):
            return False
        before, token = self.tokens[index - 1], self.tokens[index]
        if token.type != "NAME" or before.type in ("COMMA", "LPAR"):
            return False
        return "\n" in self.source.text[before.end : token.start]

    def _finish(self) -> Branch:
        end = len(self.source.text)
        expected = {t for t in self._refusal(_END) if not self._refusal(t)}
        if expected and len(self.diagnostics) < MAX_ERRORS:
            self._report_end(expected)
        if expected:
            self._forget()
        for _ in self.open:
            self._feed(Lexeme("RBRACE", "}", end, end))
        return cast(Branch, self.state.feed_token(Token(_END, ""), is_end=True))

    def _report_end(self, expected: set[str]) -> None:
        if self.open:
            self.diagnostics.append(unclosed(self.source, self.tokens, self.open[-1]))
        if (not self.open or "RPAR" in expected) and not any(b >= self._last_end() for b in self.bad):
            self.diagnostics.append(unexpected(self.source, self.tokens, len(self.tokens), expected))

    def _refusal(self, terminal: str) -> set[str]:
        """What is expected instead of this terminal; empty where it may come next. Tried on a copy that builds nothing."""
        conf = copy(self.state.parse_conf)
        conf.callbacks = {}
        probe = ParserState(conf, self.state.lexer, list(self.state.state_stack), list(self.state.value_stack))
        try:
            probe.feed_token(Token(terminal, ""), is_end=terminal == _END)
        except UnexpectedToken as error:
            return set(error.expected)
        return set()

    def _last_end(self) -> int:
        return self.tokens[-1].end if self.tokens else 0
