"""A report in a notebook: its first figures, its warnings and its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcompiler.markup import Cell, Column, Table, escape, fragment, table
from pkcompiler.report.layout import LABELS, percent, shown, status

if TYPE_CHECKING:
    from pkcompiler.report.report import Report

FIRST = ("parameters", "kept", "effective_sparsity", "paths", "l2_squared", "tau")
SHOWN = 30
"""Parameters that are listed; ``str(report)`` has all of them."""


def report_html(report: Report) -> str:
    """An HTML fragment without scripts."""
    figures = [(LABELS[n], shown(n, report.totals[n]), status(n, report.totals[n])) for n in FIRST]
    said = report.columns
    keys = ("density", "l1_share", "l2_share", "tau_share")
    heads = (
        Column("parameter"),
        Column("shape"),
        *(Column(t, True, said[k]) for t, k in zip(("density", "L1 share", "L2 share", "tau share"), keys, strict=True)),
    )
    rows = tuple(
        (
            Cell(row.name),
            Cell(" × ".join(map(str, row.shape)) or "-"),
            *(Cell(percent(v)) for v in (row.density, row.l1, row.l2, row.tau)),
        )
        for row in report.rows
    )
    warnings = "".join(
        f"<div><strong>{escape(w.kind)}</strong> {escape(w.subject)}: {escape(w.message)}</div>" for w in report.warnings[:5]
    )
    more = f"<div>and {len(report.warnings) - 5} more warnings</div>" if len(report.warnings) > 5 else ""
    subtitle = "under masks" if report.masked else "nothing masked"
    return fragment(report.name, subtitle, figures, warnings + more, table(Table("parameters", heads, rows), SHOWN))
