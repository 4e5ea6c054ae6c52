"""The syntax tree of ``.pkc`` files: frozen dataclasses, every node with its span. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pkcompiler.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Number:
    """A literal: whole numbers are ``int`` of any size, others ``float``."""

    value: float
    unit: str = ""  # "", "%", "x", "MB", "GB", "KB"
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A text without its double quotes, or a comment."""

    value: str
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A word: of the language, or one that a ``let`` or a declaration gives."""

    value: str
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """``function(args, name = value)``; ``kwargs`` are (name, value) as written."""

    function: str
    args: tuple[Expr, ...]
    kwargs: tuple[tuple[str, Expr], ...]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """``-operand``"""

    op: str  # "-"
    operand: Expr
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """``left op right``"""

    op: str  # + - * / ^
    left: Expr
    right: Expr
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Range:
    """``2..20``"""

    start: Expr
    end: Expr
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Ratio:
    """``2:4``"""

    kept: int
    of: int
    span: Span | None = field(default=None, compare=False)


Expr = Number | Text | Name | Call | Unary | Binary | Range | Ratio


@dataclass(frozen=True, slots=True, eq=False)
class Typed:
    """A checked expression, and what was found of it. What is the same expression is the same node: a ``let`` and all that read
    it, and what is written twice, but for what is drawn at random, which is drawn for itself wherever it is written.
    """

    expr: Expr
    axes: frozenset[str]
    edge: str = ""  # of path functionals: abs(theta), theta^2, theta or 1, where it is one
    args: tuple[Typed, ...] = ()  # operands, arguments without a name; of a let, what it stands for
    named: Mapping[str, Typed] = field(default_factory=dict)  # arguments with a name that are expressions
    words: Mapping[str, str | float] = field(default_factory=dict)  # those that are words, numbers as such, and defaults
    derived: bool = False  # grad would see a derivative in it
    differs: bool = False  # it is evaluated differently where grad will see it
    moves: bool = False  # grad would see theta in it, or what is computed from it
    let: bool = False  # it is the name of another expression

    @property
    def value(self) -> Typed:
        """What it stands for, through names."""
        return self.args[0].value if self.let else self

    @property
    def call(self) -> Call:
        """The call that it is, as written."""
        assert isinstance(self.expr, Call)
        return self.expr

    def stands_for(self, name: str) -> bool:
        """Whether it is a reserved name, through names."""
        return self.value.expr == Name(name)

    def calls(self, function: str) -> bool:
        """Whether it is itself a call of a function."""
        return isinstance(self.expr, Call) and self.expr.function == function

    def walk(self) -> Iterator[Typed]:
        """It and its parts in the order of the text, each node once."""
        seen: set[Typed] = set()
        left = [self]
        while left:
            node = left.pop()
            if node in seen:
                continue
            seen.add(node)
            yield node
            left += reversed((*node.args, *node.named.values()))

    def number(self, key: str) -> int:
        """An argument that is a whole number."""
        return int(self.words[key])


@dataclass(frozen=True, slots=True)
class Setting:
    """``setting = value, value``: one of the three shapes. ``name`` holds the span of the word alone."""

    name: Name
    values: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Labelled:
    """``keyword LABEL = value``: ``let NAME``, ``floor "GLOB"``."""

    name: Name
    label: Name | Text
    values: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Block:
    """``kind NAME { ... }``. ``damaged``: something inside could not be read, so that nothing may be called missing."""

    name: Name
    label: Name | Text | None
    items: tuple[Item, ...]
    damaged: bool = False
    span: Span | None = field(default=None, compare=False)


Item = Setting | Labelled | Block


@dataclass(frozen=True, slots=True)
class Document:
    """A file as it was written: its items in order and its comments (``# ...``, each a Text with its span)."""

    items: tuple[Item, ...]
    comments: tuple[Text, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False)
    file: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Pass:
    """A checked pass: lets in order, the score, and its settings with the defaults of the word table filled in."""

    name: str
    source: str
    doc: str
    lets: tuple[tuple[str, Expr], ...]
    score: Expr
    typed: Typed = field(repr=False, compare=False)
    text: str  # the canonical text of this declaration (what fmt prints)
    order: str = "largest"
    rounds: int = 1
    curve: str = "exponential"
    mode: str = "eval"
    among: str = "kept"
    scope: str = "global"
    repeat: int = 1  # the score is the mean over so many draws
    init: Expr | None = None  # fresh, he() or normal(std = ...): the weights of every repetition
    needs_data: bool = False  # reads data, loss or output
    needs_model: bool = False  # needs the model itself, not only its graph and tensors
    given: frozenset[str] = frozenset()  # the settings that the text itself gives
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ReportLine:
    """``report "TEXT" = EXPRESSION`` with the kind of its value. ``spread``: of a value with [param], that each tensor holds one
    number in all of its entries, which is then shown; else the sum over its entries is."""

    label: str
    value: Expr
    typed: Typed = field(repr=False, compare=False)
    spread: bool = False

    @property
    def axes(self) -> frozenset[str]:
        """The axes of its value."""
        return self.typed.axes


@dataclass(frozen=True, slots=True)
class Analysis:
    """A checked analysis: lets and report lines in order. ``passes``: (name as written, pass) of every ``collapse(...)``."""

    name: str
    source: str
    doc: str
    lets: tuple[tuple[str, Expr], ...]
    reports: tuple[ReportLine, ...]
    typed: tuple[Typed, ...] = field(repr=False, compare=False)  # what the lets stand for, in order
    text: str  # the canonical text of this declaration (what fmt prints)
    passes: tuple[tuple[str, Pass], ...] = ()
    needs_data: bool = False  # reads data, loss or output
    needs_model: bool = False  # needs the model itself, not only its graph and tensors
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DataSpec:
    """``digits(per_class = 10, batch = 128)``, ``"file.npz"``, ``"module:factory"``."""

    source: str
    options: tuple[tuple[str, float | int | str], ...] = ()
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class At:
    """When a stage runs: before or after training, or after epochs or steps of it, from ``first`` to ``last``, both included."""

    kind: str  # "start" | "end" | "epochs" | "steps"
    first: int = 0
    last: int = 0
    every: int = 1

    @property
    def visits(self) -> tuple[int, ...]:
        """The epochs or steps after whose end the stage runs: its rounds. Empty for ``start`` and ``end``."""
        return tuple(range(self.first, self.last + 1, self.every)) if self.kind in ("epochs", "steps") else ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One ``prune PASS { ... }`` of a schedule.

    Settings that the text does not give are None (command line > stage > pass > default).
    """

    pass_name: str
    density: float  # the final density, whatever word gave it; nan for flops and size, which a model must tell
    target: tuple[str, float]  # the word and value as written: ("compression", 50.0); of size, bytes
    rounds: int | None = None
    curve: str | None = None  # a named curve, or the canonical text of an expression in k, n and rho
    scope: str | None = None
    select: str | None = None  # "exact" | "kth_le"
    include: tuple[str, ...] = ()  # globs; a word of the table (bias, norm, ...) is written "@bias", "@norm", ...
    exclude: tuple[str, ...] = ()  # except; as include
    floors: tuple[tuple[str, float], ...] = ()
    span: Span | None = field(default=None, compare=False)
    structure: str = "unstructured"  # | "2:4" | "block(16, 16)" | "channel", canonical text
    at: At | None = None  # None: before training
    regrow: Pass | None = None  # whose score removed weights come back by
    swap: float | None = None  # which part of the kept weights is removed and regrown after a round
    rewind: tuple[str, int] | None = None  # ("epoch", 4) or ("step", 500)
    requires: tuple[tuple[str, float], ...] = ()  # (("effective_paths", 1000.0),)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A checked schedule. ``text``: the canonical text of this declaration, without its passes."""

    name: str
    seed: int | None
    data: DataSpec | None
    stages: tuple[Stage, ...]
    text: str
    passes: tuple[tuple[str, Pass], ...] = ()  # (Stage.pass_name, the pass that it names), each once, in order of use
    lower: tuple[tuple[str, str], ...] = ()  # (glob, structure) of every structure that lower demands
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study: every pass at every target, and every schedule, on every model with every seed."""

    name: str
    doc: str
    models: tuple[str, ...]  # specs as written, relative to the file's folder
    passes: tuple[tuple[str, Pass], ...]  # (name as written, pass)
    schedules: tuple[tuple[str, Schedule], ...]  # (name as written, schedule)
    targets: tuple[tuple[str, float], ...]  # of the passes: ("compression", 10.0)
    seeds: tuple[int, ...]
    data: DataSpec | None
    train: str  # "file.py:function", relative to the file's folder
    rounds: int | None
    analyses: tuple[tuple[str, Analysis], ...]  # (name as written, analysis)
    text: str  # the canonical text of this declaration (what fmt prints)
    span: Span | None = field(default=None, compare=False)
