"""What an analysis found: one row for each of its lines, as text and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pkcompiler.analyses.values import Value
from pkcompiler.measured import Measured, Status
from pkcompiler.report.layout import columns

LONG = 1e15
"""Whole numbers from here on are shown like all others."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One ``report`` line.

    ``kind``: how its value is shown, in words. ``value``: a number, one per parameter tensor, a ``Series`` or a ``Distribution``
    (whatever the kind, a number that is not predicted where it is too large to be computed). ``formula``: what was computed, in the
    usual letters.
    """

    label: str
    kind: str
    value: Value
    status: Status
    note: str
    formula: str

    def to_json(self) -> dict[str, Any]:
        """``value`` of a number is that of ``Measured.to_json``; per parameter tensor a mapping to such."""
        value = {n: m.to_json() for n, m in self.value.items()} if isinstance(self.value, Mapping) else self.value.to_json()
        rest = {"status": self.status, "note": self.note, "formula": self.formula}
        return {"label": self.label, "kind": self.kind, "value": value, **rest}


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisReport:
    """``name``: of the analysis; ``subject``: of what was analysed; ``masked``: a mask drops something."""

    name: str
    subject: str
    masked: bool
    source: str
    doc: str
    rows: tuple[Row, ...]
    legend: tuple[str, ...]

    def __getitem__(self, label: str) -> Value:
        """The value of the row with this text; ``KeyError`` when there is none."""
        for row in self.rows:
            if row.label == label:
                return row.value
        raise KeyError(label)

    def __repr__(self) -> str:
        return f"AnalysisReport({self.name} of {self.subject}, {len(self.rows)} rows)"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.doc}" if self.doc else self.name]
        plain = [row for row in self.rows if not isinstance(row.value, Mapping)]
        if plain:
            lines += ["", *columns([(row.label, _shown(row.value), row.status) for row in plain], "lll")]
        tables = [row for row in self.rows if isinstance(row.value, Mapping)]
        if tables:
            lines += ["", *_table(tables)]
        said = {
            note: [row.label for row in self.rows if row.note == note] for note in dict.fromkeys(r.note for r in self.rows) if note
        }
        notes = [f"{', '.join(labels)}: {note}" for note, labels in said.items()]
        return "\n".join([*lines, *(["", *notes] if notes else [])])

    def to_json(self) -> dict[str, Any]:
        """The report as plain data (no NaN, no infinity). Keys are stable; new ones may be added."""
        head = {"analysis": self.name, "subject": self.subject, "masked": self.masked, "source": self.source, "doc": self.doc}
        return {**head, "rows": [row.to_json() for row in self.rows], "legend": list(self.legend)}


def _table(rows: list[Row]) -> list[str]:
    """Parameter tensors in lines, report lines in columns."""
    values = [row.value for row in rows if isinstance(row.value, Mapping)]
    names = list(dict.fromkeys(name for value in values for name in value))
    header = ("parameter", *(row.label for row in rows))
    statuses = ("", *(row.status for row in rows))
    body = [(name, *(_cell(value.get(name)) for value in values)) for name in names]
    return columns([header, statuses, *body], "l" + "r" * len(rows))


def _cell(value: Measured | None) -> str:
    if value is None:
        return "-"
    return value.note if value.status == "bound" and value.note else _shown(value)


def _shown(value: Value) -> str:
    """A value as text: whole numbers with all their digits."""
    if isinstance(value, Measured) and value.status == "not predicted":
        return "not predicted"
    if not isinstance(value, Measured) or value.status != "exact" or value.error is not None:
        return str(value)
    size = float(value)
    return f"{int(size):,}" if abs(size) < LONG and size == int(size) else str(value)
