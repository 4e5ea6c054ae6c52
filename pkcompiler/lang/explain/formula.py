"""The formula that a pass denotes, derived from its expression, and below it what the letters mean."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Pass
from pkcompiler.lang.check.facts import edge_of, resolve
from pkcompiler.lang.check.search import walk, written_out
from pkcompiler.lang.explain.notation import Notation
from pkcompiler.lang.functions.closed import Product
from pkcompiler.lang.functions.paths import argument_lines
from pkcompiler.lang.functions.seen import calls
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
    writer = Notation(dict(pass_.lets))
    seen: list[Product] = []
    right = _sum_of_products(pass_.score, writer, seen) if written_out(pass_.score, writer.lets) <= MAX_PARTS else None
    if right is None:
        seen = []
        right = writer.text(pass_.score)
    below: list[str] = []
    whole = resolve(pass_.score, writer.lets)
    if isinstance(whole, Call) and (own := FUNCTIONS[whole.function].score) is not None:
        right, below = own[0], own[1](writer, whole)
    return "\n".join([f"score_i = {_as_kept(pass_, right)}", *_legend(seen, pass_, right), *below, *_function_lines(pass_)])


def _as_kept(pass_: Pass, right: str) -> str:
    """The right-hand side with the mean over repetitions, and the absolute value of ``order = magnitude``."""
    if pass_.repeat > 1:
        right = (
            f"mean over {pass_.repeat} draws of {right}"
            if right[:1] == "|" or " + " not in right
            else f"mean over {pass_.repeat} draws of ({right})"
        )
    return f"|{right}|" if pass_.order == "magnitude" else right


def _sum_of_products(expr: Expr, writer: Notation, seen: list[Product]) -> str | None:
    expr = resolve(expr, writer.lets)
    if isinstance(expr, Binary) and expr.op in "+-":
        left, right = _sum_of_products(expr.left, writer, seen), _sum_of_products(expr.right, writer, seen)
        return None if left is None or right is None else f"{left} {expr.op} {right}"
    term = writer.product(expr)
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
    if any(edge_of(dict(c.kwargs).get("edge", Name("")), dict(pass_.lets)) != "1" for c in sums):
        lines.append("v_p = c_p times the product of the weights on p, at theta * mask; n_ip = how often p crosses i")
    for call in sums:
        lines += [line for line in argument_lines(call) if line not in lines]
    if not seen:
        lines += [f"with {name} = {print_expr(expr)}" for name, expr in pass_.lets]
    lines += [t.mass.legend for t in seen if t.mass is not None and t.mass.legend and right == t.mass.text]
    if "loss" in right.replace("losses_n", ""):
        lines.append("loss = the mean loss over all samples, at theta * mask")
    if any(Name("prunable") in walk(expr, {}) for expr in (pass_.score, *dict(pass_.lets).values())):
        lines.append("prunable_i = 1 where a pass may prune (after include, before except), else 0")
    if "losses_n" in right:
        lines.append("losses_n = the loss of sample n alone, at theta * mask")
    return lines


def _function_lines(pass_: Pass) -> list[str]:
    """What the functions that the pass reads say of themselves, and its initial weights."""
    read = calls((pass_.score, *dict(pass_.lets).values()))
    names = {call.function for call in read}
    functions = [function for name, function in FUNCTIONS.items() if name in names]
    lines = [function.legend for function in functions if function.legend]
    for function in functions:
        lines += function.lines([call for call in read if call.function == function.name])
    if pass_.init is not None:
        kind = pass_.init.function if isinstance(pass_.init, Call) else print_expr(pass_.init)
        lines.append(f"theta = initial weights drawn anew in every round and repetition, {_INIT[kind]}")
    return list(dict.fromkeys(lines))
