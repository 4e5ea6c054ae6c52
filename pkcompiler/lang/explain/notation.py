"""Expressions in the usual letters, and in closed form where they have one: put together from what their functions say."""

from __future__ import annotations

from collections.abc import Iterable

from pkcompiler.lang.ast import Binary, Call, Name, Number, Typed, Unary
from pkcompiler.lang.functions.closed import Product, raised, times
from pkcompiler.lang.functions.record import Function
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.syntax.format import print_expr


class Notation:
    """Writes the expressions of one declaration; in a text the names that it gives stay."""

    def text(self, node: Typed, index: str = "_i") -> str:
        """The expression in the usual letters; derivatives as d F / d theta_i."""
        match node.expr:
            case Call(name, _, _):
                own = FUNCTIONS[name].text(self, node, index)
                return self._as_written(node, index) if own is None else own
            case Unary(op, _):
                return op + self.operand(node.args[0], index)
            case Binary(op, _, _):
                left, right = (self.operand(arg, index) for arg in node.args)
                if op != "^":
                    return f"{left} {op} {right}"
                return f"{f'({left})' if left.startswith('d ') else left}^{right}"
            case Name(name) if "param" in node.axes and (not node.let or (index and not _holds_figure(node))):
                value = node.value.expr
                inlined = node.let and isinstance(value, Call) and FUNCTIONS[value.function].inlined
                return self.text(node.value, index) if inlined else name + index
        return print_expr(node.expr)

    def _as_written(self, node: Typed, index: str) -> str:
        function = FUNCTIONS[node.call.function]
        entry = index if function.entrywise else ""
        typed = iter(node.args)
        parts = [print_expr(a) if i in function.literals else self.text(next(typed), entry) for i, a in enumerate(node.call.args)]
        return f"{function.name}({', '.join(parts + [f'{k} = {print_expr(v)}' for k, v in node.call.kwargs])})"

    def operand(self, node: Typed, index: str) -> str:
        """The same, in brackets where it stands within an operation."""
        text = self.text(node, index)
        whole = isinstance(node.expr, Binary | Unary) or (text.startswith("sum over ") and isinstance(node.expr, Call))
        return f"({text})" if whole else text

    def product(self, node: Typed) -> Product | None:
        """The closed form of an expression that is a product of powers of theta and one derivative; None of any other."""
        node = node.value
        match node.expr:
            case Number(value, ""):
                return Product(float(value)) if value > 0 else None
            case Name("theta"):
                return Product(odd=True, power=1)
            case Call(name, _, _):
                return FUNCTIONS[name].product(self, node)
            case Binary("*", _, _):
                return times(*(self.product(arg) for arg in node.args))
            case Binary("/", _, _):
                return times(self.product(node.args[0]), raised(self.product(node.args[1]), -1))
            case Binary("^", _, Number(value, "")):
                return raised(self.product(node.args[0]), value)
        return None

    def not_negative(self, node: Typed) -> bool:
        """Whether an expression is surely not negative, by its form."""
        node = node.value
        match node.expr:
            case Binary("^", _, Number(2, "")):
                return True
            case Call(name, _, _):
                return FUNCTIONS[name].not_negative(self, node)
        return False


def by_function(nodes: Iterable[Typed]) -> list[tuple[Function, list[Typed]]]:
    """The calls among expressions, in the order in which the reference lists their functions."""
    calls: dict[str, list[Typed]] = {}
    for node in nodes:
        if isinstance(node.expr, Call):
            calls.setdefault(node.expr.function, []).append(node)
    return [(function, calls[name]) for name, function in FUNCTIONS.items() if name in calls]


def _holds_figure(node: Typed) -> bool:
    """Whether a figure of an operator is in it, which is written whole."""
    return any(isinstance(part.expr, Call) and FUNCTIONS[part.expr.function].analysis for part in node.walk())
