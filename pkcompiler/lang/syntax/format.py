"""The one canonical layout: two spaces, ``=`` aligned over neighbouring lines, comments kept. Printing and parsing are inverse."""

from __future__ import annotations

from dataclasses import dataclass

from pkcompiler.diagnostics import raise_all
from pkcompiler.lang.ast import (
    Binary,
    Block,
    Call,
    Document,
    Expr,
    Item,
    Labelled,
    Name,
    Number,
    Range,
    Ratio,
    Setting,
    Text,
    Unary,
)
from pkcompiler.lang.syntax.parse import parse

WIDTH = 100
_LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}
_UNARY = 3
_ATOM = 5


def format_text(text: str, file: str = "<text>") -> str:
    """The canonical layout of a text. Raises PkcError with every syntax error; words are not looked at."""
    document, diagnostics = parse(text, file)
    raise_all(diagnostics)
    return print_document(document)


def print_expr(expr: Expr) -> str:
    """One expression on one line, with the fewest parentheses."""
    match expr:
        case Number(value, unit):
            return f"{value!r}{unit}"
        case Text(value):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Name(value):
            return value
        case Call(function, args, kwargs):
            parts = [print_expr(a) for a in args] + [f"{k} = {print_expr(v)}" for k, v in kwargs]
            return f"{function}({', '.join(parts)})"
        case Unary(op, operand):
            return op + _inside(operand, _UNARY)
        case Binary("^", left, right):
            return f"{_inside(left, _ATOM)}^{_inside(right, _UNARY)}"
        case Binary(op, left, right):
            return f"{_inside(left, _LEVEL[op])} {op} {_inside(right, _LEVEL[op] + 1)}"
        case Range(start, end):
            return f"{print_expr(start)}..{print_expr(end)}"
        case Ratio(kept, of):
            return f"{kept}:{of}"


def _inside(expr: Expr, level: int) -> str:
    """The text of an operand, in parentheses where it binds less tightly than ``level``."""
    own = _ATOM
    if isinstance(expr, Binary):
        own = _LEVEL[expr.op]
    elif isinstance(expr, Unary):
        own = _UNARY
    return print_expr(expr) if own >= level else f"({print_expr(expr)})"


def print_item(item: Item, indent: int = 0) -> str:
    """One item and everything in it, without comments, with a newline at its end."""
    return "".join(line + "\n" for line in _Printer((), "").items((item,), indent))


def print_document(document: Document) -> str:
    """A whole file with its comments."""
    lines = _Printer(document.comments, document.text).items(document.items, 0, len(document.text) + 1)
    return "".join(line + "\n" for line in lines)


@dataclass(slots=True)
class _Line:
    """A setting to be aligned with its neighbours: what stands before and after its ``=``."""

    group: str
    head: str
    values: list[str]
    tail: str


class _Printer:
    """Walks items and comments in the order of the text. Items without spans are printed without comments."""

    def __init__(self, comments: tuple[Text, ...], text: str) -> None:
        self.comments, self.text = comments, text
        self.next = 0  # the first comment that is not printed yet

    def items(self, items: tuple[Item, ...], indent: int, end: int | None = None) -> list[str]:
        """The lines of a block's inside, or of a file whose text has ``end`` characters."""
        lines: list[str | _Line] = []
        previous: Item | Text | None = None
        for item in items:
            for comment in self._take(item.span.start if item.span else 0):
                lines += self._entry(comment, previous, indent)
                previous = comment
            lines += self._entry(item, previous, indent)
            previous = item
        for comment in self._take(end or 0):
            lines += self._entry(comment, previous, indent)
            previous = comment
        return _align(lines, indent)

    def _entry(self, entry: Item | Text, previous: Item | Text | None, indent: int) -> list[str | _Line]:
        """One item or comment, after an empty line where the text has one, and around the blocks of a file."""
        apart = isinstance(previous, Block) or (isinstance(entry, Block) and not isinstance(previous, Text))
        blank = previous is not None and (self._blank(entry) or (indent == 0 and apart))
        lines: list[str | _Line] = [" " * indent + _clean(entry.value)] if isinstance(entry, Text) else self._item(entry, indent)
        return ["", *lines] if blank else lines

    def _item(self, item: Item, indent: int) -> list[str | _Line]:
        if isinstance(item, Block):
            return list(self._block(item, indent))
        above = self._hoisted(item.span.end, indent) if item.span else []
        label = "" if isinstance(item, Setting) else " " + print_expr(item.label)
        group = "text" if isinstance(item, Labelled) and isinstance(item.label, Text) else "name"
        head = item.name.value + label
        values = _values(item.values, WIDTH - indent - len(head) - 3, indent)
        return [*above, _Line(group, head, values, self._tail(item.span.end) if item.span else "")]

    def _block(self, block: Block, indent: int) -> list[str]:
        pad = " " * indent
        label = "" if block.label is None else " " + print_expr(block.label)
        if block.span is None:
            return [f"{pad}{block.name.value}{label} {{", *self.items(block.items, indent + 2), pad + "}"]
        opening = self._opening(block)
        above = self._hoisted(opening, indent)
        head = f"{pad}{block.name.value}{label} {{{self._tail(opening)}"
        inside = self.items(block.items, indent + 2, block.span.end)
        return [*above, head, *inside, pad + "}" + self._tail(block.span.end)]

    def _opening(self, block: Block) -> int:
        """The position after the ``{`` (comments before it may hold braces of their own)."""
        last = (block.label or block.name).span
        at = last.end if last else 0
        for comment in self.comments:
            if comment.span is None or not at <= comment.span.start < self.text.find("{", at):
                break
            at = comment.span.end
        return self.text.find("{", at) + 1

    def _take(self, end: int) -> list[Text]:
        """Removes and returns the comments that begin before ``end``."""
        start = self.next
        while self.next < len(self.comments) and _start(self.comments[self.next]) < end:
            self.next += 1
        return list(self.comments[start : self.next])

    def _hoisted(self, end: int, indent: int) -> list[str]:
        """Comments within an item go above it."""
        return [" " * indent + _clean(c.value) for c in self._take(end)]

    def _tail(self, end: int) -> str:
        """The comment that follows on the same line, if nothing else does."""
        if self.next >= len(self.comments):
            return ""
        comment = self.comments[self.next]
        if self.text[end : _start(comment)].strip(" \t\r") != "":
            return ""
        self.next += 1
        return "  " + _clean(comment.value)

    def _blank(self, entry: Item | Text) -> bool:
        """Whether an empty line stands directly before the entry."""
        if entry.span is None:
            return False
        at = start = entry.span.start
        while at and self.text[at - 1] in " \t\r\n":
            at -= 1
        return self.text.count("\n", at, start) > 1


def _start(comment: Text) -> int:
    return comment.span.start if comment.span else 0


def _clean(comment: str) -> str:
    return comment.rstrip()


def _values(values: tuple[Expr, ...], room: int, indent: int) -> list[str]:
    """The lines of a list of values; broken after commas where one line is too short."""
    flat = ", ".join(print_expr(v) for v in values)
    if len(flat) <= room:
        return [flat]
    if len(values) == 1:
        return _wrapped(values[0], indent)
    pad = " " * (indent + 4)
    texts = [print_expr(v) for v in values]
    return [texts[0] + ",", *(pad + t + "," for t in texts[1:-1]), pad + texts[-1]]


def _wrapped(expr: Expr, indent: int) -> list[str]:
    """A call with one argument to a line; anything else stays on its line."""
    if not isinstance(expr, Call) or not (expr.args or expr.kwargs):
        return [print_expr(expr)]
    pad = " " * (indent + 2)
    texts = [print_expr(a) for a in expr.args] + [f"{k} = {print_expr(v)}" for k, v in expr.kwargs]
    return [expr.function + "(", *(pad + t + "," for t in texts), " " * indent + ")"]


def _align(lines: list[str | _Line], indent: int) -> list[str]:
    """Puts the ``=`` of neighbouring lines of one group under each other.

    Empty lines and blocks end a neighbourhood, comments do not.
    """
    done: list[str] = []
    run: list[_Line] = []
    width: dict[int, int] = {}
    for line in [*lines, ""]:
        if isinstance(line, _Line) and (not run or run[-1].group == line.group):
            run.append(line)
            continue
        if isinstance(line, str) and line.lstrip().startswith("#"):
            continue
        width |= {id(r): max(len(r.head) for r in run) for r in run}
        run = [line] if isinstance(line, _Line) else []
    for line in lines:
        if isinstance(line, str):
            done.append(line)
            continue
        first = f"{' ' * indent}{line.head:<{width[id(line)]}} = "
        whole = [first + line.values[0], *line.values[1:]]
        done += [*whole[:-1], whole[-1] + line.tail]
    return done
