"""What a function of the language is: one record, which the checker, ``pkc explain`` and whoever reads expressions look up.

The records are in the files of this folder, by theme, and in ``table.py`` all together. What a function computes is bound to its
name in ``scoring/functions/`` (of an analysis: ``analyses/functions/``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pkcompiler.diagnostics import Span
from pkcompiler.lang.ast import Call, Expr, Name, Number, Typed
from pkcompiler.lang.check.facts import Facts, Scope
from pkcompiler.lang.functions.closed import Product
from pkcompiler.lang.rows import Word, suggest
from pkcompiler.lang.syntax.format import print_expr


class Checker(Protocol):
    """What a record needs of the checker of expressions."""

    scope: Scope

    @property
    def functions(self) -> Mapping[str, Function]:
        """The table of all functions."""

    def facts(self, expr: Expr) -> Facts:
        """The facts of any expression."""

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with."""

    def error(self, code: str, message: str, span: Span | None, label: str, note: str) -> None:
        """Report an error; ``note`` is what to do."""

    def later(self, word: Word, span: Span | None, note: str = "") -> None:
        """Report a word that is not in this version."""


class Writer(Protocol):
    """What a record needs of the writer of formulas."""

    def text(self, node: Typed, index: str = "_i") -> str:
        """An expression in the usual letters: its entry ``index``, or with '' the whole of it."""

    def operand(self, node: Typed, index: str) -> str:
        """The same, in brackets where it stands within an operation."""

    def product(self, node: Typed) -> Product | None:
        """The closed form of an expression, where it has one."""

    def not_negative(self, node: Typed) -> bool:
        """Whether an expression is surely not negative, by its form."""


@dataclass(frozen=True, slots=True)
class Value:
    """A word that an argument may be. ``due = False``: known, not in this version."""

    name: str
    doc: str
    due: bool = True


COMPUTED = ("edge", "input", "output", "number", "weights", "samples")
"""The kinds of arguments that are expressions; all others are words and literals."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument with a name. ``kind``: which values it takes; ``required``: said in the reference, and reported where it is
    missing by the function's own ``facts``. Arguments of one name share the words that they may be."""

    name: str
    kind: str
    doc: str
    default: str = ""
    values: tuple[Value, ...] = ()
    required: bool = False

    def computes(self, expr: Expr) -> bool:
        """Whether what is given is an expression, and no word or literal."""
        return self.kind in COMPUTED and expr not in [Name(value.name) for value in self.values]

    @property
    def left_out(self) -> str | float:
        """What it is where it is not given: a word, or a number; '' where it has no default."""
        return float(self.default.removesuffix("x")) if self.default and self.kind in ("number", "factor") else self.default

    @property
    def names(self) -> list[str]:
        """The words that it may be in this version."""
        return [value.name for value in self.values if value.due]

    def chosen(self, checker: Checker, expr: Expr) -> str:
        """The word that is given; '' after an error."""
        known = self.names
        if isinstance(expr, Name) and expr.value in known:
            return expr.value
        close = suggest(print_expr(expr), known)
        note = f"did you mean '{close}'?" if close else f"write {self.name} = {known[0]}"
        checker.error("PKC105", f"{self.name} = {print_expr(expr)}", expr.span, f"must be {' | '.join(known)}", note)
        return ""


def never(*given: Any) -> bool:
    """No, whatever is asked: the default of fields that ask."""
    return False


def always(*given: Any) -> bool:
    """Yes, whatever is asked."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function. What most functions are is the default of a field."""

    name: str
    doc: str
    example: str
    facts: Callable[[Checker, Call], Facts]
    """The facts of a call with the right number of arguments: its axes, what grad sees of it, what it reads."""
    count: int | None = 1
    """How many arguments without a name it takes; None: it looks at its arguments itself."""
    arguments: tuple[Argument, ...] = ()
    written_out: Callable[[Call], Call] | None = None
    """The call that it is short for, which is what is evaluated."""
    literals: tuple[int, ...] = ()
    """Which arguments without a name are no expressions: a number as such, or the name of a pass."""
    analysis: bool = False
    """It stands in an analysis alone, and its value is a figure: a constant for grad."""

    # What grad sees of it, and whose entries it is made of.
    moves: bool = False
    """It is computed from theta, whatever its arguments are."""
    derives: bool = False
    """It is a derivative."""
    constant: bool = False
    """Its argument is a constant for grad."""
    entrywise: bool = False
    """Entry i of its value is made of entry i of its arguments alone."""
    reads_all: Callable[[Typed], bool] = never
    """Whether one entry of a call stands on those of other parameters (``over = param`` is seen without it)."""
    anew: bool = False
    """It has another value at other weights, and is known there: ``after`` may read it."""
    drawn: bool = False
    """It is drawn anew in every repetition."""
    by_layer: str = ""
    """Why its values of different parameters cannot be compared, where they cannot."""

    # What pkc explain says of it.
    text: Callable[[Writer, Typed, str], str | None] = lambda writer, call, index: None
    """A call in the usual letters; None: as it is written."""
    product: Callable[[Writer, Typed], Product | None] = lambda writer, call: None
    """A call in closed form, where it has one."""
    not_negative: Callable[[Writer, Typed], bool] = never
    inlined: bool = False
    """A name that stands for a call is written as that call."""
    score: tuple[str, Callable[[Writer, Typed], list[str]]] | None = None
    """Of a call that is the whole score: its formula, and the lines below it."""
    legend: str = ""
    """A line below every formula in which it occurs."""
    lines: Callable[[Sequence[Typed]], list[str]] = lambda calls: []
    """Lines for all of its calls in a pass."""
    meaning: Callable[[Writer, Typed], str | None] = lambda writer, call: None
    """What a call that is a whole line of an analysis is; None: its text."""
    letters: Callable[[Sequence[Typed]], list[str]] = lambda calls: []
    """Lines for its calls that are whole lines of an analysis."""


def as_argument(checker: Checker, call: Call) -> Facts:
    """The facts of a function that changes every entry by itself: those of its argument."""
    return checker.operand(call.args[0])


def is_count(expr: Expr, most: int) -> bool:
    """Whether an expression is a whole number from 1 to ``most``."""
    return isinstance(expr, Number) and expr.unit == "" and expr.value == int(expr.value) and 1 <= expr.value <= most
