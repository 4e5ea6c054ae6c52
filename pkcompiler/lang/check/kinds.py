"""The kinds of expressions: sets of axes. Checked without a model.

See docs/language.md, "Passes" and "Analyses".
"""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.diagnostics import Span
from pkcompiler.lang import words
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Range, Ratio, Text, Unary
from pkcompiler.lang.check.facts import MARKS, NUMBER, OVER, PARAM, UNKNOWN, Facts, Scope, edge_of, resolve, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.functions.balance import balance_facts
from pkcompiler.lang.functions.derivatives import hvp_facts, second_facts, too_deep
from pkcompiler.lang.functions.kernels import figure_facts, in_place, margin_facts, quantile_part
from pkcompiler.lang.functions.noise import after_facts, model_facts, noise_facts
from pkcompiler.lang.functions.paths import path_facts
from pkcompiler.lang.functions.squares import square_facts
from pkcompiler.lang.functions.walks import walk_facts
from pkcompiler.lang.syntax.format import print_expr

ARGUMENTS = {
    "grad": 2,
    "dot": 2,
    "quantile": 2,
    "eigenvalues": 2,
    "distance": 2,
    "squares": 2,
    "hvp": 2,
    "uniform": 0,
    "noise": 0,
    "ntk": 0,
    "predicted_trace": 0,
    "expected_dynamics": 0,
}
"""How many arguments without a name a function takes, where not one."""


class KindChecker:
    """Finds the facts of expressions and reports what does not fit."""

    def __init__(self, scope: Scope, findings: Findings) -> None:
        self.scope, self.findings = scope, findings

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
                self.findings.error(
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
        self.findings.error("PKC111", f"{print_expr(expr)} is {shown}", expr.span, "cannot be computed with", note)
        return replace(facts, axes=None)

    def _number(self, expr: Number, unit: str) -> Facts:
        if unit:
            note = f"write {expr.value / 100!r}" if unit == "%" else f"write {expr.value!r}, or put an operator between them"
            self.findings.error(
                "PKC106", f"a unit has no meaning in an expression: '{print_expr(expr)}'", expr.span, f"unit '{unit}'", note
            )
            return UNKNOWN
        return Facts(NUMBER)

    def _name(self, expr: Name, name: str) -> Facts:
        if name in self.scope.facts:
            self.scope.used.add(name)
            return self.scope.facts[name]
        word = words.find(name, "name")
        if word is not None:
            axes = frozenset(word.kind.split())
            moves, read = name in ("theta", "loss", "losses", "output"), name not in ("theta", "mask", "prunable")
            return Facts(axes, theta=moves, data=read, varies="param" in axes)
        function = words.find(name, "function")
        if function is not None and not function.due:
            self.findings.later(function, expr.span)
        elif function is not None:
            self.findings.error("PKC104", f"'{name}' is a function", expr.span, "needs its arguments", f"write {function.example}")
        elif not self.scope.damaged:
            self._unknown_name(expr, name)
        return UNKNOWN

    def _unknown_name(self, expr: Name, name: str) -> None:
        known = [*self.scope.facts, *(w.name for w in words.rows("name"))]
        parts = name.split("-")
        if len(parts) > 1 and all(p in known or p.isdigit() for p in parts):
            note = f"names may contain hyphens; a minus has spaces: {' - '.join(parts)}"
            self.findings.error("PKC104", f"unknown name '{name}'", expr.span, "read as one name", note)
            return
        self.findings.unknown("PKC104", "name", name, expr.span, known)

    def _power(self, base: Expr, power: Expr) -> Facts:
        of, to = self.operand(base), self.operand(power)
        if to.axes:
            note = "the exponent is a number, as in theta^2"
            self.findings.error("PKC111", f"an exponent of kind {show_axes(to.axes)}", power.span, "not a number", note)
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
            self.findings.error("PKC111", message, expr.span, "the axes differ and nothing broadcasts", note)
            return left.join(right, None)
        return left.join(right, left.axes | right.axes)

    def _call(self, call: Call) -> Facts:
        word = words.find(call.function, "function")
        if word is None:
            self._unknown_function(call)
            return self._arguments_only(call)
        if not word.due:
            self.findings.later(word, call.span)
            return UNKNOWN
        if word.kind == "paths":
            return path_facts(self, call)
        allowed = [w.name for w in words.rows("argument", call.function)]
        if not in_place(self, call, word) or not self._shape(call, word, allowed):
            return self._arguments_only(call)
        found = figure_facts(self, call, word)
        if found is not None:
            return found
        match word.kind:
            case "grad":
                return self._grad(call)
            case "dot":
                return self._dot(call)
            case "over":
                return self._reduction(call)
            case "uniform":
                return Facts(PARAM, varies=True)
            case "noise":
                return noise_facts(self, call)
            case "model":
                return model_facts(self, call)
            case "after":
                return after_facts(self, call)
            case "quantile":
                return self._reduction(call) if quantile_part(self, call) is not None else self._arguments_only(call)
            case "margin":
                return margin_facts(self, call)
            case "squares":
                return square_facts(self, call)
            case "walks":
                return walk_facts(self, call)
            case "balance":
                return balance_facts(self, call)
            case "hvp":
                return hvp_facts(call, self.operand, self.findings)
            case "cross_entropy":
                return self._cross_entropy(call)
        facts = self.operand(call.args[0])
        if call.function != "detach":
            return facts
        return Facts(facts.axes, data=facts.data, model=facts.model, varies=facts.varies)

    def _unknown_function(self, call: Call) -> None:
        span = call.span and replace(call.span, end=call.span.start + len(call.function))
        if call.function in self.scope.facts or words.find(call.function, "name"):
            note = f"'{call.function}' is a value: write '{call.function} * (...)' to multiply"
            self.findings.error("PKC103", f"'{call.function}' is not a function", span, "not a function", note)
            return
        known = [w.name for w in words.rows("function")]
        close = words.suggest(call.function, known)
        note = f"did you mean '{close}'?" if close else f"known here: {', '.join(w.name for w in words.rows('function') if w.due)}"
        self.findings.error("PKC103", f"unknown function '{call.function}'", span, "not a function", note)

    def _arguments_only(self, call: Call) -> Facts:
        for arg in call.args:
            self.facts(arg)
        return UNKNOWN

    def _shape(self, call: Call, word: words.Word, allowed: list[str]) -> bool:
        """Whether the call has the right number of arguments, and only known keywords, each once."""
        count = ARGUMENTS.get(call.function, 1)
        good = self.keywords(call, allowed)
        if len(call.args) != count:
            said = {0: "no argument", 1: "one argument"}.get(count, f"{count} arguments")
            message = f"'{call.function}' takes {said}, not {len(call.args)}"
            self.findings.error("PKC110", message, call.span, f"{len(call.args)} given", f"write it like {word.line}")
            return False
        return good

    def keywords(self, call: Call, allowed: list[str]) -> bool:
        """Report keywords that are unknown or given twice."""
        good = True
        seen: set[str] = set()
        for key, value in call.kwargs:
            span = _key_span(key, value.span)
            if key in seen:
                good = False
                self.findings.error("PKC107", f"'{key}' is given twice", span, "given before", "delete one of them")
            elif key not in allowed and allowed:
                good = False
                self.findings.unknown("PKC110", "argument", key, span, allowed, where=f" of {call.function}()")
            elif key not in allowed:
                good = False
                note = f"write '{print_expr(value)}' without '{key} ='"
                self.findings.error("PKC110", f"{call.function}() has no named arguments", span, "not taken", note)
            seen.add(key)
        return good

    def _dot(self, call: Call) -> Facts:
        left, right = self.operand(call.args[0]), self.operand(call.args[1])
        if left.axes is not None and right.axes is not None and left.axes != right.axes:
            message = f"dot() of {show_axes(left.axes)} and {show_axes(right.axes)}"
            self.findings.error("PKC111", message, call.span, "the axes differ", "give it two values with the same axes")
        return replace(left.join(right, NUMBER), varies=False)

    def _cross_entropy(self, call: Call) -> Facts:
        inner = self.operand(call.args[0])
        if inner.axes is not None and inner.axes != {"sample", "output"}:
            message = f"cross_entropy() of {show_axes(inner.axes)}"
            self.findings.error("PKC111", message, call.args[0].span, "needs [sample, output]", "write cross_entropy(output)")
        return replace(inner, axes=NUMBER, data=True)

    def _reduction(self, call: Call) -> Facts:
        inner = self.operand(call.args[0])
        over = dict(call.kwargs).get("over")
        if inner.axes is None:
            return inner
        if over is None and inner.axes == {"sample", "input"}:
            return replace(inner, axes=inner.axes - {"sample"})
        possible = [a for a in words.AXES if OVER[a] in inner.axes]
        if not possible:
            message = f"{call.function}() of {show_axes(inner.axes)}"
            note = f"write {print_expr(call.args[0])} alone" if not inner.axes else "reduce over sample, output, param or layer"
            self.findings.error("PKC111", message, call.span, "there is no axis to reduce", note)
            return replace(inner, axes=None)
        example = f"write {call.function}(..., over = {possible[0]})"
        if over is None:
            message = f"{call.function}() of {show_axes(inner.axes)} does not name its axis"
            self.findings.error("PKC110", message, call.span, f"over = {' | '.join(possible)} is missing", example)
            return replace(inner, axes=None)
        if not isinstance(over, Name) or over.value not in possible:
            message = f"{call.function}() of {show_axes(inner.axes)} over {print_expr(over)}"
            close = words.suggest(print_expr(over), possible)
            self.findings.error("PKC111", message, over.span, "not an axis of it", f"did you mean '{close}'?" if close else example)
            return replace(inner, axes=None)
        return replace(inner, axes=inner.axes if over.value == "layer" else inner.axes - {over.value}, varies=False)

    def _grad(self, call: Call) -> Facts:
        functional, by = call.args
        of = self.operand(functional)
        self._mark_used(by)
        edge = edge_of(by, self.scope.lets)
        result = second_facts(of, own_edge=edge not in ("", "theta") and of.edges == {edge} and not of.theta)
        if of.axes is None:
            return result
        shown = print_expr(functional)
        if of.axes:
            axis = next((a for a in words.AXES if a in of.axes), "sample")
            message = f"grad() of {shown}, which has the axes {show_axes(of.axes)}"
            self.findings.error(
                "PKC112", message, functional.span, "must be a number", f"write grad(sum({shown}, over = {axis}), ...)"
            )
        elif of.figure:
            message = f"{shown} holds a figure of an operator, which has no derivative here"
            self.findings.error("PKC112", message, functional.span, "has no derivative", "write detach(...) around the figure")
        elif of.deep:
            too_deep(self.findings, functional)
        else:
            self._check_by(of, shown, by)
        return result

    def _mark_used(self, by: Expr) -> None:
        if isinstance(by, Name) and by.value in self.scope.facts:
            self.scope.used.add(by.value)

    def _check_by(self, of: Facts, shown: str, by: Expr) -> None:
        resolved = resolve(by, self.scope.lets)
        edge = edge_of(by, self.scope.lets)
        depends = of.theta or bool(of.edges - {"1"})
        if resolved == Name("mask") or edge == "theta":
            if not depends:
                note = (
                    f"write grad({shown}, 1) for the number of paths through each weight"
                    if of.edges
                    else "give grad() a value that reads theta"
                )
                self.findings.error("PKC112", f"{shown} does not depend on theta", by.span, "its derivative is 0 everywhere", note)
            return
        if edge and of.edges == {edge} and not of.theta:
            return
        if not of.edges:
            known = "theta or mask"
            note = f"write grad({shown}, theta)"
        elif len(of.edges) > 1 or of.theta:
            known = "theta or mask, for it has no edge of its own alone"
            note = f"write grad({shown}, theta)"
        else:
            own = next(iter(of.edges))
            known = f"theta, mask or its edge {own}"
            note = f"write grad({shown}, {own})"
        facts_known = (
            isinstance(resolved, Name) and words.find(resolved.value, "name") is None and resolved.value not in self.scope.facts
        )
        if facts_known and self.scope.damaged:
            return
        self.findings.error("PKC112", f"{shown} cannot be derived by '{print_expr(by)}'", by.span, f"must be {known}", note)


def _key_span(key: str, value: Span | None) -> Span | None:
    """Where the keyword stands: the last place before its value that holds it."""
    if value is None:
        return None
    start = value.text.rfind(key, 0, value.start)
    return replace(value, start=start, end=start + len(key)) if start >= 0 else value
