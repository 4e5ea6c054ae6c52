"""The kinds of expressions: sets of axes. Checked without a model.

See docs/language.md, "Passes" and "Analyses".
"""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.diagnostics import Span
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Range, Ratio, Text, Unary
from pkcompiler.lang.check.facts import MARKS, NUMBER, OVER, UNKNOWN, Facts, Scope, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.record import Function
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import print_expr


class KindChecker:
    """Finds the facts of expressions and reports what does not fit."""

    functions = FUNCTIONS

    def __init__(self, scope: Scope, findings: Findings) -> None:
        self.scope, self.findings = scope, findings
        self.error, self.later = findings.error, findings.later

    def facts(self, expr: Expr) -> Facts:
        """The facts of any expression."""
        match expr:
            case Number(_, unit):
                return self._number(expr, unit)
            case Name(value):
                return self._name(expr, value)
            case Unary(_, operand):
                return self.operand(operand)
            case Binary("^", base, power):
                return self._power(base, power)
            case Binary():
                return self._binary(expr)
            case Call():
                return self._call(expr)
            case Text() | Range() | Ratio():
                what = {Text: "a text", Range: "a range", Ratio: "a ratio"}[type(expr)]
                self.error(
                    "PKC111", f"{what} cannot be computed with", expr.span, "not a number", "write a number, theta, or a call"
                )
                return UNKNOWN

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with: an operator, a distribution or a table is an error."""
        facts = self.facts(expr)
        if facts.axes is None or not facts.axes & MARKS:
            return facts
        shown = show_axes(facts.axes)
        note = "a report shows it as it is"
        if "operator" in facts.axes:
            note = f"read a figure of it: trace({print_expr(expr)}), diagonal({print_expr(expr)})"
        self.error("PKC111", f"{print_expr(expr)} is {shown}", expr.span, "cannot be computed with", note)
        return replace(facts, axes=None)

    def _number(self, expr: Number, unit: str) -> Facts:
        if unit:
            note = f"write {expr.value / 100!r}" if unit == "%" else f"write {expr.value!r}, or put an operator between them"
            self.error("PKC106", f"a unit has no meaning in an expression: '{print_expr(expr)}'", expr.span, f"unit '{unit}'", note)
            return UNKNOWN
        return Facts(NUMBER)

    def _name(self, expr: Name, name: str) -> Facts:
        if name in self.scope.facts:
            self.scope.used.add(name)
            return self.scope.facts[name]
        if name in NAMES:
            known = NAMES[name]
            axes = frozenset(known.axes.split())
            return Facts(axes, theta=known.moves, data=known.data, varies="param" in axes)
        if name in FUNCTIONS:
            self.error("PKC104", f"'{name}' is a function", expr.span, "needs its arguments", f"write {FUNCTIONS[name].example}")
        elif not self.scope.damaged:
            self._unknown_name(expr, name)
        return UNKNOWN

    def _unknown_name(self, expr: Name, name: str) -> None:
        known = [*self.scope.facts, *NAMES]
        parts = name.split("-")
        if len(parts) > 1 and all(p in known or p.isdigit() for p in parts):
            note = f"names may contain hyphens; a minus has spaces: {' - '.join(parts)}"
            self.error("PKC104", f"unknown name '{name}'", expr.span, "read as one name", note)
            return
        self.findings.unknown("PKC104", "name", name, expr.span, known)

    def _power(self, base: Expr, power: Expr) -> Facts:
        of, to = self.operand(base), self.operand(power)
        if to.axes:
            note = "the exponent is a number, as in theta^2"
            self.error("PKC111", f"an exponent of kind {show_axes(to.axes)}", power.span, "not a number", note)
            return of.join(to, None)
        return of.join(to, of.axes if to.axes is not None else None)

    def _binary(self, expr: Binary) -> Facts:
        left, right = self.operand(expr.left), self.operand(expr.right)
        if left.axes is None or right.axes is None:
            return left.join(right, None)
        if left.axes and right.axes and left.axes != right.axes:
            message = f"'{expr.op}' between {show_axes(left.axes)} and {show_axes(right.axes)}"
            extra = sorted(left.axes ^ right.axes & frozenset(OVER))
            note = f"reduce one side, e.g. sum(E, over = {extra[0]})" if extra else "use two values with the same axes, or a number"
            self.error("PKC111", message, expr.span, "the axes differ and nothing broadcasts", note)
            return left.join(right, None)
        return left.join(right, left.axes | right.axes)

    def _call(self, call: Call) -> Facts:
        function = FUNCTIONS.get(call.function)
        if function is None:
            self._unknown_function(call)
            return self._arguments_only(call)
        whole = self._in_place(call, function) and self._shape(call, function)
        if not whole and function.count is not None:
            return self._arguments_only(call)
        facts = function.facts(self, call)
        return replace(facts, figure=True) if function.analysis else facts

    def _in_place(self, call: Call, function: Function) -> bool:
        """Whether a function may stand here: some belong in an analysis (``PKC123``)."""
        if self.scope.analysis or not function.analysis:
            return True
        span = call.span and replace(call.span, end=call.span.start + len(call.function))
        note = 'write it in an analysis: analysis my-analysis { report "..." = ... }'
        self.error("PKC123", f"'{call.function}' is a function of an analysis", span, "not in a pass", note)
        return False

    def _unknown_function(self, call: Call) -> None:
        span = call.span and replace(call.span, end=call.span.start + len(call.function))
        if call.function in self.scope.facts or call.function in NAMES:
            note = f"'{call.function}' is a value: write '{call.function} * (...)' to multiply"
            self.error("PKC103", f"'{call.function}' is not a function", span, "not a function", note)
            return
        close = suggest(call.function, list(FUNCTIONS))
        note = f"did you mean '{close}'?" if close else f"known here: {', '.join(FUNCTIONS)}"
        self.error("PKC103", f"unknown function '{call.function}'", span, "not a function", note)

    def _arguments_only(self, call: Call) -> Facts:
        literals = FUNCTIONS[call.function].literals if call.function in FUNCTIONS else ()
        for i, arg in enumerate(call.args):
            if i not in literals:
                self.facts(arg)
        return UNKNOWN

    def _shape(self, call: Call, function: Function) -> bool:
        """Whether the call has the right number of arguments, and only known keywords, each once."""
        if function.count is None and call.args:
            message = f"{call.function}() takes named arguments only"
            self.error("PKC110", message, call.args[0].span, "which argument?", f"write {function.example}")
        good = self._keywords(call, [argument.name for argument in function.arguments])
        count = function.count or 0
        if len(call.args) == count or function.count is None:
            return good
        said = {0: "no argument", 1: "one argument"}.get(count, f"{count} arguments")
        message = f"'{call.function}' takes {said}, not {len(call.args)}"
        self.error("PKC110", message, call.span, f"{len(call.args)} given", f"write it like {function.example}")
        return False

    def _keywords(self, call: Call, allowed: list[str]) -> bool:
        """Report keywords that are unknown or given twice."""
        good = True
        seen: set[str] = set()
        for key, value in call.kwargs:
            span = _key_span(key, value.span)
            if key in seen:
                good = False
                self.error("PKC107", f"'{key}' is given twice", span, "given before", "delete one of them")
            elif key not in allowed and allowed:
                good = False
                self.findings.unknown("PKC110", "argument", key, span, allowed, where=f" of {call.function}()")
            elif key not in allowed:
                good = False
                note = f"delete '{key} = {print_expr(value)}'"
                self.error("PKC110", f"{call.function}() has no named arguments", span, "not taken", note)
            seen.add(key)
        return good


def _key_span(key: str, value: Span | None) -> Span | None:
    """Where the keyword stands: the last place before its value that holds it."""
    if value is None:
        return None
    start = value.text.rfind(key, 0, value.start)
    return replace(value, start=start, end=start + len(key)) if start >= 0 else value
