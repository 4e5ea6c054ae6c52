"""docs/language.md and docs/theory.md: the tables hold exactly the words and codes that there are, and sections referred to exist.

A row that is missing or stale is named in the failure, as the line that belongs on the page.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pkcompiler.codes import CODES
from pkcompiler.diagnostics import Diagnostic
from pkcompiler.lang.check.document import check
from pkcompiler.lang.functions.paths import DEFAULTS
from pkcompiler.lang.library import find_pass, library_names
from pkcompiler.lang.rows import Word
from pkcompiler.lang.syntax.format import format_text
from pkcompiler.lang.syntax.parse import parse
from pkcompiler.lang.words import WORDS, rows

ROOT = Path(__file__).parent.parent
LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
SOURCES = [f for folder in ("pkcompiler", "passes", "examples", "benchmarks", "tests") for f in (ROOT / folder).rglob("*")]


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next of its rank or higher."""
    found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^#{{1,2}} |\Z)", page, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no section '{title}'"
    return found[2]


def table(text: str) -> list[str]:
    """The rows of a text's tables, without their heads."""
    return [line for line in re.sub(r"^\|.*\|\n\|[-|]+\|$", "", text, flags=re.MULTILINE).split("\n") if line.startswith("|")]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```pkc[^\n]*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def findings(text: str) -> list[Diagnostic]:
    document, syntax = parse(text, "<page>")
    return [*syntax, *check(document, find_pass).diagnostics]


def what(word: Word) -> str:
    role = "setting" if word.role == "labelled" else word.role
    return role if not word.of else f"{role} of {', '.join(word.of)}"


def test_the_table_of_words_is_that_of_the_language() -> None:
    expected = [f"| `{w.name}` | {what(w)} | {f'`{w.default}`' if w.default else ''} | {w.doc} |" for w in WORDS if w.due]
    assert table(section(LANGUAGE, "Words")) == expected


def test_words_of_later_versions_are_named_as_such() -> None:
    expected = [f"| `{w.name}` | {what(w)} | {w.doc} |" for w in WORDS if not w.due]
    assert table(section(LANGUAGE, "Known, not in this version")) == expected


def test_codes_of_the_language_are_on_the_page() -> None:
    expected = [f"| {code} | {text} |" for code, text in CODES.items() if code < "PKC050" or "PKC100" < code < "PKC200"]
    assert table(section(LANGUAGE, "Error codes")) == expected


def test_the_arguments_of_paths_have_their_defaults_and_values() -> None:
    found = {row.split("|")[1].strip(" `"): row.split("|") for row in table(section(LANGUAGE, "`paths(...)`"))}
    assert {name: cells[2].strip(" `") for name, cells in found.items()} == dict(DEFAULTS)
    for name, cells in found.items():
        assert [w.name for w in rows("value", name) if w.due and f"`{w.name}`" not in cells[3]] == []
        assert [w.name for w in rows("value", name) if not w.due and f"`{w.name}`" in cells[3]] == []


@pytest.mark.parametrize("text", blocks(LANGUAGE), ids=lambda t: " ".join(t.split()[:2]))
def test_blocks_are_checked_without_a_finding_and_laid_out(text: str) -> None:
    assert [str(d) for d in findings(text)] == []
    assert format_text(text, "<page>") == text


def test_the_page_has_blocks_and_a_wrong_one_is_noticed() -> None:
    assert len(blocks(LANGUAGE)) >= 3
    assert [d.code for d in findings("pass a {\n  source = 1\n  score = abs(thta)\n}\n")] == ["PKC105", "PKC104"]


def test_every_pass_of_the_library_has_its_row_in_the_theory() -> None:
    named = {row.split("`")[1] for row in table(section(THEORY, "5. Criteria"))}
    assert named == set(library_names())
    text = section(THEORY, "5. Criteria")
    numbers = {name: re.findall(r"arXiv:\d+\.\d+", find_pass(name).source) for name in library_names()}
    assert [name for name, found in numbers.items() if any(number not in text for number in found)] == []


def test_sections_that_are_referred_to_exist() -> None:
    sections = set(re.findall(r"^## (\d+)\. ", THEORY, re.MULTILINE))
    assert sections == {str(n) for n in range(1, 9)}
    for file in (f for f in SOURCES if f.suffix in (".py", ".pkc", ".md") and f != Path(__file__)):
        text = file.read_text(encoding="utf-8")
        assert "THEORY" not in text and "LANGUAGE," not in text, f"{file} names no page of the project"
        for numbers in re.findall(r"docs/theory\.md,?\s+sections?\s+([\d, and]*\d)", text):
            assert set(re.findall(r"\d+", numbers)) <= sections, file
        for title in re.findall(r'docs/language\.md, "([^"]+)"', text):
            assert f"## {title}\n" in LANGUAGE, file
