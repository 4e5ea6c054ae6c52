"""A path graph in a notebook: what goes in and comes out, and its operations in order."""

from __future__ import annotations

from pkcompiler.ir.spelling import spell
from pkcompiler.ir.text import print_type
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.markup import Cell, Column, Table, fragment, table

SHOWN = 40
"""Operations that are listed; ``str(graph)`` has all of them."""


def graph_html(graph: PathGraph) -> str:
    """An HTML fragment without scripts."""
    types = {value.name: print_type(value.type) for value in graph.values}
    figures = [
        ("in", ", ".join(types[value.name] for value in graph.inputs), ""),
        ("out", ", ".join(types[name] for name in graph.outputs), ""),
        ("operations", f"{len(graph.ops):,}", ""),
        ("parameters", f"{len(graph.parameters):,}", f"{len(graph.prunable):,} prunable"),
    ]
    rows = tuple(
        (Cell(op.name), Cell(spell(op.map).word), Cell(types[op.name]), Cell(", ".join(use.slot for use in uses(op.map))))
        for op in graph.ops
    )
    heads = tuple(Column(title) for title in ("value", "operation", "type", "reads"))
    return fragment(graph.name, "path graph", figures, table(Table("operations", heads, rows), SHOWN))
