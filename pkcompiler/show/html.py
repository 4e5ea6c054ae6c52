"""A page as one HTML file that asks the network for nothing: Bokeh's script, the page's own, its style and its data lie within."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from pkcompiler.files import deliver
from pkcompiler.markup import Cell, Column, Table, badge, escape
from pkcompiler.show.extra import need
from pkcompiler.show.nodes import Node
from pkcompiler.show.page import Formula, Note, Page, Reading
from pkcompiler.show.theme import FONT, css_variables

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""Nothing is fetched, whatever a name in the page says. Bokeh compiles the formatters of ticks, hence ``unsafe-eval``."""

CAPTIONS = {
    "network": "The network, drawn as a graph whose nodes are coloured by path mass",
    "mass": "The part of the path mass that crosses every layer",
    "tau": "The part of the sum of tau that lies in every layer",
    "density": "The kept and the effective part of every layer",
    "eigenvalues": "The leading eigenvalues of the Path Kernel",
    "spectrum": "The spectral density of the Path Kernel",
    "heat": "The Path Kernel as a heat map over pairs of paths",
    "loss": "Predicted and true loss over steps",
    "sides": "The density of every layer, side by side",
    "overlap": "The overlap of the masks in every layer",
}


def write_html(path: str | Path, page: Page) -> None:
    """Write :func:`html_of` a page. Raises ``PKC632`` where Bokeh is missing, ``PKC634`` where the file cannot be written."""
    save(path, html_of(page))


def save(path: str | Path, text: str) -> None:
    """Write a page. Raises ``PKC634``."""
    deliver(path, text, "PKC634", "name a file that can be written")


def html_of(page: Page) -> str:
    """The page as HTML; the same page gives the same text."""
    need("bokeh", "an HTML report")
    from pkcompiler.show.figures import figures

    return document(page.name, _sections(page), figures(page), nodes=_node_ids(page))


def document(title: str, body: str, shown: dict[str, Any], nodes: dict[str, int] | None = None) -> str:
    """A whole document around the sections and figures of a page."""
    data = json.dumps(
        {"figures": {k: _item(f) for k, f in shown.items()}, "nodes": nodes or {}}, ensure_ascii=False, separators=(",", ":")
    )
    style = (files("pkcompiler.show") / "page.css").read_text(encoding="utf-8")
    script = (files("pkcompiler.show") / "page.js").read_text(encoding="utf-8")
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} · pkcompiler</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>{css_variables()}:root{{--font:{FONT}}}\n{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{_inert(data)}</script>\n'
        f"<script>{_bokeh()}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _bokeh() -> str:
    from bokeh.resources import Resources

    script = Resources(mode="inline", components=["bokeh"], log_level="error", minified=True).js_raw
    return re.sub(r"//# sourceMappingURL=\S+", "", "\n".join(script)).replace("</script", "<\\/script")


def _inert(data: str) -> str:
    """JSON that cannot end its script element."""
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _item(shown: Any) -> Any:
    """A figure as data, its ids numbered from 1 in order of appearance."""
    from bokeh.embed import json_item

    known: dict[str, str] = {}

    def numbered(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: known.setdefault(v, f"m{len(known)}") if k == "id" and isinstance(v, str) else numbered(v)
                for k, v in value.items()
            }
        return [numbered(v) for v in value] if isinstance(value, list | tuple) else value

    made: dict[str, Any] = dict(json_item(shown))
    root = known.setdefault(made["root_id"], "m0")
    return numbered(made) | {"root_id": root, "target_id": None}


# sections -------------------------------------------------------------------------------------------------------------


def _sections(page: Page) -> str:
    parts = [
        header(page.name, page.subtitle, page.provenance),
        strip(page.headline),
        _warnings(page.warnings),
        _network(page),
        _layers(page),
        _spectrum(page),
        _heat(page),
        _dynamics(page),
        _formulas(page.formulas),
        _analyses(page.analyses),
        _tables(page),
        footer(page.provenance),
    ]
    return "\n".join(part for part in parts if part)


def header(name: str, subtitle: str, provenance: tuple[tuple[str, str], ...]) -> str:
    """The name, what it is, and the switch between light and dark."""
    said = dict(provenance).get("model", "")
    return (
        '<header><div><p class="mark">pkcompiler <span>path report</span></p>'
        f"<h1>{escape(name)}</h1><p class=lead>{escape(subtitle)}{f' · <code>{escape(said)}</code>' if said else ''}</p></div>"
        '<button id="theme" type="button" aria-pressed="false" title="Switch between light and dark">'
        '<span class="sun" aria-hidden="true"></span><span class="word">Dark</span></button></header>\n<main>'
    )


def strip(quantities: tuple[Reading, ...]) -> str:
    """The figures that come first."""
    return (
        f'<section class="strip" aria-label="Headline figures">{"".join(map(_quantity, quantities))}</section>'
        if quantities
        else ""
    )


def _quantity(q: Reading) -> str:
    return (
        f'<div class="quantity"><div class="label">{escape(q.label)}</div><div class="value">{_value(q.value)}</div>'
        f'<div class="note">{badge(q.status)} {escape(q.note)}</div></div>'
    )


def _value(text: str) -> str:
    """Mantissa and power apart, so that the power can be quieter."""
    lead, times, rest = text.partition(" × ")
    return f"{escape(lead)}<small> × {escape(rest)}</small>" if times else escape(text)


def _warnings(warnings: tuple[Note, ...] | None) -> str:
    if warnings is None:
        return ""
    if not warnings:
        return '<p class="calm">No warnings.</p>'
    items = "".join(
        f"<li><p><b>{escape(w.kind)}</b> <code>{escape(w.subject)}</code></p><p>{escape(w.message)}</p>"
        f'<p class="help">{escape(w.help)}</p></li>'
        for w in warnings
    )
    count = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
    return f'<section class="warnings"><h2>{count}</h2><ul>{items}</ul></section>'


def section(name: str, title: str, lead: str, body: str) -> str:
    """A section with a title and one line on what it shows."""
    said = f'<p class="about">{lead}</p>' if lead else ""
    return f'<section id="{name}" class="panel"><h2>{escape(title)}</h2>{said}{body}</section>'


def slot(name: str) -> str:
    """Where a figure goes."""
    return f'<div class="figure" id="figure-{name}" role="img" aria-label="{escape(CAPTIONS[name])}"></div>'


def _network(page: Page) -> str:
    if page.drawing is None:
        return ""
    from pkcompiler.show.network import tall

    nodes = page.drawing.nodes
    folded = sum(len(n.ops) for n in nodes)
    lead = f"{folded} operations in {sum(n.kind != 'input' for n in nodes)} nodes, read from top to bottom, column by column."
    choices = (("l2", "L2 share"), ("l1", "L1 share"), ("tau", "tau share"), ("density", "density"))
    metrics = "".join(
        f'<button type="button" data-metric="{k}" aria-pressed="{"true" if k == "l2" else "false"}">{t}</button>'
        for k, t in choices
    )
    zoom = "".join(
        f'<button type="button" data-zoom="{k}" aria-label="{t}">{s}</button>'
        for k, t, s in (("out", "Zoom out", "−"), ("in", "Zoom in", "+"), ("fit", "Fit the whole network", "Fit"))
    )
    bar = (
        f'<div class="bar"><div class="group" role="group" aria-label="Colour by">{metrics}</div>'
        '<div class="scale"><span>0</span><i></i><span id="top"></span></div>'
        f'<div class="group zoom" role="group" aria-label="Zoom">{zoom}</div></div>'
    )
    hint = '<p class="hint">Drag to move, Ctrl and wheel (or pinch) to zoom, click a node for its figures.</p>'
    first = '<article class="layer" data-node="-1"><p class="hint">Click a node to see its figures here.</p></article>'
    panels = first + "".join(_panel(page, node) for node in nodes)
    return section(
        "network",
        "Network",
        lead,
        f'{bar}<div class="split" style="--tall:{tall(page.drawing)}px"><div>{slot("network")}{hint}</div>'
        f'<aside aria-live="polite">{panels}</aside></div>',
    )


def _panel(page: Page, node: Node) -> str:
    table = page.parameters
    rows = [row for row in table.rows if row[0].text in node.parameters] if table else []
    facts = [("returns", node.shape), ("operations", ", ".join(node.ops)), ("source", node.source)]
    listed = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts if v)
    figures = "".join(_parameter(table, row) for row in rows if table)
    return (
        f'<article class="layer" data-node="{node.id}" hidden><h3>{escape(node.title)}</h3><p>{escape(node.detail)}</p>'
        f"{figures}<h4>Operation</h4><dl>{listed}</dl></article>"
    )


def _parameter(table: Table, row: tuple[Cell, ...]) -> str:
    lines = "".join(
        f"<dt>{escape(column.title)}</dt><dd>{escape(cell.text)}</dd><dd>{escape(column.status)}</dd>"
        for column, cell in zip(table.columns[1:], row[1:], strict=True)
    )
    return f'<h4>{escape(row[0].text)}</h4><dl class="figures">{lines}</dl>'


def _node_ids(page: Page) -> dict[str, int]:
    """The node of every parameter, for a click on its row."""
    nodes = page.drawing.nodes if page.drawing else ()
    return {name: node.id for node in reversed(nodes) for name in node.parameters}


def _layers(page: Page) -> str:
    if not page.layers:
        return ""
    said = {k: f" ({v})" for k, v in page.statuses.items()}
    lead = (
        f"Which part of all paths, by mass, crosses a layer: of R₂{said.get('l2', '')} and R₁{said.get('l1', '')}; its part of the "
        f"sum of tau{said.get('tau', '')}; and what the mask keeps{said.get('density', '')}."
    ) + ("" if page.masked else " Nothing is masked, so every density is 100%.")
    return section("layers", "Layers", lead, slot("mass") + slot("tau") + slot("density"))


def _spectrum(page: Page) -> str:
    s = page.spectrum
    if s is None:
        return ""
    plots = (slot("eigenvalues") if s.log10_values else "") + (slot("spectrum") if s.grid else "")
    body = f'<div class="strip inner">{"".join(map(_quantity, s.quantities))}</div><div class="pair">{plots}</div>'
    return section("kernel", "Path Kernel", escape(s.note), body)


def _heat(page: Page) -> str:
    if page.heat is None or not page.heat.labels:
        return ""
    shown = len(page.heat.labels)
    which = f"the {shown} heaviest of {page.heat.paths:,} paths" if shown < page.heat.paths else f"all {shown} paths"
    lead = f"Π = J Jᵀ, entry by entry, for {which}: blue above 0, orange below. Point at a square for its two paths."
    return section("paths", "Path by path", lead, slot("heat"))


def _dynamics(page: Page) -> str:
    d = page.dynamics
    if d is None or not d.curves:
        return ""
    figures = f'<div class="strip inner">{"".join(map(_quantity, d.quantities))}</div>' if d.quantities else ""
    return section("dynamics", "Training dynamics", escape(d.note), figures + slot("loss"))


def _formulas(formulas: tuple[Formula, ...]) -> str:
    if not formulas:
        return ""
    items = "".join(
        f"<h3>{escape(f.name)}</h3><pre>{escape(f.text)}</pre>"
        + (f"<details><summary>LaTeX</summary><pre>{escape(f.latex)}</pre></details>" if f.latex else "")
        for f in formulas
    )
    return section("symbolic", "Symbolic", "", items)


def _analyses(analyses: tuple[Table, ...]) -> str:
    tables = "".join(f"<div><h3>{escape(a.title)}</h3>{_about(a.note)}{table_html(a)}</div>" for a in analyses)
    return section("analyses", "Analyses", "", f'<div class="cards">{tables}</div>') if tables else ""


def _about(note: str) -> str:
    return f'<p class="about">{escape(note)}</p>' if note else ""


def _tables(page: Page) -> str:
    parts = [(t, i) for t, i in ((page.totals, "totals"), (page.parameters, "parameters")) if t is not None]
    return "".join(section(name, table.title, escape(table.note), table_html(table)) for table, name in parts)


def table_html(table: Table) -> str:
    """A table that the page's script sorts by any column."""
    head = "".join(
        f"<th scope=col{_side(c)}><button type=button>{escape(c.title)}</button>{badge(c.status)}</th>" for c in table.columns
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_side(c)}{'' if cell.value is None else f' data-v={float(cell.value)!r}'}>{_cell(c, cell.text)}</td>"
            for c, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _side(column: Column) -> str:
    return " class=n" if column.number else ""


def _cell(column: Column, text: str) -> str:
    return badge(text) if column.title == "status" else escape(text)


def footer(provenance: tuple[tuple[str, str], ...]) -> str:
    """Where it comes from, and what the words mean."""
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in provenance)
    words = (
        "<b>exact</b>: the defined quantity, up to rounding. <b>estimated</b>: with its standard error. <b>approximate</b>: the "
        "definition simplifies here. <b>bound</b>: the true value lies on the side that is named."
    )
    return f"</main>\n<footer><dl>{facts}</dl><p>{words}</p></footer>"
