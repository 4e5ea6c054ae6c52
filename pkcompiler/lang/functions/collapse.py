"""``collapse(PASS, until = 10000x)``. See docs/language.md, "Analyses"."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.lang.ast import Call, Name, Number, Text
from pkcompiler.lang.check.facts import Facts
from pkcompiler.lang.functions.record import Argument, Checker, Function
from pkcompiler.lang.syntax.format import print_expr

_UNTIL = Argument("until", "factor", "the largest compression that is tried", "10000x")


def _facts(checker: Checker, call: Call) -> Facts:
    named = call.args[0]
    result = Facts(frozenset({"layer"}))
    until = dict(call.kwargs).get(_UNTIL.name)
    if until is not None and not (isinstance(until, Number) and until.unit in ("", "x") and 1 < until.value <= 1e12):
        message, note = f"until = {print_expr(until)}", f"write until = {_UNTIL.default}"
        checker.error("PKC106", message, until.span, "must be a factor of more than 1x", note)
    if not isinstance(named, Name | Text):
        note = "write collapse(synflow); 'pkc passes' lists the passes"
        checker.error("PKC124", f"collapse() of {print_expr(named)}", named.span, "needs the name of a pass", note)
        return result
    found = checker.scope.find_pass(named.value, named.span)
    return replace(result, data=found is not None and found.needs_data, model=found is not None and found.needs_model)


FUNCTIONS = (
    Function(
        name="collapse",
        doc="at which compression a pass leaves nothing of each parameter tensor",
        example="collapse(synflow)",
        facts=_facts,
        arguments=(_UNTIL,),
        literals=(0,),
        analysis=True,
    ),
)
