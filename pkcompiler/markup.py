"""HTML as text, escaped: tables, and fragments that a notebook shows. No scripts, and styles inline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

__all__ = ["Cell", "Column", "Table", "badge", "escape", "fragment", "superscript", "table"]

_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif"
_FAINT = "color:color-mix(in srgb,currentColor 62%,transparent)"
_RULE = "border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)"
_CELL = f"padding:3px 14px 3px 0;{_RULE};font-variant-numeric:tabular-nums"


@dataclass(frozen=True, slots=True)
class Column:
    """A title, whether its cells are numbers (right, sorted as such), and what they are: ``exact``, ``bound`` ... ("": unsaid)."""

    title: str
    number: bool = False
    status: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and the number that it is sorted by (None: by its text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A title, its columns, rows with a cell for each of them, and a line below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def superscript(number: int) -> str:
    """A whole number in raised digits.

    >>> "10" + superscript(-12)
    '10⁻¹²'
    """
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def badge(status: str) -> str:
    """``exact`` and the like, as a small label."""
    return f'<span class="status" data-status="{escape(status.split(" ")[0])}">{escape(status)}</span>' if status else ""


def table(shown: Table, limit: int | None = None) -> str:
    """A table with inline styles, for a notebook; at most ``limit`` rows, and then how many there are."""
    sides = ["right" if column.number else "left" for column in shown.columns]
    head = "".join(
        f'<th style="text-align:{side};{_CELL};font-weight:600">{escape(column.title)}{_below(column.status)}</th>'
        for column, side in zip(shown.columns, sides, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:{side};{_CELL}">{escape(cell.text)}</td>' for cell, side in zip(row, sides, strict=True))
        + "</tr>"
        for row in shown.rows[:limit]
    )
    left = len(shown.rows) - limit if limit is not None else 0
    more = f'<div style="{_FAINT};padding-top:4px">and {left:,} more</div>' if left > 0 else ""
    return (
        f'<table style="border-collapse:collapse;background:none"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'
    )


def fragment(title: str, subtitle: str, figures: Iterable[tuple[str, str, str]], *parts: str) -> str:
    """A notebook's view of one thing: its name, figures (label, value, status) in a strip, and ``parts`` that are HTML already."""
    strip = "".join(
        f'<div style="padding-right:28px"><div style="font-size:11px;{_FAINT}">{escape(label)}</div>'
        f'<div style="font-size:17px;font-variant-numeric:tabular-nums">{escape(value)}</div>'
        f'<div style="font-size:11px;{_FAINT}">{escape(status)}</div></div>'
        for label, value, status in figures
    )
    head = f'<strong>{escape(title)}</strong> <span style="{_FAINT}">{escape(subtitle)}</span>'
    row = f'<div style="display:flex;flex-wrap:wrap;gap:10px 0;padding:10px 0">{strip}</div>' if strip else ""
    return f'<div style="{_FONT};font-size:13px;line-height:1.45">{head}{row}{"".join(parts)}</div>'


def _below(status: str) -> str:
    return f'<div style="font-size:11px;font-weight:400;{_FAINT}">{escape(status)}</div>' if status else ""
