"""Laws of the canonical layout: parse(print(tree)) == tree, print twice is print once, no comment is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.ast import Document
from pkcompiler.lang.syntax.format import format_text, print_document, print_expr
from pkcompiler.lang.syntax.parse import parse
from tests.lang.lang_trees import documents, near_texts


@settings(max_examples=150, deadline=None)
@given(documents)
def test_printing_and_parsing_are_inverse(document: Document) -> None:
    text = print_document(document)
    again, diagnostics = parse(text)
    assert diagnostics == []
    assert again == document
    assert format_text(text) == text


def _scatter(text: str, comments: list[tuple[int, str]]) -> str:
    """Comments and odd spacing put between the tokens of a canonical text."""
    lines = text.split("\n")
    for at, comment in comments:
        where = at % len(lines)
        lines[where] = lines[where] + f"   # {comment}\n\n\n"
    return "\n".join(lines)


@settings(max_examples=80, deadline=None)
@given(documents, st.lists(st.tuples(st.integers(0, 50), st.from_regex(r"[a-z{}=\"]{1,6}", fullmatch=True)), max_size=5))
def test_formatting_keeps_comments_and_meaning_and_is_idempotent(document: Document, comments: list[tuple[int, str]]) -> None:
    text = _scatter(print_document(document), comments)
    once = format_text(text)
    assert format_text(once) == once
    assert parse(once)[0] == document
    kept = sorted(c.value.rstrip() for c in parse(once)[0].comments)
    assert kept == sorted(c.value.rstrip() for c in parse(text)[0].comments)
    assert len(kept) == len(comments)


@settings(max_examples=150, deadline=None)
@given(near_texts)
def test_whatever_parses_formats_to_the_same_tree(text: str) -> None:
    document, diagnostics = parse(text)
    if diagnostics:
        with pytest.raises(PkcError):
            format_text(text)
        return
    once = format_text(text)
    assert parse(once)[0] == document
    assert format_text(once) == once
    assert len(parse(once)[0].comments) == len(document.comments)


def test_layout() -> None:
    text = """# head

pass px{source="a"   # where from
let w=theta^2


# why
let reach=paths(edge=1,   # inside
  input=data^2)
score=w*grad(R,w)
# last
}
prune f{
} # tail
schedule s { density=10% except="stem.*",bias floor "*.fc.weight"=20% floor "a"=1 }"""
    assert (
        format_text(text)
        == """# head

pass px {
  source = "a"  # where from
  let w  = theta^2

  # why
  # inside
  let reach = paths(edge = 1, input = data^2)
  score     = w * grad(R, w)
  # last
}

prune f {
}  # tail

schedule s {
  density = 10%
  except  = "stem.*", bias
  floor "*.fc.weight" = 20%
  floor "a"           = 1
}
"""
    )


def test_long_calls_and_lists_are_broken() -> None:
    names = [f"argument{i}" for i in range(12)]
    broken = format_text(f"a = f({', '.join(names)})")
    assert broken == "a = f(\n" + "".join(f"  {n},\n" for n in names) + ")\n"
    listed = format_text("a = " + ", ".join(f'"{n}"' for n in names))
    assert listed.count("\n") == 12
    assert all(len(line) <= 100 for line in (broken + listed).split("\n"))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("-theta^2", "-theta^2"),
        ("(-theta)^2", "(-theta)^2"),
        ("a^(b^c)", "a^b^c"),
        ("(a^b)^c", "(a^b)^c"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("a*(b/c)", "a * (b / c)"),
        ("a^-2", "a^-2"),
        ("2*-a", "2 * -a"),
        ("-(a*b)", "-(a * b)"),
        ("a-b - c", "a-b - c"),
        (".5%", "0.5%"),
        ("f(1,x = 2..3,)", "f(1, x = 2..3)"),
    ],
)
def test_expressions_print_with_the_fewest_parentheses(text: str, printed: str) -> None:
    setting = parse(f"x = {text}")[0].items[0]
    assert print_expr(setting.values[0]) == printed


def test_empty_and_comment_only_files() -> None:
    assert format_text("") == ""
    assert format_text("\n\n  # a\n\n\n# b\n") == "# a\n\n# b\n"
    assert re.fullmatch(r"# a\n", format_text("\ufeff# a".removeprefix("\ufeff")))
