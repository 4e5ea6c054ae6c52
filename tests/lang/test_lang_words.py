"""The word table against itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkcompiler.lang import words
from pkcompiler.lang.check.stage import TARGETS
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.library import find_analysis, find_pass, find_schedule, find_study
from pkcompiler.lang.rows import suggest
from pkcompiler.lang.syntax.parse import parse


def test_no_word_stands_twice_in_one_place() -> None:
    keys = [(w.name, w.role, place) for w in words.WORDS for place in (w.of or ("",))]
    assert len(keys) == len(set(keys))


def test_rows_are_whole() -> None:
    for row in words.WORDS:
        assert row.role in ("block", "setting", "labelled", "function", "argument", "name", "value")
        assert row.doc and "\n" not in row.doc
        assert row.of or row.role in ("function", "name")
        assert row.example or row.role in ("argument", "name", "value")


def test_values_belong_to_settings_or_arguments() -> None:
    owners = {w.name for w in words.WORDS if w.role in ("setting", "argument", "labelled")} | {"data-option"}
    for row in words.rows("value"):
        assert set(row.of) <= owners


def test_defaults_are_values_of_their_own_setting() -> None:
    for row in words.WORDS:
        if row.kind in ("word", "curve") and row.role in ("setting", "argument") and row.default:
            assert words.find(row.default, "value", row.name) is not None


def test_examples_parse() -> None:
    for row in words.WORDS:
        if row.example:
            text = row.line if row.role in ("setting", "labelled", "block") else f"x = {row.example}"
            assert parse(text.replace("...", ""))[1] == [], row.name


STUDY = {
    "model": 'model = "a.py"',
    "train": 'train = "a.py:train"',
    "seeds": "seeds = 0",
    "passes": "passes = snip",
    "data": "data = digits",
}


def study(row: words.Word, folder: Path) -> str:
    """A study with this setting."""
    (folder / "two-stage.pkc").write_text("schedule s { prune synflow { density = 2% } }")
    targets = "" if row.name in ("density", "sparsity", "compression") else "density = 2%"
    rest = [line for name, line in STUDY.items() if name != row.name]
    return f"study s {{ {row.example}\n{targets}\n" + "\n".join(rest) + " }"


@pytest.mark.parametrize("row", [w for w in words.WORDS if "study" in w.of], ids=lambda w: w.name)
def test_examples_of_settings_of_a_study_are_accepted(row: words.Word, tmp_path: Path) -> None:
    assert find_study(study(row, tmp_path), folder=tmp_path)


@pytest.mark.parametrize("row", [w for w in words.WORDS if w.role in ("setting", "labelled") and w.due], ids=lambda w: w.name)
def test_examples_of_settings_are_accepted(row: words.Word) -> None:
    for place in row.of:
        if place == "pass":
            extra = "" if row.name == "score" else "score = abs(theta)"
            assert find_pass(f"pass a {{ {row.example}\n{extra} }}")
        elif place == "analysis":
            extra = "" if row.name == "report" else 'report "a" = 1'
            assert find_analysis(f"analysis a {{ {row.example}\n{extra} }}")
        elif place == "study":
            continue
        elif place == "schedule":
            assert find_schedule(f"schedule s {{ {row.example}\n prune snip {{ density = 2% }} }}")
        else:
            needs = {"swap": "regrow = abs(theta)", "rewind": "at = end"}
            extra = "" if row.name in TARGETS else f"density = 2%\n{needs.get(row.name, '')}"
            within = "prune snip { density = 2% }\n lower" if place == "lower" else "prune snip"
            assert find_schedule(f"schedule s {{ {within} {{ {row.example}\n{extra if place == 'prune' else ''} }} }}")


@pytest.mark.parametrize("row", [w for w in words.rows("function") if w.due], ids=lambda w: w.name)
def test_examples_of_functions_are_accepted(row: words.Word) -> None:
    each = ", output = each" if row.name == "sum" else ""
    lets = f"let R = paths(edge = theta^2{each}) let Q = paths(edge = theta^2) let G = gram(Q) let T = ntk() let F = frozen(T)"
    reduced = f"trace({row.example})" if row.name in ("gram", "ntk", "frozen") else row.example
    reduced = f"dot({reduced}, {reduced})" if row.example in ("mean(data)", "noise()") else reduced
    for line in (f'let E = theta report "a" = {reduced}', f'let E = output report "a" = {reduced}'):
        assert find_analysis(f"analysis a {{ {lets} {line} }}").reports


def test_arguments_of_paths_have_the_defaults_of_the_theory() -> None:
    assert dict(DEFAULTS) == {
        "edge": "abs(theta)",
        "input": "ones",
        "gates": "open",
        "pools": "max",
        "norms": "unit",
        "products": "pairs",
        "constants": "off",
        "output": "ones",
    }


def test_suggestions() -> None:
    assert suggest("pathes", ["paths", "grad"]) == "paths"
    assert suggest("kth-le", ["kth_le"]) == "kth_le"
    assert suggest("zzz", ["paths", "grad"]) == ""


@pytest.mark.parametrize(("typed", "name"), [("kth-le", "kth_le"), ("per-class", "per_class"), ("synflow_l2", "synflow-l2")])
def test_hyphens_and_underscores_are_the_same_to_explain(typed: str, name: str) -> None:
    assert explain(typed) == explain(name)


def test_a_word_with_several_meanings_is_explained_with_all() -> None:
    assert explain("data").count("\ndata: ") == 2
