"""Expressions in the usual letters, and in closed form where they have one: put together from what their functions say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Unary
from pkcompiler.lang.check.facts import resolve
from pkcompiler.lang.functions.closed import Product, raised, times
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.seen import has_entries, holds_derivative, moves
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.syntax.format import print_expr


@dataclass(frozen=True, slots=True)
class Notation:
    """Writes the expressions of one declaration. ``lets``: what its names stand for; in a text they stay."""

    lets: Mapping[str, Expr]

    def text(self, expr: Expr, index: str = "_i") -> str:
        """The expression in the usual letters; derivatives as d F / d theta_i."""
        match expr:
            case Name(name) if name in NAMES and NAMES[name].entries:
                return name + index
            case Call():
                return self._call(expr, index)
            case Unary(op, operand):
                return op + self.operand(operand, index)
            case Binary("^", left, right):
                base = self.operand(left, index)
                return f"{f'({base})' if base.startswith('d ') else base}^{self.operand(right, index)}"
            case Binary(op, left, right):
                return f"{self.operand(left, index)} {op} {self.operand(right, index)}"
        if not isinstance(expr, Name) or expr.value not in self.lets or not index or not has_entries(expr, self.lets):
            return print_expr(expr)
        found = resolve(expr, self.lets)
        derived = isinstance(found, Call) and found.function in ("grad", "hvp")
        return self.text(found, index) if derived else f"{expr.value}{index}"

    def _call(self, call: Call, index: str) -> str:
        function = FUNCTIONS[call.function]
        own = function.text(self, call, index)
        if own is not None:
            return own
        if not function.entrywise:
            index = ""
        parts = [self.text(a, index) for a in call.args] + [f"{k} = {print_expr(v)}" for k, v in call.kwargs]
        return f"{call.function}({', '.join(parts)})"

    def operand(self, expr: Expr, index: str) -> str:
        """The same, in brackets where it stands within an operation."""
        text = self.text(expr, index)
        whole = isinstance(expr, Binary | Unary) or (text.startswith("sum over ") and isinstance(expr, Call))
        return f"({text})" if whole else text

    def product(self, expr: Expr) -> Product | None:
        """The closed form of an expression that is a product of powers of theta and one derivative; None of any other."""
        expr = resolve(expr, self.lets)
        match expr:
            case Number(value, ""):
                return Product(float(value)) if value > 0 else None
            case Name("theta"):
                return Product(odd=True, power=1)
            case Call(function, _, _):
                return FUNCTIONS[function].product(self, expr)
            case Binary("*", left, right):
                return times(self.product(left), self.product(right))
            case Binary("/", left, right):
                return times(self.product(left), raised(self.product(right), -1))
            case Binary("^", base, Number(value, "")):
                return raised(self.product(base), value)
        return None

    def not_negative(self, expr: Expr) -> bool:
        """Whether an expression is surely not negative, by its form."""
        expr = resolve(expr, self.lets)
        match expr:
            case Binary("^", _, Number(2, "")):
                return True
            case Call(function, _, _):
                return FUNCTIONS[function].not_negative(self, expr)
        return False

    def moves(self, expr: Expr) -> bool:
        """Whether grad would see theta in it, or what is computed from it."""
        return moves(expr, self.lets)

    def holds_derivative(self, expr: Expr) -> bool:
        """Whether grad would see a derivative in it."""
        return holds_derivative(expr, self.lets)
