"""Text tests of the printed IR. ``RUN: print`` prints as it stands; ``RUN: parse`` fails with exactly the CHECK lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.ir.dot import to_dot
from pkcompiler.ir.json import to_json
from pkcompiler.ir.maps import REINDEX, PathMap, Reindex
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.text import print_graph

FOLDER = Path(__file__).parents[1] / "text"
FILES = sorted(FOLDER.glob("*.ir"))


def shown(d: Diagnostic) -> str:
    place = d.span.text[d.span.start : d.span.end] if d.span else ""
    return f"{d.code} `{place}`: {d.message}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_text_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    run = text.splitlines()[0].removeprefix("// RUN: ")
    checks = sorted(line.removeprefix("// CHECK: ") for line in text.splitlines() if line.startswith("// CHECK: "))
    if run == "print":
        assert print_graph(parse_graph(text)) == text[text.index("path.graph") :]
        return
    assert run == "parse" and checks
    with pytest.raises(PkcError) as caught:
        parse_graph(text, path.name)
    assert sorted(shown(d) for d in caught.value.diagnostics) == checks


def test_the_sample_file_has_every_map_and_every_reindexing() -> None:
    graph = parse_graph((FOLDER / "every_map.ir").read_text(encoding="utf-8"))
    assert {type(op.map) for op in graph.ops} == set(get_args(PathMap))
    assert {op.map.fn for op in graph.ops if isinstance(op.map, Reindex)} == set(REINDEX)


def test_json_is_strict_and_says_what_the_text_says() -> None:
    graph = parse_graph((FOLDER / "every_map.ir").read_text(encoding="utf-8"))
    data = json.loads(json.dumps(to_json(graph), allow_nan=False))
    assert data["schema"] == 1 and data["outputs"] == list(graph.outputs)
    ops = {op["name"]: op for op in data["ops"]}
    assert ops["bn"]["operands"]["by"] == {
        "weight": {"slot": "bn.weight"},
        "factor": {"rsqrt": {"slot": "bn.running_var"}, "eps": 1e-05},
    }
    assert ops["split"]["type"] == {"dtype": "f32", "shape": ["2*B", 4]}
    assert ops["attention"]["attributes"] == {"dim": -1, "allowed": {"slot": "allowed"}}
    assert ops["conv"]["origin"] == {"module": "conv", "source": "model.py:12"}


def test_json_has_no_infinities() -> None:
    text = "path.graph @g(%x: f32[B]) -> f32[B] {\n  %y: f32[B] = constant %x, factor=-inf\n  return %y\n}\n"
    assert json.loads(json.dumps(to_json(parse_graph(text)), allow_nan=False))["ops"][0]["operands"] == {"factor": "-inf"}


def test_dot_has_a_node_per_value_and_an_edge_per_use() -> None:
    graph = parse_graph((FOLDER / "every_map.ir").read_text(encoding="utf-8"))
    lines = to_dot(graph).splitlines()
    assert sum("[label=" in line for line in lines) == len(graph.inputs) + len(graph.ops)
    assert sum(" -> " in line for line in lines) == sum(len(op.inputs) for op in graph.ops)
    assert sum("peripheries=2" in line for line in lines) == len(graph.outputs)
    assert lines[0] == 'digraph "every_map" {' and lines[-1] == "}"


def test_dot_escapes() -> None:
    text = 'path.graph @"a\\"b\\\\"(%x: f32[B]) -> f32[B] {\n  return %x\n}\n'
    assert to_dot(parse_graph(text)).splitlines()[0] == 'digraph "a\\"b\\\\" {'
