"""The settings ``repeat`` and ``init`` of a pass. See docs/language.md, "Passes"."""

from __future__ import annotations

from pkcompiler.lang import words
from pkcompiler.lang.ast import Call, Expr, Name, Number, Setting
from pkcompiler.lang.check.findings import Findings
from pkcompiler.lang.functions.seen import calls
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.format import print_expr

MOST_REPEATS = 10_000


def read_init(findings: Findings, item: Setting) -> Expr | None:
    """``fresh``, ``he()`` or ``normal(std = 0.02)``; anything else is reported."""
    note = "write init = fresh, init = he() or init = normal(std = 0.02)"
    value = item.values[0]
    match value:
        case Name("fresh") | Call("he", (), ()) if len(item.values) == 1:
            return value
        case Call("normal", (), (("std", Number(std, "")),)) if len(item.values) == 1 and 0 < std < 1e6:
            return value
    known = [w.name for w in words.rows("value", "init")]
    named = value.value if isinstance(value, Name) else value.function if isinstance(value, Call) else ""
    close = suggest(named, known) if named and named not in known else ""
    hint = f"did you mean '{close}'?" if close else note
    shown = ", ".join(print_expr(v) for v in item.values)
    findings.error("PKC105", f"init = {shown}", value.span, "must be fresh, he() or normal(std = ...)", hint)
    return None


def warn_of_repeat(findings: Findings, item: Setting, parts: tuple[Expr, ...], drawn_elsewhere: bool) -> None:
    """``repeat`` where nothing differs from one repetition to the next (``PKC566``). ``parts``: all expressions of the pass."""
    if drawn_elsewhere or any(FUNCTIONS[call.function].drawn for call in calls(parts)):
        return
    message = "every repetition gives the same score: there is no noise(), no init, and mode = eval"
    findings.warning("PKC566", message, item.name.span, "repeats the same work", "delete repeat, or add init = fresh")
