"""Operators of an analysis, and what reads them. See docs/language.md, "Analyses"."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pkcompiler.lang.ast import Call, Expr, Name, Typed
from pkcompiler.lang.check.facts import NUMBER, PARAM, Axes, Facts, Scope, resolve, show_axes
from pkcompiler.lang.functions.paths import DEFAULTS, edge_given
from pkcompiler.lang.functions.record import Checker, Function, Writer, is_count
from pkcompiler.lang.syntax.format import print_expr

OPERATOR: Axes = frozenset({"operator"})
DATA: Axes = frozenset({"sample", "output"})
MOST = 10_000
"""The largest number of eigenvalues, and of steps, that may be asked for."""

_KERNEL = "gram(paths(edge = theta^2, pools = sum, constants = on))"


def _gram(checker: Checker, call: Call) -> Facts:
    functional = resolve(call.args[0], checker.scope.lets)
    facts = checker.operand(call.args[0])
    result = Facts(OPERATOR | PARAM)
    if facts.axes is None:
        return result
    reason = _unsquared(functional, checker.scope)
    if reason:
        message = f"gram() of {print_expr(call.args[0])}"
        checker.error("PKC120", message, call.args[0].span, reason, f"write {_KERNEL}")
    return result


def _unsquared(functional: Expr, scope: Scope) -> str:
    """Why an expression is not the squared path functional, without data, over all inputs and outputs; else ''."""
    if not isinstance(functional, Call) or functional.function != "paths":
        return "needs a path functional itself"
    given = dict(functional.kwargs)
    edge = edge_given(given, scope.lets)
    if edge != "theta^2":
        return f"needs edge = theta^2, not {edge}"
    if given.get("pools") == Name("data"):
        return "needs pools = sum or max"
    for key in ("input", "gates", "norms", "output"):
        if given.get(key, Name(DEFAULTS[key])) != Name(DEFAULTS[key]):
            return f"needs {key} = {DEFAULTS[key]}"
    return ""


def operator_facts(checker: Checker, call: Call, index: int, example: str = "") -> Facts:
    """The facts of an argument that must be an operator, with the axes that it acts on; reported where it is not.

    ``example``: a right call, of what needs an operator on data.
    """
    argument = call.args[index]
    facts = checker.facts(argument)
    if facts.axes is None:
        return facts
    on = facts.axes - OPERATOR
    if facts.axes >= OPERATOR and (not example or on == DATA):
        return replace(facts, axes=on)
    needed = "ntk() or frozen(ntk())" if example else "an operator: gram(R) or ntk()"
    note = f"write let T = ntk(), then {example}" if example else "write let G = gram(R) first"
    message = f"{call.function}() of {print_expr(argument)}, which is {show_axes(facts.axes)}"
    checker.error("PKC111", message, argument.span, f"needs {needed}", note)
    return replace(facts, axes=None)


def check_count(checker: Checker, call: Call, expr: Expr, label: str, note: str) -> None:
    """Report what is no whole number from 1 to ``MOST``."""
    if not is_count(expr, MOST):
        checker.error("PKC106", f"{call.function}() with {print_expr(expr)}", expr.span, label, note)


def _reads(checker: Checker, call: Call, axes: Axes = NUMBER, example: str = "") -> Facts:
    """A figure with these axes of an operator; ``example``: of one on data."""
    facts = operator_facts(checker, call, 0, example)
    return facts if facts.axes is None else replace(facts, axes=axes)


def _diagonal(checker: Checker, call: Call) -> Facts:
    facts = operator_facts(checker, call, 0)
    return facts if facts.axes is None else replace(facts, varies="param" in facts.axes)


def _eigenvalues(checker: Checker, call: Call) -> Facts:
    facts = _reads(checker, call, frozenset({"rank"}))
    check_count(checker, call, call.args[1], f"how many eigenvalues, from 1 to {MOST}", "write eigenvalues(G, 10)")
    return facts


def _frozen(checker: Checker, call: Call) -> Facts:
    return replace(operator_facts(checker, call, 0, "frozen(ntk())"), axes=OPERATOR | DATA, data=True, model=True)


def _distance(checker: Checker, call: Call) -> Facts:
    both = [operator_facts(checker, call, i, "distance(T, F)") for i in (0, 1)]
    return both[0].join(both[1], None if None in (both[0].axes, both[1].axes) else NUMBER)


def _number(name: str, doc: str) -> Function:
    """A number that is read from an operator."""
    return Function(name=name, doc=doc, example=f"{name}(G)", facts=_reads, analysis=True)


def _on_data(name: str, doc: str) -> Function:
    """A number that is read from an operator on data."""
    example = f"{name}(T)"
    return Function(name=name, doc=doc, example=example, facts=partial(_reads, example=example), analysis=True)


def _paths_of(writer: Writer, call: Typed) -> str:
    return f"J^T J of the paths of {print_expr(call.args[0].expr)}"


FUNCTIONS = (
    Function(
        name="gram",
        doc="the operator G = J^T J on parameters of a squared path functional: the Path Kernel's",
        example="gram(R)",
        facts=_gram,
        analysis=True,
        meaning=_paths_of,
        letters=lambda calls: ["J = d v_p / d theta_i, one row for each path, one column for each weight"],
    ),
    Function(
        name="ntk",
        doc="the neural tangent kernel on the data, an operator on [sample, output]",
        example="ntk()",
        facts=lambda checker, call: Facts(OPERATOR | DATA, data=True, model=True),
        count=0,
        analysis=True,
        meaning=lambda writer, call: "(d f / d theta) (d f / d theta)^T over samples and outputs",
    ),
    Function(
        name="frozen",
        doc="the same kernel with the slopes of all gates taken as constants",
        example="frozen(ntk())",
        facts=_frozen,
        analysis=True,
    ),
    _number("trace", "the trace of an operator"),
    Function(
        name="diagonal",
        doc="the diagonal of an operator, with its axes",
        example="diagonal(G)",
        facts=_diagonal,
        analysis=True,
    ),
    Function(
        name="eigenvalues",
        doc="the largest eigenvalues of an operator, so many, descending",
        example="eigenvalues(G, 10)",
        facts=_eigenvalues,
        count=2,
        literals=(1,),
        analysis=True,
    ),
    _number("frobenius", "the Frobenius norm of an operator"),
    Function(
        name="density",
        doc="the spectral density of an operator",
        example="density(G)",
        facts=partial(_reads, axes=frozenset({"distribution"})),
        analysis=True,
    ),
    _number("effective_rank", "trace squared by Frobenius norm squared"),
    _number("stable_rank", "trace by the largest eigenvalue"),
    _on_data("condition", "the largest eigenvalue by the smallest"),
    _on_data("alignment", "how well the kernel fits the targets: y^T T y / (norm of T * y^T y)"),
    _on_data("stable_step", "the largest stable learning rate, 2 by the largest eigenvalue"),
    _on_data("bound", "an upper bound of the trace, from path sums alone"),
    Function(
        name="distance",
        doc="the Frobenius norm of the difference of two kernels by that of the first",
        example="distance(T, F)",
        facts=_distance,
        count=2,
        analysis=True,
    ),
)
