"""Every shipped analysis on the examples, and ``pkc analyze --with``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from cli_support import home, pkc, pruned
from examples_path import EXAMPLES

from pkcompiler.analyses.run import analyse_capture, analyse_graph
from pkcompiler.artifact.read import load
from pkcompiler.cli.analyses import chosen
from pkcompiler.frontend.capture import capture
from pkcompiler.frontend.spec import load_model
from pkcompiler.lang.library import analysis_names, find_analysis

__all__ = ["home", "pruned"]

LIGHT = ("path-norms", "conditioning")
"""What needs only a few sweeps, also of a large network."""


@pytest.fixture(scope="module")
def digits():
    from pkcompiler.data import load_data

    model = load_model(str(EXAMPLES / "digits_mlp.py"), {}, 0).module
    data = load_data("digits(per_class = 2)")
    return capture(model, data.x[:1], dtype=torch.float64), (data.x, data.y)


@pytest.mark.parametrize("name", analysis_names())
def test_on_the_digits(name: str, digits) -> None:
    captured, data = digits
    analysis = find_analysis(name)
    report = analyse_capture(captured, analysis, data=data, name="digits")
    assert [row.label for row in report.rows] == [line.label for line in analysis.reports]
    plain = json.dumps(report.to_json(), allow_nan=False)
    assert f'"analysis": "{name}"' in plain and str(report).startswith(f"{name}: {analysis.doc}\n")
    wrong = [row.label for row in report.rows if row.status == "not predicted"]
    assert wrong == ([r.label for r in analysis.reports if r.label.startswith("measure")] if name == "generalisation" else [])


@pytest.fixture(scope="module")
def resnet20():
    model = load_model(str(EXAMPLES / "resnet20.py"), {}, 0).module
    return capture(model, torch.zeros(1, 3, 32, 32), dtype=torch.float64)


@pytest.mark.parametrize("name", LIGHT)
def test_on_resnet20(name: str, resnet20) -> None:
    report = analyse_capture(resnet20, find_analysis(name))
    assert {row.status for row in report.rows} == {"exact"}


def test_parts_of_a_trace_add_up_on_resnet20(resnet20) -> None:
    text = """analysis a { source = "x" let G = gram(paths(edge = theta^2, pools = sum, constants = on))
      report "share" = diagonal(G) / trace(G) report "trace" = trace(G) report "same" = sum(diagonal(G), over = param) }"""
    report = analyse_graph(resnet20.graph, resnet20.tensors, find_analysis(text))
    assert sum(map(float, report["share"].values())) == pytest.approx(1, rel=1e-12)
    assert float(report["trace"]) == pytest.approx(float(report["same"]), rel=1e-12)


def test_the_margins_of_a_fitting_network_give_measures() -> None:
    x = torch.eye(3, dtype=torch.float64)
    model = torch.nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(2 * x)
    report = analyse_capture(capture(model, x[:1], dtype=torch.float64), find_analysis("generalisation"), data=(x, torch.arange(3)))
    values = {row.label: float(row.value) for row in report.rows}
    assert values["part of samples with a positive margin"] == 1
    assert values["margin of the 10th percentile"] == values["median margin"] == 2
    assert values["measure: log of R_1 by the margin"] == pytest.approx(math.log(6 / 2))
    assert values["measure: log of R_2 by the squared margin"] == pytest.approx(math.log(12 / 4))


def test_conditioning_is_zero_where_all_weights_are_alike() -> None:
    model = torch.nn.Linear(4, 3, bias=False)
    report = analyse_capture(capture(model, torch.zeros(1, 4), dtype=torch.float64), find_analysis("conditioning"))
    assert [float(row.value) for row in report.rows] == pytest.approx([12, 0, 0], abs=1e-12)


# the command ----------------------------------------------------------------------------------------------------------


def test_analyses_of_the_library_and_of_files(home: Path) -> None:
    (home / "mine.pkc").write_text('analysis mine {\n  source = "x"\n  report "kept" = sum(mask, over = param)\n}\n')
    plain = pkc("analyze", "mlp.py").stdout
    result = pkc("analyze", "mlp.py", "--with", "path-norms,mine.pkc", "--with", "./mine.pkc:mine", "--json", "out.json")
    assert result.exit_code == 0 and result.stdout.startswith(plain.rstrip("\n"))
    assert "path L1 norm (R_1)  " in result.stdout and "kept  1,066  exact" in result.stdout
    written = json.loads((home / "out.json").read_text())
    assert [a["analysis"] for a in written["analyses"]] == ["path-norms", "mine", "mine"]
    assert written["schema"] == 1 and written["analyses"][1]["rows"][0]["value"]["value"] == 1066
    only = json.loads(pkc("analyze", "mlp.py", "--json", "-").stdout)
    assert only["analyses"] == []


def test_data_and_loss(home: Path) -> None:
    (home / "mine.pkc").write_text('analysis mine {\n  report "loss" = loss\n  report "t" = trace(ntk())\n}\n')
    (home / "own.py").write_text("def loss(output, target):\n    return (output * 0).sum() + 7\n")
    base = ("analyze", "mlp.py", "--with", "mine.pkc", "--data", "digits(per_class = 1, batch = 4)", "--json", "-")
    rows = json.loads(pkc(*base).stdout)["analyses"][0]["rows"]
    assert rows[0]["value"]["value"] == pytest.approx(math.log(10), rel=0.2)
    rows = json.loads(pkc(*base, "--loss", "own.py:loss").stdout)["analyses"][0]["rows"]
    assert rows[0]["value"]["value"] == pytest.approx(7)


def test_an_artifact_is_analysed_under_its_masks(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    found = json.loads(pkc("analyze", "a", "--with", "path-kernel,collapse", "--json", "-").stdout)
    artifact = load("a")
    expected = analyse_graph(artifact.graph, artifact.tensors, find_analysis("path-kernel"), masks=artifact.masks)
    assert found["analyses"][0]["rows"] == expected.to_json()["rows"]
    assert found["analyses"][0]["masked"] and found["analyses"][0]["subject"] == "a"
    result = pkc("analyze", "a", "--with", "dynamics", "--data", "digits")
    assert result.exit_code == 1 and "error[PKC550]" in result.stderr


@pytest.mark.parametrize(
    ("args", "exit_code", "said"),
    [
        (["--with", "ntk"], 1, "error[PKC502]: the analysis 'ntk' reads data, and none was given"),
        (["--with", "ntkk,snip,none.pkc"], 1, "3 errors"),
        (["--with", "synflow"], 1, "'synflow' is a pass"),
        (["--data", "digits"], 2, "--data needs an analysis"),
        (["--loss", "own.py:loss"], 2, "--loss needs an analysis"),
        (["--with", "path-norms", "--data", "digits"], 0, "the analyses read no data: none is loaded"),
        (["--with", "ntk", "--data", "nothing"], 1, "error[PKC660]"),
        (["--with", "ntk", "--data", "mnist5k(count = 3)"], 1, "error[PKC505]"),
    ],
)
def test_wrong_options(home: Path, args: list[str], exit_code: int, said: str) -> None:
    result = pkc("analyze", "mlp.py", *args)
    assert result.exit_code == exit_code and said in result.stderr


def test_each_analysis_runs_once() -> None:
    assert [a.name for a in chosen(("path-norms, ntk", "path-norms", ""), "digits", None)] == ["path-norms", "ntk"]
