"""A path graph as Graphviz text (``dot -Tsvg``)."""

from __future__ import annotations

from pkcompiler.ir.spelling import spell
from pkcompiler.ir.text import print_type
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses


def to_dot(graph: PathGraph) -> str:
    """One node per input and operation (name, map, type, slots), one edge per use of a value. Outputs have a double border."""
    ids = {value.name: f"n{i}" for i, value in enumerate(graph.values)}
    lines = [f"digraph {_quote(graph.name)} {{", "  node [shape=box, fontname=monospace];"]
    lines += [_node(ids[v.name], (f"%{v.name}", print_type(v.type)), "style=rounded") for v in graph.inputs]
    for op in graph.ops:
        lines.append(_node(ids[op.name], _label(op), "peripheries=2" if op.name in graph.outputs else ""))
        lines += [f"  {ids[x]} -> {ids[op.name]};" for x in op.inputs if x in ids]
    return "\n".join([*lines, "}"]) + "\n"


def _label(op: Op) -> tuple[str, ...]:
    kind = dict(spell(op.map).attributes).get("kind")
    title = spell(op.map).word + (f" {kind}" if kind else "")
    return (f"%{op.name}", title, print_type(op.result.type), *(f"@{use.slot}" for use in uses(op.map)))


def _node(id: str, label: tuple[str, ...], style: str) -> str:
    attributes = f"label={_quote(chr(10).join(label))}" + (f", {style}" if style else "")
    return f"  {id} [{attributes}];"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
