"""A report as plain text: nothing is cut, and nothing depends on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pkcompiler.measured import in_tens

if TYPE_CHECKING:
    from pkcompiler.report.report import Figure, Mass, Report

LABELS = {
    "parameters": "parameters",
    "prunable": "prunable parameters",
    "kept": "kept of prunable",
    "effective": "effective of prunable (on a path)",
    "direct_sparsity": "direct sparsity",
    "effective_sparsity": "effective sparsity",
    "paths": "paths",
    "shortest_path": "shortest path (parameters crossed)",
    "longest_path": "longest path (parameters crossed)",
    "l1": "path L1 norm (R_1)",
    "l2_squared": "squared path L2 norm (R_2)",
    "l2": "path L2 norm (root of R_2)",
    "tau": "sum of tau (dR_2/dw)",
    "fed_share": "share of R_2 from the inputs",
}
LONG = 10**15
"""A count of more digits has a line of its own."""
SIDES = {"shortest_path": "bound (at least)", "longest_path": "bound (at most)"}
HEADER = ("parameter", "shape", "density", "L1 share", "L2 share", "tau share", "effective units")


def lay_out(report: Report) -> str:
    """Warnings, totals, and one line per parameter; ends without a line break."""
    totals = [(LABELS[name], shown(name, figure), status(name, figure)) for name, figure in report.totals.items()]
    rows = [
        (
            r.name,
            "x".join(map(str, r.shape)) or "-",
            percent(r.density),
            percent(r.l1),
            percent(r.l2),
            percent(r.tau),
            _of(r.alive, r.units),
        )
        for r in report.rows
    ]
    shares = report.columns
    statuses = ("", "", *(shares[c] for c in ("density", "l1_share", "l2_share", "tau_share", "effective_units")))
    return "\n".join(
        [
            f"{report.name}, {'under masks' if report.masked else 'nothing masked'}",
            "",
            *_warnings(report),
            "",
            *columns(totals, "lrl"),
            "",
            *_count(report),
            *columns([HEADER, statuses, *rows], "llrrrrr"),
            "",
            "Paths: gates open, all entries of a max-pool, pairs through products, constants as sources. Shares are parts of the",
            "mass that crosses a parameter. A path crosses several, behind products the same one again: they may exceed 100%.",
        ]
    )


def _warnings(report: Report) -> list[str]:
    if not report.warnings:
        return ["no warnings"]
    lines = []
    for warning in report.warnings:
        lines += [f"warning[{warning.kind}]: {warning.subject}: {warning.message}", f"  help: {warning.help}"]
    return lines


def _count(report: Report) -> list[str]:
    from pkcompiler.measured import digits

    count = report.totals["paths"].value
    return [f"all digits of the number of paths: {digits(count)}", ""] if isinstance(count, int) and count >= LONG else []


def columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Rows in columns, two spaces apart; ``sides``: ``l`` or ``r`` for each column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    return [
        "  ".join(cell.rjust(w) if s == "r" else cell.ljust(w) for cell, w, s in zip(row, widths, sides, strict=True)).rstrip()
        for row in rows
    ]


def shown(name: str, figure: Figure) -> str:
    """A figure of the totals as text."""
    value = figure.value
    if value is None:
        return "-"
    if name == "paths":
        return _paths(value) if isinstance(value, int) else f"10^{value.log10:.2f}"
    if name.endswith(("sparsity", "share")):
        return percent(value)
    if isinstance(value, int):
        return f"{value:,}"
    return scientific(value)


def status(name: str, figure: Figure) -> str:
    """Exact, approximate, undefined, or a bound and on which side."""
    return SIDES[name] if figure.status == "bound" else figure.status


def _paths(count: int) -> str:
    """All digits of a short number; of a long one the size (``lay_out`` gives it in full on a line of its own)."""
    return f"{count:,}" if count < LONG else f"10^{math.log10(count):.2f}"


def scientific(mass: Mass) -> str:
    """Four digits and a power of ten, of a number of any size."""
    if mass.mantissa == 0:
        return "0"
    leading, power = in_tens(mass.mantissa, mass.exponent)
    return f"{leading:.3f}e{power:+d} (10^{mass.log10:.2f})"


def percent(part: float | None) -> str:
    """A part of the whole; tiny parts with their size."""
    if part is None:
        return "-"
    return f"{100 * part:.2f}%" if part == 0 or part >= 1e-4 else f"{100 * part:.1e}%"


def _of(some: int, all_: int) -> str:
    return f"{some:,}/{all_:,}"
