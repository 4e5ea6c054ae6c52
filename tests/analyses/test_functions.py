"""A function of the language is one record and one binding: nothing else names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import pkcompiler as pkc
from pkcompiler.analyses.functions import kernels
from pkcompiler.analyses.functions import table as of_analyses
from pkcompiler.lang.functions import table as records
from pkcompiler.lang.functions.table import FUNCTIONS
from pkcompiler.scoring.functions import chance
from pkcompiler.scoring.functions import table as of_passes

ROOT = Path(__file__).parent.parent.parent

RECORD = """
FUNCTIONS += (
    Function(
        name="cube",
        doc="the third power of every entry",
        example="cube(theta)",
        facts=as_argument,
        arguments=(Argument("bend", "word", "which sign", "kept", (Value("kept", "its own"), Value("lost", "none"))),),
        entrywise=True,
        anew=True,
        not_negative=_of_argument,
    ),
)
"""
BINDING = """
def _cube(evaluation, node):
    value = evaluation.evaluate(node.args[0])
    cube = value ** terms.number(3, evaluation.work.dtype)
    return abs(cube) if node.words.get("bend") == "lost" else cube


VALUES["cube"] = _cube
"""
USE = """
import json
import torch
import pkcompiler as pkc
from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.explain.word import explain

def said(text):
    try:
        return explain(text)
    except PkcError as error:
        return str(error)

def equal(left, right):
    given = {"data": (x, torch.tensor([0, 1, 0, 1]))}
    a, b = (pkc.score(model, x[:1], f'pass a {{ source = "x"\\n{text} }}', **given) for text in (left, right))
    return all(torch.equal(a[n], b[n]) for n in a) and len(a) == 2

torch.manual_seed(0)
x = torch.randn(4, 3)
model = torch.nn.Linear(3, 2).double()
x = x.double()
told = {
    "word": said("cube"),
    "value": said("lost"),
    "formula": said('pass a { source = "x"\\nscore = cube(theta) * abs(grad(loss, theta)) }'),
    "typo": said('pass a { source = "x"\\nscore = cuba(theta) }'),
    "taken": said('pass a { source = "x"\\nlet cube = theta\\nscore = abs(cube) }'),
    "argument": said('pass a { source = "x"\\nscore = cube(theta, bent = lost) }'),
    "after": said('pass a { source = "x"\\nscore = grad(after(cube(loss), steps = 1, lr = 0.1), theta) }'),
    "value of it": equal("score = cube(theta)", "score = theta^3"),
    "argument of it": equal("score = cube(theta, bend = lost)", "score = abs(theta^3)"),
    "derivative": equal("score = grad(cube(loss), theta)", "score = grad(loss^3, theta)"),
}
print(json.dumps(told))
"""


def test_every_record_has_a_binding_and_every_binding_a_record() -> None:
    figures = {name for name, function in FUNCTIONS.items() if function.analysis}
    assert set(of_passes.VALUES) == set(FUNCTIONS) - figures
    assert set(of_analyses.VALUES) >= figures and set(of_analyses.VALUES) <= set(FUNCTIONS)


def test_record_and_binding_lie_in_files_of_one_name() -> None:
    recorded = {function.name: theme.__name__ for theme in records._THEMES for function in theme.FUNCTIONS}
    bound = {name: theme.__name__ for theme in (*of_passes._THEMES, *of_analyses._THEMES) for name in theme.VALUES}
    assert {n: place.rpartition(".")[2] for n, place in bound.items()} == {
        n: place.rpartition(".")[2] for n, place in recorded.items()
    }


def test_no_function_is_recorded_or_bound_twice() -> None:
    assert len(FUNCTIONS) == sum(len(theme.FUNCTIONS) for theme in records._THEMES)
    for table in (of_passes, of_analyses):
        assert len(table.VALUES) == sum(len(theme) for theme in table.VALUES.maps)


@pytest.mark.parametrize(
    ("table", "name", "line"), [(chance, "uniform", "sum(uniform(), over = param)"), (kernels, "trace", "trace(gram(R))")]
)
def test_a_word_without_its_binding_is_named(table: ModuleType, name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table.VALUES, name)
    text = f'analysis a {{ source = "x" let R = paths(edge = theta^2) report "r" = R report "a" = {line} }}'
    with pytest.raises(pkc.PkcError, match=rf"PKC103\]: '{name}' has no value"):
        pkc.run_analysis(nn.Linear(3, 2), torch.zeros(1, 3), text)


def test_a_new_word_touches_two_files(tmp_path: Path) -> None:
    """A record and a binding, each appended to the file of its theme, are checked, explained, suggested and evaluated."""
    shutil.copytree(ROOT / "pkcompiler", tmp_path / "pkcompiler")
    for folder in ("grammar", "passes"):
        shutil.copytree(ROOT / folder, tmp_path / "pkcompiler" / folder)
    for layer, added in (("lang", RECORD), ("scoring", BINDING)):
        with (tmp_path / "pkcompiler" / layer / "functions" / "arithmetic.py").open("a", encoding="utf-8") as file:
            file.write(added)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told.pop("word") == (
        "cube: a function\n  the third power of every entry\n  example  cube(theta)\n"
        "  arguments\n    bend           which sign (default kept)\n"
    )
    assert told.pop("value") == "lost: a value of bend\n  none\n"
    assert "\n  score_i = cube(theta_i) * |d loss / d theta_i|\n" in told.pop("formula")
    assert "unknown function 'cuba'" in told["typo"] and told.pop("typo").endswith("did you mean 'cube'?")
    assert told.pop("taken").startswith("error[PKC107]: 'cube' is a word of the language")
    assert told.pop("argument").endswith("did you mean 'bend'?")
    assert "\n  score_i = d after(cube(loss), steps = 1, lr = 0.1) / d theta_i\n" in told.pop("after")
    assert told == {"value of it": True, "argument of it": True, "derivative": True}


def test_a_line_is_what_the_figures_in_its_named_arguments_are() -> None:
    """Paths across a LayerNorm are approximate, and so is what the model gives at weights computed from them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.zeros(2, 3, dtype=torch.float64)
    lines = 'report "paths" = R report "model" = mean(mean(model(data, theta = theta / R), over = output), over = sample)'
    text = f'analysis a {{ source = "x" let R = paths(edge = theta^2) {lines} }}'
    rows = pkc.run_analysis(model, x[:1], text, data=(x, torch.tensor([0, 1]))).rows
    assert [row.status for row in rows] == ["approximate", "approximate"]
