"""``--symbolic`` of ``pkc analyze``: closed forms as text, as plain data and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.diagnostics import first_few

if TYPE_CHECKING:
    from torch import Tensor

    from pkcompiler.ir.types import PathGraph
    from pkcompiler.symbolic import ClosedForms

PREAMBLE = r"""\documentclass{article}
\usepackage{amsmath}
\allowdisplaybreaks
\begin{document}
"""


def scheme(symbolic: bool, variances: str | None, latex: str | None) -> str | None:
    """The scheme of variances, or None where no closed forms are asked for."""
    if variances is not None and not (symbolic or latex is not None):
        raise click.UsageError("--variances belongs to --symbolic: add it.")
    return (variances or "weights") if symbolic or latex is not None else None


def of(graph: PathGraph, tensors: Mapping[str, Tensor], variances: str) -> ClosedForms:
    """The closed forms of the dense graph (a mask plays no part). Raises ``PKC537``."""
    from pkcompiler.symbolic import closed_forms

    return closed_forms(graph, tensors=tensors, variances=variances)


def text(closed: ClosedForms) -> str:
    """The table, and how the three grow."""
    lines = growth(closed) or ["none: no width is hidden, and no block repeats"]
    return "\n".join([str(closed), "growth, in leading order", *(f"  {line}" for line in lines)])


def growth(closed: ClosedForms) -> list[str]:
    """One line per form: with all hidden widths, and with the depth where blocks repeat."""
    from pkcompiler.diagnostics import PkcError

    lines: list[str] = []
    for by in ("widths", "depth"):
        with suppress(PkcError):
            lines += [str(g) for g in closed.growth(by)]
    return lines


def pieces(closed: ClosedForms) -> list[tuple[str, str, str]]:
    """Name, text (the expression where it is short, else the program) and LaTeX of each form; last how they grow."""
    from pkcompiler.symbolic.latex import form_latex
    from pkcompiler.symbolic.text import SHOWN, shown

    found = [(f.name, shown(f) if f.program.run(limit=SHOWN) else str(f), form_latex(f)) for f in closed.forms]
    return [("Symbols", "\n".join(symbols(closed)), ""), *found, ("Growth, in leading order", "\n".join(growth(closed)), "")]


def symbols(closed: ClosedForms) -> list[str]:
    """What the widths and standard deviations stand for, a line each."""
    widths = [f"{w.symbol} = {w.value}: {first_few(w.of, 3)}" for w in closed.widths]
    return widths + [f"{s}^2 = E[theta^2] of {first_few(slots, 3)}" for s, slots in closed.symbols.deviations.items()]


def plain(closed: ClosedForms) -> dict[str, Any]:
    """The forms and their growth as plain data."""
    return {**closed.to_json(), "growth": growth(closed)}


def write_latex(file: str, closed: ClosedForms) -> None:
    """A document that compiles on its own; to stdout for ``-``."""
    from pkcompiler.cli.output import put
    from pkcompiler.files import deliver

    document = f"{PREAMBLE}{closed.latex()}\n\\end{{document}}\n"
    if file == "-":
        put(document, nl=False, exact=True)
        return
    deliver(file, document, "PKC613", "print it instead: --latex -")
