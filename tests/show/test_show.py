"""Pages and plots: laws of the drawing, bytes that repeat, nothing fetched, nothing injected, nothing where nothing is known."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from cli_support import home, pkc, pruned  # noqa: F401  (fixtures)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pkcompiler import PkcError, analyze
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.parse import parse_graph
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.markup import Cell, Column, Table, fragment, table
from pkcompiler.measured import Measured, not_predicted
from pkcompiler.show.from_reports import page_of
from pkcompiler.show.html import html_of, write_html
from pkcompiler.show.nodes import Drawing, Node, fold
from pkcompiler.show.numbers import power
from pkcompiler.show.page import Page
from pkcompiler.show.place import HEIGHT, WIDTH, place, rounded
from pkcompiler.show.plots import write_plots
from pkcompiler.show.results import quantity
from tests.show.show_pages import HARM, SETTINGS, Residual, graph_and_tensors, whole_page


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return x + self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)


@pytest.fixture(scope="module")
def page() -> Page:
    return whole_page()


@pytest.fixture(scope="module")
def harmed() -> str:
    return html_of(whole_page(HARM))


# the drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [lambda: (Residual(), (1, 1, 8, 8)), lambda: (nn.Sequential(Attention(), Attention()), (1, 5, 8))]
)
def test_every_operation_lies_in_one_node_and_edges_lead_down(build) -> None:
    model, shape = build()
    graph = capture(model.eval(), torch.randn(shape)).graph
    drawing = fold(graph)
    assert sorted(name for node in drawing.nodes for name in node.ops) == sorted(op.name for op in graph.ops)
    assert [node.id for node in drawing.nodes] == list(range(len(drawing.nodes)))
    assert all(a < b for a, b in drawing.edges)
    assert {p for node in drawing.nodes for p in node.parameters} == {slot.name for slot in graph.parameters}
    home_of = {name: node.id for node in drawing.nodes for name in node.ops} | {v.name: i for i, v in enumerate(graph.inputs)}
    wanted = {(home_of[x], home_of[op.name]) for op in graph.ops for x in op.inputs}
    assert set(drawing.edges) == {(a, b) for a, b in wanted if a != b}


def test_what_belongs_together_is_one_node() -> None:
    graph, _ = graph_and_tensors()
    drawing = fold(graph)
    titles = {node.title: node for node in drawing.nodes}
    assert titles["stem.0"].detail == "conv 3×3, 4 ch · norm · relu"
    assert titles["stem.0"].parameters == ("stem.0.weight", "stem.1.weight", "stem.1.bias")
    assert titles["second"].detail == "conv 3×3 /2, 6 ch · relu"
    assert [node.kind for node in drawing.nodes].count("merge") == 2
    assert [node.title for node in drawing.nodes if node.output] == ["head"]


def test_attention_is_one_node() -> None:
    graph = capture(Attention().eval(), torch.randn(1, 5, 8)).graph
    assert [node.title for node in fold(graph).nodes if "softmax" in node.detail] != []
    assert len(fold(graph).nodes) == 6  # input, norm, qkv, attention, out, add


def test_groups_that_would_form_a_cycle_stay_apart() -> None:
    """Two products of one module each, crossing over to the other's input: contracted, they would wait for one another."""
    graph = parse_graph("""path.graph @g(%x: f32[B, 4]) -> f32[B, 4] {
  %a1: f32[B, 4] = product %x, %x {kind = mul} // a g.py:1
  %b1: f32[B, 4] = product %x, %x {kind = mul} // b g.py:1
  %a2: f32[B, 4] = product %a1, %b1 {kind = mul} // a g.py:1
  %b2: f32[B, 4] = product %b1, %a1 {kind = mul} // b g.py:1
  %y: f32[B, 4] = merge %a2, %b2 {signs = [1, 1]}
  return %y
}
""")
    drawing = fold(graph)
    assert sorted(name for node in drawing.nodes for name in node.ops) == ["a1", "a2", "b1", "b2", "y"]
    assert all(a < b for a, b in drawing.edges)


@st.composite
def drawings(draw: st.DrawFn) -> Drawing:
    """Any acyclic graph: most nodes read the one before, some read others further up."""
    count = draw(st.integers(1, 40))
    pairs = set()
    for b in range(1, count):
        pairs |= {(a, b) for a in draw(st.sets(st.integers(max(0, b - 9), b - 1), max_size=3))}
    nodes = tuple(Node(i, "other", f"n{i}", "", (), (), "", "", "", False) for i in range(count))
    return Drawing(nodes, tuple(sorted(pairs)))


@given(drawings())
def test_boxes_do_not_overlap_and_edges_arrive(drawing: Drawing) -> None:
    placed = place(drawing)
    for i, (x, y) in enumerate(placed.centres):
        assert WIDTH / 2 <= x <= placed.width - WIDTH / 2
        assert HEIGHT / 2 <= y <= placed.height - HEIGHT / 2
        assert all(abs(x - u) >= WIDTH or abs(y - v) >= HEIGHT for u, v in placed.centres[:i])
    for (a, b), route in zip(drawing.edges, placed.routes, strict=True):
        for node, (x, y) in ((a, route[0]), (b, route[-1])):
            u, v = placed.centres[node]
            assert abs(x - u) <= WIDTH / 2 and abs(y - v) <= HEIGHT / 2
        assert all(0 <= x <= placed.width and 0 <= y <= placed.height for x, y in rounded(route))
        assert all(x == u or y == v for (x, y), (u, v) in itertools.pairwise(route))


@given(drawings())
def test_edges_pass_beside_boxes(drawing: Drawing) -> None:
    placed = place(drawing)
    for edge, route in zip(drawing.edges, placed.routes, strict=True):
        for i, centre in enumerate(placed.centres):
            if i not in edge:
                assert not any(crosses(centre, p, q) for p, q in itertools.pairwise(route)), (edge, i)


def crosses(centre: tuple[float, float], p: tuple[float, float], q: tuple[float, float]) -> bool:
    """Whether a horizontal or vertical segment enters a box."""
    (x, y), low, high = centre, [min(a, b) for a, b in zip(p, q, strict=True)], [max(a, b) for a, b in zip(p, q, strict=True)]
    beside = high[0] <= x - WIDTH / 2 or low[0] >= x + WIDTH / 2 or high[1] <= y - HEIGHT / 2 or low[1] >= y + HEIGHT / 2
    return not beside


# the page -------------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """The elements of a page, and what its attributes point at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.points: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.points += [value or "" for key, value in attrs if key in ("src", "href", "action", "data")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]


def test_a_page_is_the_same_twice(page: Page, tmp_path: Path) -> None:
    write_html(tmp_path / "a.html", page)
    write_html(tmp_path / "b.html", whole_page())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_points_nowhere_and_forbids_the_network(page: Page) -> None:
    text = html_of(page)
    assert Reader(text).points == ["data:,"]
    assert "default-src 'none'" in text
    assert len(text.encode()) < 2_500_000


def test_names_are_escaped_everywhere(page: Page, harmed: str) -> None:
    assert "<script>alert" not in harmed and "<img src=x" not in harmed
    plain, read = Reader(html_of(page)), Reader(harmed)
    assert read.tags == plain.tags
    assert read.handlers == []
    assert harmed.count("&lt;/script&gt;&lt;script&gt;alert(1)") > 5


def test_missing_parts_leave_no_hole(page: Page) -> None:
    none = replace(page, drawing=None, layers=(), spectrum=None, dynamics=None, formulas=(), analyses=(), totals=None)
    text = html_of(none)
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == ["parameters"]
    assert 'id="figure-' not in text
    assert re.findall(r'<section id="(\w+)"', html_of(page)) == [
        *("network", "layers", "kernel", "dynamics", "symbolic", "analyses", "totals", "parameters")
    ]


def test_figures_say_what_they_are(page: Page) -> None:
    text = html_of(page)
    strip = text[text.index('class="strip"') : text.index("</section>", text.index('class="strip"'))]
    assert strip.count("data-status=") == strip.count('class="value"') == len(page.headline)
    assert page.headline[0].label == "parameters"
    assert [q.label for q in page.headline[-2:]] == ["Path Kernel trace", "effective rank"]


def test_quantities_in_words() -> None:
    assert quantity("a", Measured(2.0, 10, 0.5, "estimated")).value == "2,048"
    assert quantity("a", Measured(2.0, 10, 0.5, "estimated")).status == "estimated ± 25%"
    assert quantity("a", Measured(1.0, 4000)).value == power(4000 * 0.30102999566)
    assert quantity("a", Measured(-3.0)).value == "-3"
    assert quantity("a", not_predicted("why")).status == "not predicted"
    assert (power(None), power(4.9999999), power(20.99999999), power(-5)) == ("0", "100,000", "1.000 × 10²¹", "1.000 × 10⁻⁵")


def test_the_page_of_a_report_alone() -> None:
    torch.manual_seed(0)
    report = analyze(nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3))
    text = html_of(page_of(report))
    assert "sum of tau" in text and "No warnings." in text


def test_unwritable_files_and_missing_libraries(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PkcError, match="PKC634"):
        write_html(tmp_path / "no" / "page.html", page)
    (tmp_path / "file").write_text("")
    with pytest.raises(PkcError, match="PKC634"):
        write_plots(tmp_path / "file", page)
    with pytest.raises(PkcError, match=r"PKC633.*'gif'"):
        write_plots(tmp_path, page, ("gif",))
    monkeypatch.setattr("pkcompiler.show.extra.find_spec", lambda name: None)
    with pytest.raises(PkcError, match=r"PKC632(.|\n)*pkcompiler\[plot\]"):
        html_of(page)
    with pytest.raises(PkcError, match="PKC632"):
        write_plots(tmp_path, page)


def test_plots_are_the_same_twice(page: Page, tmp_path: Path) -> None:
    one = write_plots(tmp_path / "one", page, ("png", "svg"))
    two = write_plots(tmp_path / "two", page, ("png", "svg"))
    assert [path.name for path in one] == [f"{n}.{f}" for n in ("network", "layers", "spectrum", "loss") for f in ("png", "svg")]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_names_that_look_like_formulas_are_plotted_as_they_are(page: Page, tmp_path: Path) -> None:
    layers = tuple(replace(layer, name="$x_{") for layer in page.layers)
    assert len(write_plots(tmp_path, replace(page, layers=layers), ("svg",))) == 4


# notebooks ------------------------------------------------------------------------------------------------------------


def test_things_show_themselves_in_notebooks() -> None:
    graph, tensors = graph_and_tensors()
    report = analyze(Residual().eval(), torch.randn(1, 1, 8, 8))
    for thing, words in (
        (report, ("Residual", "stem.0.weight", "squared path L2 norm")),
        (graph, ("path graph", "operations", "stem.0", "conv")),
        (kernel_of(graph, tensors, SETTINGS), ("Path Kernel", "nothing masked", "exact")),
    ):
        shown = thing._repr_html_()
        assert all(word in shown for word in words)
        assert "script" not in Reader(shown).tags and Reader(shown).points == []


def test_fragments_escape() -> None:
    harm = Table(HARM, (Column(HARM, True, HARM),), ((Cell(HARM),), (Cell("b"),)))
    shown = fragment(HARM, HARM, [(HARM, HARM, HARM)], table(harm, 1))
    assert "<script" not in shown and "<img" not in shown
    assert "and 1 more" in shown


# the commands ---------------------------------------------------------------------------------------------------------


def test_analyze_writes_a_page_and_plots(home: Path) -> None:  # noqa: F811
    found = pkc("analyze", "mlp.py", "--html", "page.html", "--plot", "plots", "--eigenvalues", "4")
    assert found.exit_code == 0
    text = (home / "page.html").read_text()
    assert "<h1>mlp</h1>" in text and 'id="figure-eigenvalues"' in text
    assert "4 largest of" in text
    assert (home / "plots" / "spectrum.svg").is_file() and (home / "plots" / "network.png").is_file()
    assert pkc("analyze", "mlp.py", "--html", "again.html", "--eigenvalues", "0").exit_code == 0
    assert 'id="figure-eigenvalues"' not in (home / "again.html").read_text()


def test_a_library_is_missed_before_anything_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("pkcompiler.show.extra.find_spec", lambda name: None)
    found = pkc("analyze", "mlp.py", "--html", "page.html")
    assert found.exit_code == 1 and "PKC632" in found.stderr and found.stdout == ""
    assert not (home / "page.html").exists()


def test_compare_and_analyze_of_artifacts(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(pruned)
    assert pkc("compare", "a", "b", "--html", "c.html").exit_code == 0
    text = (pruned / "c.html").read_text()
    assert 'id="figure-sides"' in text and 'id="figure-overlap"' in text and "Jaccard" in text
    assert pkc("analyze", "a", "--html", "a.html").exit_code == 0
    assert "under masks" in (pruned / "a.html").read_text()
