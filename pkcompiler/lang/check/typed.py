"""Checked expressions as typed ones: axes, edges and what grad sees of them found once, for all who evaluate them."""

from __future__ import annotations

from collections.abc import Hashable

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Typed, Unary
from pkcompiler.lang.check.facts import Facts, Scope, edge_of
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.check.kinds import KindChecker
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.syntax.format import print_expr


class Typer(KindChecker):
    """Types the expressions of one declaration, in which no error was found."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, Findings())
        self._facts: dict[int, tuple[Expr, Facts]] = {}  # by identity, which lasts while the expression is held
        self._typed: dict[int, tuple[Expr, Typed]] = {}
        self._same: dict[Hashable, Typed] = {}

    def facts(self, expr: Expr) -> Facts:
        """The facts of an expression, found once."""
        if id(expr) not in self._facts:
            self._facts[id(expr)] = expr, super().facts(expr)
        return self._facts[id(expr)][1]

    def typed(self, expr: Expr) -> Typed:
        """The typed expression; one node for what is the same."""
        if id(expr) not in self._typed:
            node = self._node(expr)
            if not isinstance(expr, Call) or not FUNCTIONS[expr.function].drawn:
                node = self._same.setdefault(_key(node), node)
            self._typed[id(expr)] = expr, node
        return self._typed[id(expr)][1]

    def _node(self, expr: Expr) -> Typed:
        axes = self.facts(expr).axes
        assert axes is not None, print_expr(expr)
        edge = edge_of(expr, self.scope.lets)
        match expr:
            case Name(name) if name in self.scope.lets:
                value = self.typed(self.scope.lets[name])
                return Typed(expr, axes, edge, (value,), derived=value.derived, differs=value.differs, moves=value.moves, let=True)
            case Call():
                return self._function(expr, axes, edge)
            case Unary(_, operand):
                args: tuple[Typed, ...] = (self.typed(operand),)
            case Binary(_, left, right):
                args = self.typed(left), self.typed(right)
            case _:
                moves = isinstance(expr, Name) and expr.value in NAMES and NAMES[expr.value].moves
                return Typed(expr, axes, edge, differs=expr == Name("theta"), moves=moves)
        derived, differs, moves = (any(getattr(a, what) for a in args) for what in ("derived", "differs", "moves"))
        return Typed(expr, axes, edge, args, derived=derived, differs=differs, moves=moves)

    def _function(self, call: Call, axes: frozenset[str], edge: str) -> Typed:
        function = FUNCTIONS[call.function]
        read = (function.written_out(call),) if function.written_out else call.args
        args = tuple(self.typed(arg) for i, arg in enumerate(read) if i not in function.literals)
        known, given = {argument.name: argument for argument in function.arguments}, dict(call.kwargs)
        named = {key: self.typed(value) for key, value in given.items() if known[key].computes(value)}
        words = {key: _word(value) for key, value in given.items() if key not in named or isinstance(value, Number)}
        words |= {key: argument.left_out for key, argument in known.items() if argument.default and key not in given}
        seen = () if function.constant else (*args, *named.values())
        outside = () if function.constant else (*args, *(node for key, node in named.items() if key != "edge"))
        derived = function.derives or any(node.derived for node in seen)
        differs = function.derives or any(node.differs for node in outside)
        moves = function.moves or (not function.constant and any(node.moves for node in args))
        return Typed(call, axes, edge, args, named, words, derived, differs, moves)


def _word(expr: Expr) -> str | float:
    return expr.value if isinstance(expr, Number) else print_expr(expr).replace(" ", "")


def _key(node: Typed) -> Hashable:
    """Equal for what is the same expression of the same nodes."""
    expr, args = node.expr, tuple(id(arg) for arg in node.args)
    if isinstance(expr, Binary | Unary):
        return expr.op, args
    if isinstance(expr, Call):
        named = tuple((key, id(value)) for key, value in node.named.items())
        literals = tuple(expr.args[i] for i in FUNCTIONS[expr.function].literals)
        return expr.function, args, literals, named, tuple(sorted(node.words.items()))
    return expr
