"""Artifacts side by side, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkcompiler.markup import Cell, Column, Table
from pkcompiler.report.layout import LABELS, percent, status
from pkcompiler.show.extra import need
from pkcompiler.show.from_reports import figure_text, number
from pkcompiler.show.html import document, footer, header, save, section, slot, strip, table_html
from pkcompiler.show.page import Reading

if TYPE_CHECKING:
    from pkcompiler.artifact.comparison import Comparison, Overlap

COLOURS = ("accent", "second", "third", "muted", "text")


def write_comparison(path: str | Path, found: Comparison, provenance: tuple[tuple[str, str], ...] = ()) -> None:
    """Write :func:`comparison_of`. Raises ``PKC632`` where Bokeh is missing, ``PKC634`` where the file cannot be written."""
    save(path, comparison_of(found, provenance))


def comparison_of(found: Comparison, provenance: tuple[tuple[str, str], ...] = ()) -> str:
    """The page: densities and overlaps per layer, totals and norms; the same comparison gives the same text."""
    need("bokeh", "an HTML comparison")
    from pkcompiler.show.figures import overlaps, side_by_side

    names = [artifact.path.name for artifact in found.artifacts]
    labels = [f"{i}: {name}" for i, name in enumerate(names, 1)] if len(set(names)) < len(names) else names
    figures: dict[str, Any] = {"sides": side_by_side(found.names, labels, [list(found.densities[n]) for n in found.names], COLOURS)}
    pairs = [(f"{labels[o.first]} and {labels[o.second]}", [o.layers[n] for n in found.names]) for o in found.overlaps]
    if any(v is not None for _, values in pairs for v in values):
        figures["overlap"] = overlaps(found.names, pairs[: len(COLOURS)], COLOURS)
    said = "Kept by both over kept by either (Jaccard): 1 where two masks are equal."
    parts = [
        header(" and ".join(labels) if len(labels) < 4 else f"{len(labels)} artifacts", "compared", provenance),
        strip(_headline(found, labels)),
        section("densities", "Density by layer", "What each mask keeps of a layer.", slot("sides")),
        section("overlaps", "Overlap by layer", said, slot("overlap")) if "overlap" in figures else "",
        section("figures", "Totals", "", table_html(_totals(found, labels))),
        section("parameters", "Layers", "", table_html(_layers(found, labels))),
        footer(provenance),
    ]
    return document("comparison", "\n".join(part for part in parts if part), figures)


def _headline(found: Comparison, labels: Sequence[str]) -> tuple[Reading, ...]:
    kept = [
        Reading(label, percent(a.kept / a.total), "exact", f"{a.kept:,} of {a.total:,} kept")
        for label, a in zip(labels, found.artifacts, strict=True)
    ]
    shared = [Reading(f"overlap, {_pair(o, labels)}", _share(o.whole), "exact", "Jaccard") for o in found.overlaps]
    return (*kept, *shared[:3])


def _pair(overlap: Overlap, labels: Sequence[str]) -> str:
    return f"{labels[overlap.first]} and {labels[overlap.second]}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _totals(found: Comparison, labels: Sequence[str]) -> Table:
    rows = []
    for name, label in LABELS.items():
        figures = [report.totals[name] for report in found.reports]
        said = dict.fromkeys(status(name, f) for f in figures)
        rows.append((Cell(label), *(Cell(figure_text(name, f), number(f.value)) for f in figures), Cell(", ".join(said))))
    return Table("Totals", (Column("figure"), *(Column(x, True) for x in labels), Column("status")), tuple(rows))


def _layers(found: Comparison, labels: Sequence[str]) -> Table:
    pairs = found.overlaps[:6]
    heads = (
        Column("parameter"),
        *(Column(label, True, "density") for label in labels),
        *(Column(_pair(o, labels), True, "overlap") for o in pairs),
    )
    rows = [(Cell(n), *(_cell(v) for v in found.densities[n]), *(_cell(o.layers[n]) for o in pairs)) for n in found.names]
    return Table("Layers", heads, tuple(rows))


def _cell(value: float | None) -> Cell:
    return Cell(_share(value), value)
