"""The formula that a pass denotes, derived from its expression, and below it what the letters mean."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Binary, Call, Name, Pass, Typed
from pkcompiler.lang.explain.notation import Notation, by_function
from pkcompiler.lang.functions.closed import Product
from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.paths import argument_lines, path_edge
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.syntax.format import print_expr

MAX_PARTS = 200
"""The largest score, its names written out, that is brought into one closed form: a longer one would not be read."""

_INIT = {
    "fresh": "as the model's file initialises it",
    "he": "prunable weights from N(0, 2 / fan-in)",
    "normal": "prunable weights from N(0, std^2)",
}


def formula(pass_: Pass) -> str:
    """``score_i = ...``, and below it what the letters in it mean."""
    writer, whole = Notation(), pass_.typed.value
    seen: list[Product] = []
    right = _sum_of_products(whole, writer, seen) if _size(whole, {}) <= MAX_PARTS else None
    if right is None:
        seen = []
        right = writer.text(pass_.typed)
    below: list[str] = []
    if isinstance(whole.expr, Call) and (own := FUNCTIONS[whole.expr.function].score) is not None:
        right, below = own[0], own[1](writer, whole)
    return "\n".join([f"score_i = {_as_kept(pass_, right)}", *_legend(seen, pass_, right), *below, *_function_lines(pass_)])


def _size(node: Typed, known: dict[Typed, int]) -> int:
    """How many parts an expression has, every name written out wherever it stands."""
    node = node.value
    if node not in known:
        known[node] = 1 + sum(_size(part, known) for part in (*node.args, *node.named.values()))
    return known[node]


def _as_kept(pass_: Pass, right: str) -> str:
    """The right-hand side with the mean over repetitions, and the absolute value of ``order = magnitude``."""
    if pass_.repeat > 1:
        right = (
            f"mean over {pass_.repeat} draws of {right}"
            if right[:1] == "|" or " + " not in right
            else f"mean over {pass_.repeat} draws of ({right})"
        )
    return f"|{right}|" if pass_.order == "magnitude" else right


def _sum_of_products(node: Typed, writer: Notation, seen: list[Product]) -> str | None:
    node = node.value
    if isinstance(node.expr, Binary) and node.expr.op in "+-":
        left, right = (_sum_of_products(arg, writer, seen) for arg in node.args)
        return None if left is None or right is None else f"{left} {node.expr.op} {right}"
    term = writer.product(node)
    if term is None:
        return None
    seen.append(term)
    return str(term)


def _legend(seen: list[Product], pass_: Pass, right: str) -> list[str]:
    lines: list[str] = []
    sums = [t.mass.call for t in seen if t.mass is not None and t.mass.call is not None]
    for term in seen:
        if term.mass is not None and term.mass.call is not None and (term.power or term.odd):
            left = replace(term, factor=1.0, mass=None, bars=False)
            lines.append(f"the factor {left} is left over: this is not the path mass through i alone")
            if term.odd and term.factor % 2 == 0:
                lines.append("for the derivative was taken by theta; by the edge it is grad(R, theta^2)")
    if any(path_edge(call) != "1" for call in sums):
        lines.append("v_p = c_p times the product of the weights on p, at theta * mask; n_ip = how often p crosses i")
    for call in sums:
        lines += [line for line in argument_lines(call) if line not in lines]
    if not seen:
        lines += [f"with {name} = {print_expr(expr)}" for name, expr in pass_.lets]
    lines += [t.mass.legend for t in seen if t.mass is not None and t.mass.legend and right == t.mass.text]
    read = {node.expr.value for node in pass_.typed.walk() if isinstance(node.expr, Name)}
    return lines + [name.legend for name in NAMES.values() if name.legend and name.name in read]


def _function_lines(pass_: Pass) -> list[str]:
    """What the functions that the pass reads say of themselves, and its initial weights."""
    functions = by_function(pass_.typed.walk())
    lines = [function.legend for function, _ in functions if function.legend]
    for function, calls in functions:
        lines += function.lines(calls)
    if pass_.init is not None:
        kind = pass_.init.function if isinstance(pass_.init, Call) else print_expr(pass_.init)
        lines.append(f"theta = initial weights drawn anew in every round and repetition, {_INIT[kind]}")
    return list(dict.fromkeys(lines))
