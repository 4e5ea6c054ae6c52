"""The printed IR: what is printed parses back to an equal graph and prints the same again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pkcompiler.diagnostics import PkcError
from pkcompiler.ir.maps import Batch, Constant, Gate, InvSqrt, Literal, PathMap, Reindex, Scale
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.syntax import MAX_NESTING
from pkcompiler.ir.text import print_graph, print_op, print_type
from pkcompiler.ir.to_graph import read_graph
from pkcompiler.ir.types import Op, Origin, PathGraph, Slot, TensorType, Value
from pkcompiler.ir.verify import verify
from tests.ir.ir_graphs import any_graphs, any_map, attrs, sound_graphs

B = Batch()
MLP = """\
path.graph @mlp(%x: f32[B, 4]) -> f32[B, 2] {
  parameter @fc1.weight: f32[3, 4] {prunable = true}
  parameter @fc1.bias: f32[3]
  parameter @bn1.weight: f32[3]
  parameter @bn1.bias: f32[3]
  buffer @bn1.running_var: f32[3]
  parameter @fc2.weight: f32[2, 3] {prunable = true}
  %fc1: f32[B, 3] = dense %x, weight=@fc1.weight, bias=@fc1.bias // fc1 model.py:7
  %bn1: f32[B, 3] = scale %fc1, by=(@bn1.weight * rsqrt(@bn1.running_var + 1e-05)), shift=@bn1.bias {shape = [3]}
  %act: f32[B, 3] = gate %bn1 {kind = relu, piecewise = true}
  %fc2: f32[B, 2] = dense %act, weight=@fc2.weight // fc2
  return %fc2
}
"""


def one_op(map: PathMap, *inputs: str) -> PathGraph:
    return PathGraph("g", (), (), (Op(map, inputs, Value("y", TensorType("f32", ()))),), ("y",))


def same(a: PathGraph, b: PathGraph) -> bool:
    """Equal, and told apart neither by 1 / 1.0 / True nor by 0.0 / -0.0; origins count."""
    return a == b and repr(a) == repr(b)


@given(any_graphs)
def test_reading_inverts_printing_for_every_graph(graph: PathGraph) -> None:
    text = print_graph(graph)
    read = read_graph(text).graph
    assert same(read, graph)
    assert print_graph(read) == text


@pytest.mark.parametrize("cls", get_args(PathMap), ids=lambda cls: cls.__name__)
def test_every_map_reads_back(cls: type) -> None:
    @given(any_map(cls))
    @settings(max_examples=40)
    def law(map: PathMap) -> None:
        graph = one_op(map, "x")
        assert same(read_graph(print_graph(graph)).graph, graph)

    law()


@given(sound_graphs())
def test_parsing_inverts_printing_for_sound_graphs(graph: PathGraph) -> None:
    assert verify(graph) == []
    assert parse_graph(print_graph(graph)) == graph


@given(attrs)
@example((1, 1.0, True, B, Batch(4), -0.0, None, "true", "none", "B", "inf", ("a",), ()))
def test_every_attribute_value_reads_back(value: object) -> None:
    graph = one_op(Reindex("reshape", (("shape", value),)), "x")  # type: ignore[arg-type]
    assert same(read_graph(print_graph(graph)).graph, graph)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-05, 0.1, 1e300, 5e-324, 1.0, -2.5, math.inf, -math.inf, math.nan, 123456789.0])
def test_floats_keep_every_bit(value: float) -> None:
    read = read_graph(print_graph(one_op(Constant(Literal(value)), "x"))).graph.ops[0].map
    assert isinstance(read, Constant) and isinstance(read.factor, Literal)
    assert read.factor.value.hex() == value.hex()


def test_an_integer_where_a_number_belongs_becomes_a_float() -> None:
    text = print_graph(one_op(Gate("x"), "x")).replace("kind = x", "kind = x, zero = 1")
    read = read_graph(text).graph.ops[0].map
    assert isinstance(read, Gate) and type(read.zero) is float


def test_the_sample() -> None:
    graph = parse_graph(MLP)
    assert print_graph(graph) == MLP
    assert graph.ops[1].map == Scale("bn1.weight", "bn1.bias", (3,), InvSqrt("bn1.running_var", 1e-05))
    assert [op.origin for op in graph.ops] == [Origin("fc1", "model.py:7"), Origin(), Origin(), Origin("fc2")]
    assert [slot.name for slot in graph.prunable] == ["fc1.weight", "fc2.weight"]


def test_layout_and_comments_are_free() -> None:
    spread = MLP.replace(", ", " ,\n\t").replace("{prunable", "{ // a comment } in the way\n prunable")
    assert parse_graph(spread) == parse_graph(MLP)


def test_origins_are_facts_and_not_part_of_equality() -> None:
    assert parse_graph(MLP) == parse_graph(MLP.replace(" // fc1 model.py:7", ""))


@pytest.mark.parametrize("source", ["model.py:12", "my models/a b.py:3", '"quoted".py:1', "new\nline.py:1", " spaced "])
@pytest.mark.parametrize("module", ["layer1.0.conv1", "", "a b", "// x", "ключ"])
def test_origins_read_back(module: str, source: str) -> None:
    graph = one_op(Gate("relu"), "x")
    graph = replace(graph, ops=(replace(graph.ops[0], origin=Origin(module, source)),))
    assert read_graph(print_graph(graph)).graph.ops[0].origin == Origin(module, source)


def test_names_are_bare_where_they_can_be() -> None:
    slots = tuple(Slot(n, TensorType("f32", ()), "buffer") for n in ("a.0.b", "größe", "0", "a-b", "with space", 'q"uote', "x\ny"))
    lines = [line.strip() for line in print_graph(PathGraph("g", (), slots, (), ())).splitlines()[1:8]]
    bare = ["buffer @a.0.b: f32[]", "buffer @größe: f32[]", "buffer @0: f32[]"]
    quoted = ['buffer @"a-b": f32[]', 'buffer @"with space": f32[]', 'buffer @"q\\"uote": f32[]', 'buffer @"x\\ny": f32[]']
    assert lines == bare + quoted


def test_an_operation_without_operands_does_not_take_those_of_the_next_line() -> None:
    op = Op(Reindex("cat"), (), Value("y", TensorType("f32", ())))
    graph = PathGraph("g", (), (), (op, replace(op, result=Value("z", TensorType("f32", ())))), ("z",))
    assert same(read_graph(print_graph(graph)).graph, graph)


def test_batch_dimensions() -> None:
    assert print_type(TensorType("f32", (B, Batch(4), 4))) == "f32[B, 4*B, 4]"


def test_the_three_ways_of_scaling() -> None:
    factor = Literal(0.5)
    shown = [
        print_op(one_op(m, "x").ops[0]) for m in (Scale("w", None, ()), Scale("w", None, (), factor), Scale(None, "b", (), factor))
    ]
    assert [line.split("scale ")[1] for line in shown] == [
        "%x, by=@w {shape = []}",
        "%x, by=(@w * 0.5) {shape = []}",
        "%x, by=(1 * 0.5), shift=@b {shape = []}",
    ]


WRONG = {
    "empty": ("", "PKC052", "ends too early"),
    "not a graph": ("module.graph @a() {}", "PKC052", "unexpected"),
    "stray character": (MLP.replace("dense %x", "dense §"), "PKC052", "'§'"),
    "no return": (MLP.replace("  return %fc2\n", ""), "PKC052", "unexpected '}'"),
    "unclosed": (MLP[:-3], "PKC052", "ends too early"),
    "unknown operation": (MLP.replace("= dense %x", "= dens %x"), "PKC054", "'dens'"),
    "unknown attribute": (MLP.replace("kind = relu", "kind = relu, slope = 1"), "PKC055", "no attribute 'slope'"),
    "missing attribute": (MLP.replace("kind = relu, ", ""), "PKC055", "lacks its attribute 'kind'"),
    "attribute of the wrong kind": (MLP.replace("piecewise = true", "piecewise = 1"), "PKC055", "true or false"),
    "attribute twice": (MLP.replace("kind = relu", "kind = relu, kind = tanh"), "PKC055", "given twice"),
    "unknown operand": (MLP.replace("bias=@fc1", "shift=@fc1"), "PKC056", "no operand 'shift'"),
    "missing operand": (MLP.replace(", weight=@fc2.weight", ""), "PKC056", "lacks its operand 'weight'"),
    "operand twice": (MLP.replace("bias=@fc1", "weight=@fc1"), "PKC056", "given twice"),
    "number for a slot": (MLP.replace("bias=@fc1.bias", "bias=1.0"), "PKC056", "must be a slot"),
    "unknown factor": (MLP.replace("rsqrt", "sqrt"), "PKC056", "unknown factor 'sqrt'"),
    "number first": (MLP.replace("(@bn1.weight *", "(2 *"), "PKC056", "a slot or 1"),
    "unknown role": (MLP.replace("buffer @bn1.running_var", "bufer @bn1.running_var"), "PKC055", "unknown role 'bufer'"),
    "unknown slot attribute": (MLP.replace("{prunable = true}", "{pruned = true}"), "PKC055", "no attribute 'pruned'"),
    "long number": (MLP.replace("[2, 3]", f"[2, {'3' * 41}]"), "PKC053", "41 characters"),
    "fractional size": (MLP.replace("[2, 3]", "[2, 3.5]"), "PKC053", "not a size"),
    "other letter": (MLP.replace("f32[B, 4]", "f32[N, 4]"), "PKC053", "B or 4*B"),
    "bad escape": (MLP.replace("kind = relu", 'kind = "\\q"'), "PKC053", "malformed string"),
    "word for a number": (MLP.replace("1e-05", "tiny"), "PKC053", "not a number"),
    "deep": (MLP.replace("kind = relu", "kind = " + "[" * (MAX_NESTING + 1)), "PKC051", "deep"),
    "header": (MLP.replace("-> f32[B, 2]", "-> f32[B, 9]"), "PKC313", "header"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_is_diagnosed_at_its_place(case: str) -> None:
    text, code, message = WRONG[case]
    with pytest.raises(PkcError) as caught:
        parse_graph(text, "net.pkir")
    found = [d for d in caught.value.diagnostics if d.code == code and message in d.message]
    assert found, caught.value
    span = found[0].span
    assert span is not None and span.file == "net.pkir"
    assert 0 <= span.start < span.end <= len(span.text) + 1
    assert found[0].notes


def test_a_caret_points_at_the_word_that_is_wrong() -> None:
    with pytest.raises(PkcError) as caught:
        parse_graph(MLP.replace("= dense %x", "= dens %x").replace("kind = relu", "knd = relu"))
    spans = [d.span for d in caught.value.diagnostics]
    assert [s.text[s.start : s.end] for s in spans if s] == ["dens", "knd = relu"]
    assert "did you mean 'dense'?" in caught.value.diagnostics[0].notes


def _parses_or_is_diagnosed(text: str) -> None:
    try:
        parse_graph(text)
    except PkcError as error:
        assert error.diagnostics
        for d in error.diagnostics:
            assert d.code.startswith(("PKC0", "PKC3")) and d.notes
            assert d.span is None or 0 <= d.span.start < d.span.end <= len(d.span.text) + 1


@given(st.text())
def test_arbitrary_text_never_escapes(text: str) -> None:
    _parses_or_is_diagnosed(text)


_PIECES = [
    "%x",
    "@fc1.weight",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "=",
    ",",
    "*",
    "B",
    "-inf",
    "1",
    "2.5",
    '"s"',
    "return",
    "//",
    "\\",
    "->",
    "kind",
]
_PIECES += [
    "path.graph",
    "f32[B, 4]",
    "reindex.cat",
    "merge",
    "source value=1",
    "{shape = [1]}",
    '"',
    "%",
    "?",
    "nan",
    "\n",
    "4*B",
    "dense",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=30))
def test_soup_of_tokens_never_escapes(pieces: list[str]) -> None:
    _parses_or_is_diagnosed("path.graph @g(%x: f32[B]) -> ? { " + " ".join(pieces))


@given(sound_graphs(), st.data())
@settings(max_examples=200)
def test_damaged_graphs_never_escape(graph: PathGraph, data: st.DataObject) -> None:
    text = print_graph(graph)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(st.sampled_from(["", *_PIECES])) + text[end:]
    _parses_or_is_diagnosed(text)
