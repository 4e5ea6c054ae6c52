"""The grammar and the parser: shapes, precedence, bounds, recovery."""

from __future__ import annotations

import pytest
from lark import Lark

from pkcompiler import resources
from pkcompiler.diagnostics import position
from pkcompiler.lang.ast import Binary, Block, Call, Labelled, Name, Number, Range, Ratio, Setting, Text, Unary
from pkcompiler.lang.syntax.parse import parse


def _value(text: str):
    document, diagnostics = parse(f"x = {text}")
    assert diagnostics == []
    return document.items[0].values[0]


def test_the_grammar_is_lalr_without_any_conflict() -> None:
    pytest.importorskip("interegular")
    text = resources.read("grammar", "language.lark")
    assert Lark(text, parser="lalr", strict=True).parse("pass a { let w = theta^2 score = w }") is not None
    assert Lark(text, parser="lalr", lexer="basic", strict=True).parse("a = 1, 2") is not None


def test_no_word_of_the_language_is_in_the_grammar() -> None:
    text = resources.read("grammar", "language.lark")
    for word in ("pass", "schedule", "prune", "theta", "paths", "grad", "density", "let", "floor"):
        assert f'"{word}"' not in text


def test_the_three_shapes() -> None:
    text = 'a = 1, "b"\nlet c = d\nfloor "*.w" = 20%\nk { }\nk name { a = 1 }\nk "t" { let x = 1 }'
    document, diagnostics = parse(text)
    assert diagnostics == []
    one = Number(1)
    assert document.items == (
        Setting(Name("a"), (one, Text("b"))),
        Labelled(Name("let"), Name("c"), (Name("d"),)),
        Labelled(Name("floor"), Text("*.w"), (Number(20, "%"),)),
        Block(Name("k"), None, ()),
        Block(Name("k"), Name("name"), (Setting(Name("a"), (one,)),)),
        Block(Name("k"), Text("t"), (Labelled(Name("let"), Name("x"), (one,)),)),
    )


def test_values() -> None:
    theta, two = Name("theta"), Number(2)
    assert _value("-theta^2") == Unary("-", Binary("^", theta, two))
    assert _value("theta^2^theta") == Binary("^", theta, Binary("^", two, theta))
    assert _value("theta^-2") == Binary("^", theta, Unary("-", two))
    assert _value("theta - 2 - 2") == Binary("-", Binary("-", theta, two), two)
    assert _value("2 + 2 * theta / 2") == Binary("+", two, Binary("/", Binary("*", two, theta), two))
    assert _value("theta-2") == Name("theta-2")
    assert _value("2..20") == Range(two, Number(20))
    assert _value("2:4") == Ratio(2, 4)
    assert _value("f(2..4, g(), x = 2:4,)") == Call("f", (Range(two, Number(4)), Call("g", (), ())), (("x", Ratio(2, 4)),))
    assert _value(r'"a\"\\b"') == Text('a"\\b')
    assert [_value(n) for n in ("50x", "98%", "4MB", ".5", "1e3", "1e-05", "2.5")] == [
        Number(50, "x"),
        Number(98, "%"),
        Number(4, "MB"),
        Number(0.5),
        Number(1000.0),
        Number(1e-05),
        Number(2.5),
    ]
    assert _value("9007199254740993").value == 9007199254740993


def test_every_node_has_the_span_of_its_own_text() -> None:
    text = "pass a {\n  x = (b + c) * f(d, e = -1)\n}"
    document, _ = parse(text, "file.pkc")
    block = document.items[0]
    product = block.items[0].values[0]
    spans = [block, block.name, block.label, block.items[0], product, product.left, product.right, product.right.kwargs[0][1]]
    assert [text[n.span.start : n.span.end] for n in spans] == [
        text,
        "pass",
        "a",
        "x = (b + c) * f(d, e = -1)",
        "(b + c) * f(d, e = -1)",
        "(b + c)",
        "f(d, e = -1)",
        "-1",
    ]
    assert all(n.span.file == "file.pkc" for n in spans)


def _codes(text: str) -> list[str]:
    return [d.code for d in parse(text)[1]]


def test_bounds() -> None:
    assert _codes("x = " + "(" * 101 + "1" + ")" * 101) == ["PKC005"]
    assert _codes("x = " + "(" * 100 + "1" + ")" * 100) == []
    assert _codes("x = " + "(" * 10_000) == ["PKC005"]
    assert _codes("a { " * 101) == ["PKC005"]
    assert _codes("x = " + "-" * 10_000 + "1") == ["PKC005"]
    assert _codes("x = " + "1 + " * 10_000 + "1") == ["PKC005"]
    assert _codes("x = " + "2^" * 10_000 + "1") == ["PKC005"]
    assert _codes("x = " + "1" * 40) == []
    assert _codes("x = " + "1" * 41) == ["PKC007"]
    assert _codes("x = " + "1" * 100_000) == ["PKC007"]
    assert _codes("x = 1e309") == ["PKC007"]
    assert _codes("# " + "a" * 1_000_000) == ["PKC006"]
    assert _codes("# " + "é" * 600_000) == ["PKC006"]


def test_errors_are_all_reported_and_what_is_sound_is_kept() -> None:
    text = "pass a {\n  x = \n  y = 1 2\n  z = f(1, =)\n  good = 1\n}\n}\npass b {\n  v = @\n  w = 3\n}\npass c {"
    document, diagnostics = parse(text)
    assert [position(d.span)[0] for d in diagnostics] == [2, 3, 4, 7, 9, 12]
    assert [(b.label.value, b.damaged) for b in document.items] == [("a", True), ("b", True), ("c", True)]
    assert [i.name.value for b in document.items for i in b.items] == ["y", "good", "w"]
    assert all(d.notes and d.label for d in diagnostics)


def test_an_error_does_not_damage_other_blocks() -> None:
    document, _ = parse("pass a { x = = }\npass b { x = 1 }")
    assert [b.damaged for b in document.items] == [True, False]


@pytest.mark.parametrize(
    ("text", "label", "note"),
    [
        ("x = ", "expected a value after this", "write a value here"),
        ("pass a b {}", "expected '=' or '{'", "one name is enough"),
        ("x = f(1 2)", "expected an operator, ',' or ')'", "put an operator or a comma"),
        ("x = f(a\ny = 2", "expected an operator, ',' or ')'", "the '(' of line 1, column 6 is not closed"),
        ("x = 1 }", "expected ", "delete it, or open it first"),
        ("= 3", "expected the next setting", "the three shapes are"),
        ("x = ;", "not part of the language", "one to a line"),
        ("x = “a”", "not part of the language", "plain double quote"),
        ("x = 'a'", "not part of the language", "double quotes"),
        ('x = "a', "no closing '\"'", "end the text"),
        ("x = 5 %", "not part of the language", "5%"),
        ("x = a − b", "not part of the language", "plain minus"),
    ],
)
def test_expectations_are_said_in_words(text: str, label: str, note: str) -> None:
    first = parse(text)[1][0]
    assert label in first.label
    assert note in first.notes[-1]


def test_the_number_of_errors_is_bounded() -> None:
    assert len(parse("= " * 1000)[1]) <= 50
    assert len(parse("@ a " * 1000)[1]) <= 50
