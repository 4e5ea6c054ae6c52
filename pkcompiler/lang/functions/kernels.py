"""Functions of an analysis: operators, what reads them, and the few other figures that no expression gives.

See docs/language.md, "Analyses".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, Expr, Name, Number, Text
from pkcompiler.lang.check.facts import NUMBER, PARAM, Axes, Facts, Scope, edge_of, resolve, show_axes
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.lang.words import Word

OPERATOR: Axes = frozenset({"operator"})
DATA: Axes = frozenset({"sample", "output"})
MOST = 10_000
"""The largest number of eigenvalues, and of steps, that may be asked for."""

_RESULTS: dict[str, Axes] = {"eigenvalues": frozenset({"rank"}), "density": frozenset({"distribution"})}
_KERNEL = "gram(paths(edge = theta^2, pools = sum, constants = on))"


class Checker(Protocol):
    """What this module needs of the checker of expressions."""

    scope: Scope
    findings: Findings

    def facts(self, expr: Expr) -> Facts:
        """The facts of any expression."""

    def operand(self, expr: Expr) -> Facts:
        """The facts of an expression that is computed with."""


def in_place(checker: Checker, call: Call, word: Word) -> bool:
    """Whether a function may stand here: those of this module belong in an analysis (``PKC123``)."""
    if checker.scope.analysis or word.kind not in _CASES:
        return True
    message = f"'{call.function}' is a function of an analysis"
    span = call.span and replace(call.span, end=call.span.start + len(call.function))
    note = 'write it in an analysis: analysis my-analysis { report "..." = ... }'
    checker.findings.error("PKC123", message, span, "not in a pass", note)
    return False


def figure_facts(checker: Checker, call: Call, word: Word) -> Facts | None:
    """The facts of a call of this module's functions; None for any other."""
    case = _CASES.get(word.kind)
    if case is None:
        return None
    return replace(case(checker, call), figure=True)


def _gram(checker: Checker, call: Call) -> Facts:
    functional = resolve(call.args[0], checker.scope.lets)
    facts = checker.operand(call.args[0])
    result = Facts(OPERATOR | PARAM)
    if facts.axes is None:
        return result
    reason = "needs a path functional itself" if not isinstance(functional, Call) else _unsquared(functional, checker.scope)
    if isinstance(functional, Call) and functional.function != "paths":
        reason = "needs a path functional itself"
    if reason:
        message = f"gram() of {print_expr(call.args[0])}"
        checker.findings.error("PKC120", message, call.args[0].span, reason, f"write {_KERNEL}")
    return result


def _unsquared(functional: Call, scope: Scope) -> str:
    """Why a functional is not the squared one, without data, over all inputs and outputs; else ''."""
    given = dict(functional.kwargs)
    edge = edge_of(given["edge"], scope.lets) if "edge" in given else DEFAULTS["edge"]
    if edge != "theta^2":
        return f"needs edge = theta^2, not {edge}"
    if print_expr(given.get("pools", Name("max"))) == "data":
        return "needs pools = sum or max"
    for key in ("input", "gates", "norms", "output"):
        if key in given and print_expr(given[key]) != DEFAULTS[key]:
            return f"needs {key} = {DEFAULTS[key]}"
    return ""


def _ntk(checker: Checker, call: Call) -> Facts:
    return Facts(OPERATOR | DATA, data=True, model=True)


def _operator(checker: Checker, call: Call, index: int, wanted: Axes | None = None) -> Facts:
    """The facts of an argument that must be an operator, with the axes that it acts on; reported where it is not."""
    argument = call.args[index]
    facts = checker.facts(argument)
    if facts.axes is None:
        return facts
    on = facts.axes - OPERATOR
    if facts.axes >= OPERATOR and wanted in (None, on):
        return replace(facts, axes=on)
    needed = "ntk() or frozen(ntk())" if wanted is not None else "an operator: gram(R) or ntk()"
    example = words.find(call.function, "function")
    note = f"write let T = ntk(), then {example.example}" if wanted is not None and example else "write let G = gram(R) first"
    message = f"{call.function}() of {print_expr(argument)}, which is {show_axes(facts.axes)}"
    checker.findings.error("PKC111", message, argument.span, f"needs {needed}", note)
    return replace(facts, axes=None)


def _reads(checker: Checker, call: Call) -> Facts:
    facts = _operator(checker, call, 0)
    if call.function == "eigenvalues":
        _count(checker, call, call.args[1], f"how many eigenvalues, from 1 to {MOST}", "write eigenvalues(G, 10)")
    if facts.axes is None:
        return facts
    if call.function == "diagonal":
        return replace(facts, varies="param" in facts.axes)
    return replace(facts, axes=_RESULTS.get(call.function, NUMBER))


def _reads_ntk(checker: Checker, call: Call) -> Facts:
    facts = _operator(checker, call, 0, DATA)
    return facts if facts.axes is None else replace(facts, axes=NUMBER)


def _frozen(checker: Checker, call: Call) -> Facts:
    facts = _operator(checker, call, 0, DATA)
    return replace(facts, axes=OPERATOR | DATA, data=True, model=True)


def _distance(checker: Checker, call: Call) -> Facts:
    both = [_operator(checker, call, i, DATA) for i in (0, 1)]
    return both[0].join(both[1], None if None in (both[0].axes, both[1].axes) else NUMBER)


def _dynamics(checker: Checker, call: Call) -> Facts:
    return _curve(checker, call, _operator(checker, call, 0, DATA), "dynamics(T, lr = stable_step(T) / 2, steps = 50)")


def _expected_dynamics(checker: Checker, call: Call) -> Facts:
    return _curve(checker, call, Facts(NUMBER, model=True), "expected_dynamics(lr = 0.1, steps = 50)")


def _curve(checker: Checker, call: Call, facts: Facts, example: str) -> Facts:
    """[step], for ``lr`` a number and ``steps`` a count. ``facts``: of what the curve follows from."""
    given = dict(call.kwargs)
    for key in ("lr", "steps"):
        if key not in given:
            message, label = f"{call.function}() without {key}", f"{key} = ... is missing"
            checker.findings.error("PKC110", message, call.span, label, f"write {example}")
    rate = checker.operand(given["lr"]) if "lr" in given else Facts(NUMBER)
    if rate.axes:
        message = f"lr = {print_expr(given['lr'])} is {show_axes(rate.axes)}"
        checker.findings.error("PKC111", message, given["lr"].span, "must be a number", "write lr = stable_step(T) / 2")
    if "steps" in given:
        _count(checker, call, given["steps"], f"must be a whole number from 1 to {MOST}", "write steps = 50")
    if "time" in given:
        _word(checker, "time", given["time"])
    whole = facts.axes is not None and rate.axes is not None
    return facts.join(rate, frozenset({"step"}) if whole else None)


def _predicted(checker: Checker, call: Call) -> Facts:
    return Facts(NUMBER, model=True)


def _collapse(checker: Checker, call: Call) -> Facts:
    named, given = call.args[0], dict(call.kwargs)
    result = Facts(frozenset({"layer"}))
    if "until" in given:
        largest(checker, given["until"])
    if not isinstance(named, Name | Text):
        note = "write collapse(synflow); 'pkc passes' lists the passes"
        checker.findings.error("PKC124", f"collapse() of {print_expr(named)}", named.span, "needs the name of a pass", note)
        return result
    found = checker.scope.find_pass(named.value, named.span)
    return replace(result, data=found is not None and found.needs_data, model=found is not None and found.needs_model)


def largest(checker: Checker | None, expr: Expr) -> float:
    """The compression that ``until`` names: more than 1, at most 1e12."""
    if isinstance(expr, Number) and expr.unit in ("", "x") and 1 < expr.value <= 1e12:
        return float(expr.value)
    if checker is not None:
        note = "write until = 10000x"
        checker.findings.error("PKC106", f"until = {print_expr(expr)}", expr.span, "must be a factor of more than 1x", note)
    return 1.0


def _count(checker: Checker, call: Call, expr: Expr, label: str, note: str) -> None:
    if isinstance(expr, Number) and expr.unit == "" and expr.value == int(expr.value) and 1 <= expr.value <= MOST:
        return
    checker.findings.error("PKC106", f"{call.function}() with {print_expr(expr)}", expr.span, label, note)


def _word(checker: Checker, key: str, expr: Expr) -> None:
    known = [w.name for w in words.rows("value", key)]
    if isinstance(expr, Name) and expr.value in known:
        return
    close = words.suggest(print_expr(expr), known)
    note = f"did you mean '{close}'?" if close else f"write {key} = {known[0]}"
    checker.findings.error("PKC105", f"{key} = {print_expr(expr)}", expr.span, f"must be {' | '.join(known)}", note)


def margin_facts(checker: Checker, call: Call) -> Facts:
    """``margin(E)`` of logits [sample, output]: [sample]."""
    inner = checker.operand(call.args[0])
    if inner.axes is not None and inner.axes != DATA:
        message = f"margin() of {show_axes(inner.axes)}"
        checker.findings.error("PKC111", message, call.args[0].span, "needs [sample, output]", "write margin(output)")
        return replace(inner, axes=None)
    return replace(inner, axes=inner.axes and frozenset({"sample"}), data=True)


def quantile_part(checker: Checker | None, call: Call) -> float | None:
    """The part that ``quantile(E, 10%, ...)`` names, from 0 to 1; None after an error."""
    part = call.args[1]
    if isinstance(part, Number) and part.unit in ("", "%"):
        value = part.value / 100 if part.unit == "%" else float(part.value)
        if value <= 1:
            return value
    if checker is not None:
        label, note = "must be a part from 0% to 100%", "write quantile(E, 10%, over = sample)"
        checker.findings.error("PKC106", f"quantile() at {print_expr(part)}", part.span, label, note)
    return None


_CASES: dict[str, Callable[[Checker, Call], Facts]] = {
    "gram": _gram,
    "ntk": _ntk,
    "frozen": _frozen,
    "reads": _reads,
    "reads-ntk": _reads_ntk,
    "distance": _distance,
    "dynamics": _dynamics,
    "dynamics-without-data": _expected_dynamics,
    "predicted": _predicted,
    "collapse": _collapse,
}
"""The functions of an analysis, by the kind of their row."""
