"""``balance(E)``: what its arguments may be, and what ``pkc explain`` says of it. See docs/language.md, "Passes"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, Expr, Number
from pkcompiler.lang.check.facts import Facts
from pkcompiler.lang.check.search import walk
from pkcompiler.lang.functions.orders import Checker, as_order, order_facts
from pkcompiler.lang.syntax.format import print_expr

_RANGES = {"nodes": "a number from 0 to 1", "kernels": "a number of at least 0"}
LAYERED = "balance() orders the weights of each parameter: orders of different ones cannot be compared"
REMEDY = "write scope = erk, or scope = layer or uniform"


def balance_facts(checker: Checker, call: Call) -> Facts:
    """The facts of a ``balance`` call: [param], a constant for grad."""
    facts = order_facts(checker, call, f"balance() with {print_expr(call.args[0])} between equals", "balance(uniform())")
    for key, value in call.kwargs:
        most = 1.0 if key == "nodes" else None
        if not isinstance(value, Number) or value.unit or (most is not None and value.value > most):
            message = f"{key} = {print_expr(value)}"
            note = f"write {key} = {words.default(key, 'balance')}"
            checker.findings.error("PKC106", message, value.span, f"must be {_RANGES[key]}", note)
    return facts


def balance_numbers(call: Call) -> tuple[float, float]:
    """``nodes`` and ``kernels`` of a call that has been checked."""
    given = dict(call.kwargs)
    found = (given.get(key, Number(float(words.default(key, "balance")))) for key in _RANGES)
    nodes, kernels = (float(n.value) if isinstance(n, Number) else 0.0 for n in found)
    return nodes, kernels


def holds_balance(score: Expr, lets: Mapping[str, Expr]) -> bool:
    """Whether an expression calls ``balance``."""
    return any(isinstance(part, Call) and part.function == "balance" for part in walk(score, lets))


def balance_lines(expr: Expr, lets: Mapping[str, Expr], notation: Callable[[Expr], str]) -> list[str]:
    """What ``pkc explain`` says below a formula that is a ``balance`` call; nothing for others."""
    found = as_order(expr, lets, "balance")
    if found is None:
        return []
    nodes, kernels = balance_numbers(found)
    opened = f" + {kernels:g} * kernels / k" if kernels else ""
    return [
        "taken_i = how many weights of its parameter are taken before weight i: always the one that adds most to",
        f"{nodes:g} * units / all units + {1 - nodes:g} * paths / most paths{opened}",
        "parameter after parameter in the order of the graph, each at the weights that are kept of those before it;",
        "units = inputs and outputs with a weight taken; paths = those from the model's inputs across the weights taken, all taps",
        "of a kernel alike; most paths = the most that k weights can have, k = how many of the parameter the round keeps;",
        *(["kernels = those with a weight taken;"] if kernels else []),
        f"between equals the largest {notation(found.args[0])} goes first",
    ]


def taken_text(expr: Expr, lets: Mapping[str, Expr]) -> str:
    """The formula of a score that is a ``balance`` call; '' for others."""
    return "-taken_i" if as_order(expr, lets, "balance") else ""
