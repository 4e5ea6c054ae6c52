"""Whatever the bytes: diagnostics, never a traceback, and always with a code, a place and a note."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkcompiler.codes import CODES
from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.lang.ast import Document
from pkcompiler.lang.library import check_files, find_analysis, find_pass, find_schedule, list_analyses, list_passes
from pkcompiler.lang.syntax.format import print_document
from pkcompiler.render import render
from tests.lang.lang_trees import documents, near_texts

QUIET = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _sound(diagnostics: list[Diagnostic]) -> None:
    for found in diagnostics:
        assert found.code in CODES
        assert found.message and found.notes and found.notes[-1]
        assert found.span is None or 0 <= found.span.start <= found.span.end <= len(found.span.text)
    for form in ("text", "json"):
        shown = render(diagnostics, form)
        assert shown.endswith("\n") or not diagnostics
        assert all(c.isprintable() or c == "\n" for c in shown) or form == "json"


def _check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sound(check_files([str(path)]))


@QUIET
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    _check(tmp_path / "a.pkc", content)


@QUIET
@given(text=near_texts)
def test_texts_that_nearly_parse(tmp_path: Path, text: str) -> None:
    _check(tmp_path / "a.pkc", text.encode())


@QUIET
@given(document=documents)
def test_sound_syntax_with_any_words(tmp_path: Path, document: Document) -> None:
    _check(tmp_path / "a.pkc", print_document(document).encode())


@QUIET
@given(st.data())
def test_damaged_passes(tmp_path: Path, data: st.DataObject) -> None:
    shipped = [found.text for found in (*list_passes(), *list_analyses())]
    files = [(Path(__file__).parents[1] / "text" / name).read_text() for name in ("good.pkc", "analysis-good.pkc")]
    text = data.draw(st.sampled_from(shipped + files))
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 6))
    put = data.draw(st.sampled_from(["", "{", "}", "(", ")", "=", '"', "theta", "grad(", "\0", "é", "1e9999", "paths", "#", "\n"]))
    _check(tmp_path / "a.pkc", (text[:at] + put + text[at + cut :]).encode())


@QUIET
@given(st.text(max_size=80))
def test_any_name_of_a_pass_or_schedule(text: str) -> None:
    for find in (find_pass, find_schedule, find_analysis):
        try:
            find(text)
        except PkcError as error:
            _sound(list(error.diagnostics))


@pytest.mark.parametrize("make", ["missing", "folder", "large", "binary", "utf16", "empty", "bom", "deep"])
def test_odd_files(tmp_path: Path, make: str) -> None:
    path = tmp_path / "odd.pkc"
    match make:
        case "folder":
            path.mkdir()
        case "large":
            path.write_bytes(b"a = 1\n" * 400_000)
        case "binary":
            path.write_bytes(bytes(range(256)) * 10)
        case "utf16":
            path.write_text("pass a { score = theta }", encoding="utf-16")
        case "empty":
            path.write_bytes(b"")
        case "bom":
            path.write_bytes(b'\xef\xbb\xbfpass a {\r\n  source = "x"\r\n  score = abs(theta)\r\n}\r\n')
        case "deep":
            path.write_text("pass a { score = " + "(" * 10_000 + "theta" + ")" * 10_000 + "}")
    found = check_files([str(path)])
    _sound(found)
    codes = {"missing": "PKC611", "folder": "PKC611", "large": "PKC006", "binary": "PKC008", "utf16": "PKC008", "deep": "PKC005"}
    assert [d.code for d in found] == ([codes[make]] if make in codes else [])


def test_a_chain_of_lets_is_checked_without_being_expanded() -> None:
    chain = "\n".join(f"let a{i} = a{i - 1} * a{i - 1}" for i in range(1, 90))
    found = find_pass(f'pass a {{ source = "x" let a0 = theta\n{chain}\nscore = a89 }}')
    assert len(found.lets) == 90
    layers = f"let a0 = max(abs(theta), over = layer)\n{chain}"
    assert find_analysis(f'analysis a {{ source = "x" {layers}\nreport "a" = a89 }}').reports[0].spread


@pytest.mark.parametrize("lets", ["let R = R", "let A = B let B = A let R = A + B", "let R = abs(R)", "let R = paths(edge = R)"])
def test_names_that_stand_for_themselves_are_unknown(tmp_path: Path, lets: str) -> None:
    """They end, and are said where they stand."""
    for kind, rest in (("pass", "score = abs(grad(R, theta)) * R"), ("analysis", 'report "a" = R')):
        (tmp_path / "a.pkc").write_text(f'{kind} a {{ source = "x" {lets}\n{rest} }}')
        found = check_files([str(tmp_path / "a.pkc")])
        _sound(found)
        assert found[0].code == "PKC104", found
