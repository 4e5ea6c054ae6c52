"""Analyses as declarations: printing and checking are inverse, finding, explaining, the words of reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.ast import Analysis, Binary, Block, Call, Expr, Labelled, Name, Number, Setting, Text, Unary
from pkcompiler.lang.explain.glossary import GLOSSARY
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import analysis_names, check_files, find_analysis, find_pass, find_schedule, list_analyses
from pkcompiler.lang.syntax.format import format_text, print_expr, print_item

ROOT = Path(__file__).parents[2]
SHIPPED = {"collapse", "conditioning", "dynamics", "generalisation", "ntk", "path-kernel", "path-norms"}
MINE = 'analysis mine {\n  source = "a test"\n  report "kept" = sum(mask, over = param)\n}\n'
PASS = 'pass flow {\n  source = "a test"\n  score  = abs(theta)\n}\n'


def _error(call, *args):
    with pytest.raises(PkcError) as caught:
        call(*args)
    return caught.value.diagnostics


def _call(function: str, *args: Expr, **kwargs: Expr) -> Call:
    return Call(function, args, tuple(kwargs.items()))


LETS = {
    "R": _call("paths", edge=Binary("^", Name("theta"), Number(2)), pools=Name("sum")),
    "G": _call("gram", Name("R")),
    "T": _call("ntk"),
}
_plain = st.one_of(st.integers(0, 99), st.floats(0, 1e9, allow_nan=False)).map(Number)
_figures = st.sampled_from(["trace", "frobenius", "effective_rank", "stable_rank"]).map(lambda f: _call(f, Name("G")))
_on_data = st.sampled_from(["trace", "condition", "alignment", "stable_step", "bound"]).map(lambda f: _call(f, Name("T")))
_leaves = {
    "number": st.one_of(_plain, _figures, _on_data, st.just(Name("R")), st.just(_call("predicted_trace"))),
    "param": st.sampled_from([Name("theta"), Name("mask"), _call("diagonal", Name("G"))]),
    "rank": st.integers(1, 20).map(lambda k: _call("eigenvalues", Name("G"), Number(k))),
    "step": st.integers(1, 20).map(lambda k: _call("dynamics", Name("T"), lr=Number(0.5), steps=Number(k))),
}


def _grown(kind: str) -> st.SearchStrategy[Expr]:
    """Well-kinded expressions of one kind: among their own, with numbers, under functions."""

    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return st.one_of(
            st.builds(Unary, st.just("-"), inner),
            st.builds(Binary, st.sampled_from("+-*/"), inner, inner),
            st.builds(Binary, st.sampled_from("+-*/^"), inner, _leaves["number"]),
            st.builds(lambda f, e: _call(f, e), st.sampled_from(["abs", "sqrt", "exp", "log", "sign"]), inner),
        )

    return st.recursive(_leaves[kind], grow, max_leaves=6)


def _reduced(kind: str) -> st.SearchStrategy[Expr]:
    return st.builds(lambda f, e: _call(f, e, over=Name(kind)), st.sampled_from(["sum", "mean", "norm2", "max"]), _grown(kind))


_values = st.one_of(*(_grown(kind) for kind in _leaves), *(_reduced(kind) for kind in ("param", "rank", "step")))
_labels = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1, max_size=8).filter(str.strip)
_reports = st.lists(st.tuples(_labels, _values), min_size=1, max_size=4, unique_by=lambda r: r[0])


def _block(reports: list[tuple[str, Expr]]) -> Block:
    lets = tuple(Labelled(Name("let"), Name(name), (value,)) for name, value in LETS.items())
    lines = tuple(Labelled(Name("report"), Text(label), (value,)) for label, value in reports)
    return Block(Name("analysis"), Name("a"), (Setting(Name("source"), (Text("a test"),)), *lets, *lines))


@given(_reports)
@settings(max_examples=100, deadline=None)
def test_well_kinded_analyses_are_accepted_and_print_themselves(reports: list[tuple[str, Expr]]) -> None:
    text = print_item(_block(reports))
    found = find_analysis(text)
    assert found.text == text == format_text(text)
    assert [(line.label, line.value) for line in found.reports] == reports
    assert dict(found.lets) == LETS
    assert find_analysis(found.text) == found
    assert explain(text).startswith("a: an analysis")


@given(st.sampled_from(sorted(_leaves)), st.sampled_from(sorted(_leaves)), st.data())
@settings(max_examples=60, deadline=None)
def test_different_axes_never_combine(left: str, right: str, data: st.DataObject) -> None:
    one, other = data.draw(_leaves[left]), data.draw(_leaves[right])
    text = print_item(_block([("a", Binary("*", one, other))]))
    if left == right or "number" in (left, right):
        assert find_analysis(text)
    else:
        assert {d.code for d in _error(find_analysis, text)} == {"PKC111"}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_library_prints_itself_and_has_source_and_doc(name: str) -> None:
    text = (ROOT / "passes" / "analyze" / f"{name}.pkc").read_text()
    assert format_text(text) == text
    found = find_analysis(name)
    assert (found.name, found.text) == (name, text) and found.source and found.doc
    assert find_analysis(text) == found
    assert explain(name).startswith(f"{name}: an analysis, {found.doc}\n")
    assert all(line.label in explain(name) for line in found.reports)


def test_the_library_is_listed() -> None:
    assert set(analysis_names()) == SHIPPED == {a.name for a in list_analyses()}
    assert {a.name for a in list_analyses() if a.needs_data} == {"dynamics", "generalisation", "ntk"}
    assert check_files([str(p) for p in (ROOT / "passes" / "analyze").iterdir()]) == []


def test_kinds_and_needs_are_known_without_a_model() -> None:
    def only(report: str) -> Analysis:
        text = f'analysis a {{ let R = paths(edge = theta^2) let G = gram(R) let n = trace(G) report "a" = {report} }}'
        return find_analysis(text)

    kinds = {"R": set(), "diagonal(G)": {"param"}, "eigenvalues(G, 3)": {"rank"}, "density(G)": {"distribution"}}
    kinds |= {"diagonal(ntk())": {"sample", "output"}, "collapse(snip)": {"layer"}, "margin(output)": {"sample"}}
    kinds |= {"dynamics(ntk(), lr = 1, steps = 3)": {"step"}, "sum(output, over = sample)": {"output"}}
    assert {text: set(only(text).reports[0].axes) for text in kinds} == kinds
    assert [only("R").needs_data, only("R").needs_model] == [False, False]
    assert [only("predicted_trace()").needs_data, only("predicted_trace()").needs_model] == [False, True]
    assert [only("collapse(snip)").needs_data, only("collapse(synflow)").needs_data] == [True, False]
    assert only("bound(frozen(ntk()))").needs_data
    spread = {"max(theta, over = layer)": True, "theta": False, "2 * n * sum(mask, over = layer)": True, "n * theta": False}
    spread |= {"abs(mean(theta, over = layer)) + mask": False, "diagonal(G) / n": False}
    assert {text: only(text).reports[0].spread for text in spread} == spread


def test_names_paths_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pkc").write_text(MINE)
    own = MINE.replace("mine", "other").replace("sum(mask, over = param)", "collapse(flow)")
    (tmp_path / "both.pkc").write_text(PASS + MINE + own)
    assert find_analysis("mine.pkc") == find_analysis("./mine.pkc") == find_analysis(MINE)
    other = find_analysis("both.pkc:other")
    assert [name for name, _ in other.passes] == ["flow"] and other.passes[0][1] == find_pass("both.pkc")
    assert _error(find_analysis, "both.pkc")[0].notes[-1] == "pick one: both.pkc:mine, both.pkc:other"
    assert "did you mean 'both.pkc:other'" in _error(find_analysis, "both.pkc:othr")[0].notes[-1]
    assert "did you mean 'path-norms'" in _error(find_analysis, "path-norm")[0].notes[-1]
    assert "'snip' is a pass" in _error(find_analysis, "snip")[0].notes[-1]
    for find in (find_pass, find_schedule):
        assert "run_analysis(model, x, 'mine.pkc')" in _error(find, "mine.pkc")[0].notes[-1]
    assert "prune(model, x, 'the text', " in _error(find_analysis, PASS)[0].notes[-1]
    assert explain("mine.pkc").startswith("mine: an analysis")
    assert explain("both.pkc").startswith("flow: a pass")


def test_a_pass_of_another_file_is_found_beside_the_analysis(tmp_path: Path) -> None:
    (tmp_path / "flow.pkc").write_text(PASS)
    path = tmp_path / "a.pkc"
    path.write_text('analysis a {\n  source = "a test"\n  report "c" = collapse("./flow.pkc")\n}\n')
    assert check_files([str(path)]) == []
    assert find_analysis(str(path)).passes[0][1].name == "flow"
    (tmp_path / "flow.pkc").write_text(PASS.replace("abs(theta)", "abs(thet)"))
    assert [(d.code, d.span.file) for d in check_files([str(path)])] == [("PKC117", str(path))]


def test_operators_are_shown_as_what_they_are() -> None:
    text = explain("path-kernel")
    for line in ("R = sum over paths p of v_p^2", "G = J^T J of the paths of R", "diagonal(G) / trace(G)"):
        assert line in text
    assert "summed over its entries" in text and print_expr(LETS["R"]) not in text.split("analysis path-kernel {")[0]


def test_every_warning_of_a_report_is_explained() -> None:
    source = (ROOT / "pkcompiler" / "report" / "remarks.py").read_text()
    listed = re.search(r'"""``kind``: (.*?)\. ``subject``', source, re.DOTALL)
    assert listed is not None
    kinds = re.findall(r"``([a-z-]+)``", listed[1])
    assert len(kinds) == 10
    for kind in kinds:
        assert "a word of reports" in explain(kind)


def test_words_of_reports_name_a_section_of_the_theory() -> None:
    theory = (ROOT / "docs" / "theory.md").read_text()
    assert len({t.name for t in GLOSSARY}) == len(GLOSSARY)
    for term in GLOSSARY:
        assert f"\n## {term.section}. " in theory
        assert f"docs/theory.md, section {term.section}" in explain(term.name)
    assert "function" in explain("frozen") and "word of reports" in explain("frozen")
    assert explain("r-1") == explain("R_1") and "did you mean 'pkc explain tau'" in _error(explain, "taus")[0].notes[-1]
