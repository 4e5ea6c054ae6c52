"""Diagnostics as text and as JSON."""

from __future__ import annotations

import json

from pkcompiler.diagnostics import Diagnostic, PkcError, Span
from pkcompiler.lang.library import check_files
from pkcompiler.render import render, summary


def test_the_sample_of_the_language(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-pass.pkc").write_text(
        'pass mine {\n  source = "me"\n  let R = pathes(edge = abs(theta))\n  score = grad(R, theta)\n}\n'
    )
    assert (
        render(check_files(["my-pass.pkc"]))
        == """error[PKC103]: unknown function 'pathes'
 --> my-pass.pkc:3:11
  |
3 |   let R = pathes(edge = abs(theta))
  |           ^^^^^^ not a function
  = help: did you mean 'paths'?
"""
    )


def _at(text: str, start: int, end: int, **more) -> str:
    return render([Diagnostic("PKC001", "m", Span("f", text, start, end), "here", **more)])


def test_carets_stand_under_tabs_wide_characters_and_long_lines() -> None:
    for text, word in (("\tab cd", "cd"), ("日本 cd", "cd"), ("x" * 500 + "cd" + "y" * 500, "cd"), ("a\r\ncd\r\n", "cd")):
        lines = _at(text, text.index(word), text.index(word) + 2).split("\n")
        wide = sum(ord(c) > 0x2E80 for c in lines[3])
        assert lines[3].index("cd") + wide == lines[4].index("^^")
        assert "^^^" not in lines[4]


def test_spans_over_lines_and_at_the_end() -> None:
    assert "^^^^ here" in _at("abcd\nefgh", 0, 9)
    assert "^ here" in _at("ab", 2, 2)
    assert "f:1:1" in _at("", 0, 0)
    assert render([Diagnostic("PKC601", "m", None, "", ("do it",))]) == "error[PKC601]: m\n  = help: do it\n"


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    shown = render([Diagnostic("PKC001", "\x1b[2J\x07", Span("f\x1b", "a\x1b[31mb\u202e", 0, 1), "\x9b", ("\x00",))])
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_colour_changes_nothing_else() -> None:
    import re

    found = [Diagnostic("PKC001", "m", Span("f", "ab", 0, 1), "l", ("n",), "warning")]
    assert re.sub(r"\x1b\[[0-9;]*m", "", render(found, colour=True)) == render(found)


def test_json_is_one_object_to_a_line() -> None:
    found = [
        Diagnostic("PKC001", "m", Span("f", "a\nbcd", 3, 5), "l", ("n",)),
        Diagnostic("PKC611", "x", None, "", ("y",), "warning"),
    ]
    first, second = (json.loads(line) for line in render(found, "json").splitlines())
    assert first == {
        "code": "PKC001",
        "severity": "error",
        "message": "m",
        "file": "f",
        "line": 2,
        "column": 2,
        "end_line": 2,
        "end_column": 4,
        "label": "l",
        "help": ["n"],
    }
    assert second == {"code": "PKC611", "severity": "warning", "message": "x", "label": "", "help": ["y"]}
    assert summary(found) == "1 error, 1 warning"
    assert summary([]) == "" and render([]) == ""


def test_an_error_as_text_says_what_to_do() -> None:
    error = PkcError(Diagnostic("PKC001", "bad", notes=("do this", "or that")), Diagnostic("PKC002", "worse", notes=("again",)))
    assert str(error) == "error[PKC001]: bad\n  help: do this\n  help: or that\nerror[PKC002]: worse\n  help: again"
