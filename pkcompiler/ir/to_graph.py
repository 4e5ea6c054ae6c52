"""Syntax tree of the printed IR to a graph, with the place of every part in the text. Reads unsound graphs too: verify judges."""

from __future__ import annotations

import difflib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, cast

from pkcompiler.diagnostics import Diagnostic, Span, raise_all
from pkcompiler.ir.maps import REINDEX, Batch, Dim, Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.spelling import MAPS, REINDEX_PREFIX, FormError, Nested, unspell
from pkcompiler.ir.syntax import Node, tree
from pkcompiler.ir.types import Op, Origin, PathGraph, Role, Slot, TensorType, Value

Subject = tuple[str | int, ...]
"""A part of a graph: ``("slot", 2)``, ``("op", 3)``, ``("op", 3, "input", 0)``, ``("op", 3, "weight")``, ``("output", 0)``."""

MAX_DIGITS = 40
_ROLES = ("parameter", "buffer", "constant", "computed")
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_WORDS: dict[str, object] = {"true": True, "false": False, "none": None, "B": Batch(), **_FLOATS}
_TRAILING = re.compile(r"[ \t]*//[ \t]*([^\n]*)")
_ORIGIN = re.compile(r'([\w.]+|"(?:\\.|[^"\\\n])*")(?:[ \t]+(.*))?')


@dataclass(frozen=True, slots=True)
class Located:
    """A graph and where its parts stand in the text."""

    graph: PathGraph
    spans: dict[Subject, Span]
    result_types: tuple[TensorType | None, ...]


def read_graph(text: str, file: str = "<graph>") -> Located:
    """Read a printed graph without verifying it.

    :raises PkcError: PKC051, PKC052 (see :func:`pkcompiler.ir.syntax.tree`), PKC053 (malformed literal),
        PKC054 (unknown operation), PKC055 (attribute), PKC056 (operand); all but the first two together
    """
    reader = _Reader(text, file)
    located = reader.graph(tree(text, file))
    raise_all(reader.found)
    return located


class _Reader:
    """Collects the diagnostics of one text while its tree becomes a graph."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.found: list[Diagnostic] = []
        self.spans: dict[Subject, Span] = {}

    def graph(self, root: Node) -> Located:
        values: list[Value] = []
        slots: list[Slot] = []
        ops: list[Op] = []
        results: list[TensorType | None] = []
        outputs: list[str] = []
        title = ""
        for child in root.children:
            match child:
                case Node("binder", [token, type]):
                    self.mark(("input", len(values)), token)
                    values.append(Value(self.name(token), self.type(type)))
                case Node("slot"):
                    slots.append(self.slot(child, len(slots)))
                case Node("op"):
                    ops += self.op(child, len(ops))
                case Node("result_list", children):
                    results += [self.result(c, i) for i, c in enumerate(children)]
                case Node():
                    results.append(self.result(child, 0))
                case _ if child.type == "SLOT":
                    self.mark(("graph",), child)
                    title = self.name(child)
                case _ if child.type == "VALUE":
                    self.mark(("output", len(outputs)), child)
                    outputs.append(self.name(child))
        return Located(PathGraph(title, tuple(values), tuple(slots), tuple(ops), tuple(outputs)), self.spans, tuple(results))

    def result(self, node: Any, position: int) -> TensorType | None:
        if node.data == "unknown":
            return None
        self.mark(("result", position), _first(node), _last(node))
        return self.type(node)

    def slot(self, node: Node, position: int) -> Slot:
        role, token, type, *braces = cast("list[Any]", node.children)
        self.mark(("slot", position), token)
        word = self.word(role)
        if word not in _ROLES:
            self.report("PKC055", f"unknown role '{word}'", role, f"expected {', '.join(_ROLES)}", _did_you_mean(word, _ROLES))
        entries = self.entries(braces[0], ("slot", position)) if braces else {}
        prunable, of, formula = entries.pop("prunable", False), entries.pop("of", ()), entries.pop("formula", "")
        for key in entries:
            self.report(
                "PKC055", f"a slot has no attribute '{key}'", braces[0], "expected prunable", "write {prunable = true} or nothing"
            )
        if not isinstance(prunable, bool):
            self.report("PKC055", "prunable must be true or false", braces[0], "", "write {prunable = true} or nothing")
        parts = tuple(part.slot for part in of if isinstance(part, Named)) if isinstance(of, tuple) else ()
        if not isinstance(of, tuple) or len(parts) != len(of) or not isinstance(formula, str):
            hint = 'write {of = [@weight], formula = "v0 = abs.default(p0)"}'
            self.report("PKC055", "a computed slot has the slots that it is made of, and a formula", braces[0], "", hint)
        return Slot(self.name(token), self.type(type), cast(Role, word), prunable is True, parts, str(formula))

    def op(self, node: Node, position: int) -> list[Op]:
        """The operation, or nothing where it was reported."""
        token, type, head, *rest = cast("list[Any]", node.children)
        subject: Subject = ("op", position)
        self.spans[subject] = self.line(token)
        self.mark((*subject, "result"), token)
        self.mark((*subject, "word"), _first(head))
        inputs = tuple(self.input(n, (*subject, "input", i)) for i, n in enumerate(n for n in rest if n.data == "input"))
        operands = self.operands([n for n in rest if n.data == "keyword"], subject)
        attributes = next((self.entries(n, subject) for n in rest if n.data == "braces"), {})
        word = self.word(head)
        try:
            map = unspell(word, operands, attributes)
        except FormError as error:
            self.misspelled(error, word, subject)
            return []
        return [Op(map, inputs, Value(self.name(token), self.type(type)), self.origin(_last(node)))]

    def input(self, node: Node, subject: Subject) -> str:
        self.mark(subject, node.children[0])
        return self.name(node.children[0])

    def operands(self, nodes: list[Node], subject: Subject) -> dict[str, Fixed | tuple[str | None, Fixed]]:
        found: dict[str, Fixed | tuple[str | None, Fixed]] = {}
        for node in nodes:
            key, value = cast("list[Any]", node.children)
            if str(key) in found:
                self.report("PKC056", f"operand '{key}' is given twice", key, "", "remove one of the two")
            self.mark((*subject, str(key)), key, _last(value))
            found[str(key)] = self.scaled(value) if value.data == "scaled" else self.fixed(value)
        return found

    def scaled(self, node: Node) -> tuple[str | None, Fixed]:
        weight, factor = (self.fixed(cast(Node, c)) for c in node.children[1:-1])
        if isinstance(weight, Named):
            return weight.slot, factor
        if weight != Literal(1.0):
            self.report("PKC056", "the first factor must be a slot or 1", node, "", "write (@slot * factor) or (1 * factor)")
        return None, factor

    def fixed(self, node: Node) -> Fixed:
        match node:
            case Node("named", [token]):
                return Named(self.name(token))
            case Node("rsqrt", [word, token, number, _]):
                if word != "rsqrt":
                    self.report("PKC056", f"unknown factor '{word}'", word, "expected rsqrt", "write rsqrt(@slot + 1e-05)")
                return InvSqrt(self.name(token), self.float(number))
        return Literal(self.float(node.children[0]))

    def type(self, node: Any) -> TensorType:
        dtype, *dims, _ = node.children
        return TensorType(self.word(dtype), tuple(self.dim(dim) for dim in dims))

    def dim(self, node: Node) -> Dim:
        if node.data == "batch":
            return self.batch(node)
        value = self.number(node.children[0])
        if isinstance(value, float):
            self.report(
                "PKC053", f"'{node.children[0]}' is not a size", node, "expected an integer or B", "write a type like f32[B, 64]"
            )
            return 0
        return value

    def batch(self, node: Node) -> Batch:
        *factor, word = cast("list[Any]", node.children)
        value = self.number(factor[0]) if factor else 1
        if word != "B" or isinstance(value, float):
            self.report(
                "PKC053", "a multiple of the batch is written B or 4*B", node, "expected B", "write a type like f32[4*B, 64]"
            )
            return Batch()
        return Batch(value)

    def entries(self, node: Node, subject: Subject) -> dict[str, object]:
        found: dict[str, object] = {}
        for entry in node.children[1:-1]:
            key, value = cast("list[Any]", cast(Node, entry).children)
            word = self.word(key)
            if word in found:
                self.report("PKC055", f"attribute '{word}' is given twice", key, "", "remove one of the two")
            self.mark((*subject, word), _first(key), _last(value))
            found[word] = self.value(value)
        return found

    def value(self, node: Node) -> object:
        match node:
            case Node("plain_number", [token]):
                return self.number(token)
            case Node("plain_word", [token]):
                return _WORDS.get(str(token), str(token))
            case Node("plain_string", [token]):
                return self.string(token)
            case Node("named", [token]):
                return Named(self.name(token))
            case Node("batch"):
                return self.batch(node)
            case Node("nested", [braces]):
                return Nested(tuple(self.entries(cast(Node, braces), ("nested",)).items()))
        return tuple(self.value(cast(Node, child)) for child in node.children[1:-1])

    def number(self, token: Any) -> int | float:
        if str(token) in _FLOATS:
            return _FLOATS[str(token)]
        if len(token) > MAX_DIGITS:
            self.report("PKC053", f"a number of {len(token)} characters", token, f"at most {MAX_DIGITS}", "round the number")
            return 0
        return float(token) if set(token) & set(".eE") else int(token)

    def float(self, token: Any) -> float:
        if token.type == "WORD" and str(token) not in _FLOATS:
            self.report("PKC053", f"'{token}' is not a number", token, "expected a number", "write a number, inf or nan")
            return 0.0
        return float(self.number(token))

    def name(self, token: Any) -> str:
        return self.string(token, 1) if token[1] == '"' else str(token[1:])

    def word(self, node: Any) -> str:
        token = node.children[0]
        return self.string(token) if node.data == "quoted" else str(token)

    def string(self, token: Any, skip: int = 0) -> str:
        try:
            return str(json.loads(token[skip:]))
        except ValueError:
            self.report("PKC053", "malformed string", token, "", 'escape as in JSON: "\\n", "\\"", "\\u00e9"')
            return ""

    def origin(self, last: Any) -> Origin:
        comment = _TRAILING.match(self.text, last.end_pos)
        fact = _ORIGIN.fullmatch(comment[1].rstrip()) if comment else None
        return Origin(_unquote(fact[1]), _unquote(fact[2] or "")) if fact else Origin()

    def misspelled(self, error: FormError, word: str, subject: Subject) -> None:
        span = self.spans.get((*subject, error.key) if error.key else (*subject, "word"), self.spans[(*subject, "word")])
        code = {"word": "PKC054", "attribute": "PKC055", "operand": "PKC056"}[error.kind]
        known = [w for w in MAPS if w != "reindex"] + [REINDEX_PREFIX + fn for fn in REINDEX]
        note = _did_you_mean(word, known) if error.kind == "word" else f"see a printed '{word}': pkc ir MODEL"
        self.found.append(Diagnostic(code, str(error), span, "", (note,)))

    def line(self, token: Any) -> Span:
        end = self.text.find("\n", token.start_pos)
        stop = len(self.text) if end < 0 else end
        shown = self.text[token.start_pos : stop].split(" // ")[0].rstrip()
        return Span(self.file, self.text, token.start_pos, token.start_pos + len(shown))

    def mark(self, subject: Subject, token: Any, last: Any = None) -> None:
        self.spans[subject] = Span(self.file, self.text, token.start_pos, (last or token).end_pos)

    def report(self, code: str, message: str, where: Any, label: str, note: str) -> None:
        first, last = (where, where) if hasattr(where, "end_pos") else (_first(where), _last(where))
        self.found.append(Diagnostic(code, message, Span(self.file, self.text, first.start_pos, last.end_pos), label, (note,)))


def _first(node: Any) -> Any:
    while not hasattr(node, "end_pos"):
        node = node.children[0]
    return node


def _last(node: Any) -> Any:
    while not hasattr(node, "end_pos"):
        node = node.children[-1]
    return node


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text


def _did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
