"""``walks(E)``: what its arguments may be, and what ``pkc explain`` says of it. See docs/language.md, "Passes"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, Expr, Name
from pkcompiler.lang.check.facts import Facts
from pkcompiler.lang.functions.orders import Checker, as_order, order_facts
from pkcompiler.lang.syntax.format import print_expr

KERNELS = Name("kernels")


def walk_facts(checker: Checker, call: Call) -> Facts:
    """The facts of a ``walks`` call: [param], a constant for grad."""
    facts = order_facts(checker, call, f"walks() along {print_expr(call.args[0])}", "walks(abs(theta))")
    keep = dict(call.kwargs).get("keep")
    known = [w.name for w in words.rows("value", "keep")]
    if keep is not None and not (isinstance(keep, Name) and keep.value in known):
        close = words.suggest(print_expr(keep), known)
        note = f"did you mean '{close}'?" if close else f"write keep = {known[0]}"
        checker.findings.error("PKC105", f"keep = {print_expr(keep)}", keep.span, f"must be {' | '.join(known)}", note)
    return facts


def walk_lines(expr: Expr, lets: Mapping[str, Expr], notation: Callable[[Expr], str]) -> list[str]:
    """What ``pkc explain`` says below a formula that is a ``walks`` call; nothing for others."""
    found = as_order(expr, lets, "walks")
    if found is None:
        return []
    whole = dict(found.kwargs).get("keep") == KERNELS
    hop = "a hop along a convolution visits the whole kernel" if whole else "a hop visits one weight"
    return [
        "visit_i = how many weights the walks visited before weight i: so the k largest scores are exactly the first k visited,",
        "at any k; walks go on until as many are visited as a round keeps, the last ones only between units already on a path",
        "walks: from an input to an output and from an output to an input in turn, unit after unit;",
        f"the probability of a hop is proportional to {notation(found.args[0])} * mask_i among the weights that lead on; {hop}",
    ]


def visit_text(expr: Expr, lets: Mapping[str, Expr]) -> str:
    """The formula of a score that is a ``walks`` call; '' for others."""
    return "-visit_i" if as_order(expr, lets, "walks") else ""
