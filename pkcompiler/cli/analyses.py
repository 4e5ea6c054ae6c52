"""``--with`` of ``pkc analyze``: analyses of the library or of files, and the data that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pkcompiler.cli.output import say

if TYPE_CHECKING:
    from pkcompiler.diagnostics import Diagnostic
    from pkcompiler.lang.ast import Analysis


def chosen(given: Sequence[str], data: str | None, loss: str | None) -> list[Analysis]:
    """The analyses of ``--with a,b --with c``, each once. Raises PkcError with what is wrong with any of them."""
    from pkcompiler.diagnostics import PkcError
    from pkcompiler.lang.library import find_analysis

    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if not names and (data is not None or loss is not None):
        flag = "--data" if data is not None else "--loss"
        raise click.UsageError(f"The report itself reads no data, so {flag} needs an analysis: type --with ntk,dynamics.")
    found: list[Analysis] = []
    wrong: list[Diagnostic] = []
    for name in dict.fromkeys(names):
        try:
            found.append(find_analysis(name))
        except PkcError as error:
            wrong += error.diagnostics
    if wrong:
        raise PkcError(*wrong)
    _require_data(found, data)
    return found


def check_verify(analyses: Sequence[Analysis], verify: bool) -> None:
    """``--verify`` needs a predicted loss curve."""
    predicted = any("dynamics(" in a.text for a in analyses)
    if verify and not predicted:
        raise click.UsageError("--verify trains beside a predicted loss curve: add --with dynamics --data DATA.")


def _require_data(analyses: Sequence[Analysis], data: str | None) -> None:
    from pkcompiler.diagnostics import fail

    reader = next((a.name for a in analyses if a.needs_data), None)
    if reader is not None and data is None:
        raise fail("PKC502", f"the analysis '{reader}' reads data, and none was given", "give data, e.g. --data digits")
    if data is not None and analyses and reader is None:
        say("the analyses read no data: none is loaded")
