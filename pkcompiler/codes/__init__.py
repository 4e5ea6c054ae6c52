"""THE table of error codes: what each means and what to do. Every layer adds rows for its own; ``pkc explain CODE`` prints one.

0xx syntax, 1xx declarations, 2xx models and operators, 3xx IR invariants, 4xx pruning, 5xx numerics, 6xx files.
"""

from __future__ import annotations

from textwrap import fill

from pkcompiler.codes import files, language, models, numerics, pruning

GROUPS = {
    "0": "syntax",
    "1": "declarations",
    "2": "models and operators",
    "3": "IR invariants",
    "4": "pruning",
    "5": "numerics",
    "6": "files",
}

CODES: dict[str, str] = language.CODES | models.CODES | pruning.CODES | numerics.CODES | files.CODES


def explain_code(code: str) -> str | None:
    """One paragraph on a code, or None where there is no such code."""
    text = CODES.get(code.upper())
    if text is None:
        return None
    return f"{code.upper()} ({GROUPS[code[3]]})\n{fill(text, 100, initial_indent='  ', subsequent_indent='  ')}\n"
