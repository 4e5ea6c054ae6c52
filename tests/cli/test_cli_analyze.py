"""``pkc analyze``: --symbolic, --latex, --verify, and predictions by the model's own factory."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from pkcompiler import ntk, run_analysis
from tests.cli_support import home, pkc, pruned

__all__ = ["home", "pruned"]

DYNAMICS = 'analysis curves { source = "x" report "loss" = dynamics(ntk(), lr = 0.01, steps = 4) }'
BLOCKS = """\
import torch
from torch import nn

def model():
    layers = [layer for _ in range(4) for layer in (nn.Linear(5, 5), nn.ReLU())]
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), *layers, nn.Linear(5, 2))

def example_inputs():
    return torch.randn(1, 3)
"""

OWN = """\
import torch
from torch import nn

def model():
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=3.0)
    return net
"""


def test_symbolic(home: Path) -> None:
    shown = pkc("analyze", "mlp.py", "--symbolic", "--variances", "he")
    assert shown.exit_code == 0
    assert "paths = n3*(65*n1*n2 + n2 + 1)" in shown.stdout and "growth, in leading order" in shown.stdout
    found = json.loads(pkc("analyze", "mlp.py", "--symbolic", "--json", "-").stdout)["symbolic"]
    assert [form["name"] for form in found["forms"]] == ["paths", "E[R_2]", "E[Tr Pi]"] and found["variances"] == "weights"
    assert found["widths"][0]["value"] == 12


def test_symbolic_counts_what_the_report_counts(home: Path) -> None:
    text = pkc("analyze", "mlp.py", "--symbolic", "--variances", "he").stdout
    reported = re.search(r"^paths +([\d,]+)", text, re.MULTILINE)
    formed = re.search(r"^paths = .*\n  here ([\d,]+)", text, re.MULTILINE)
    assert reported and formed and reported[1] == formed[1]


def test_growth_with_depth_where_blocks_repeat(home: Path) -> None:
    (home / "deep.py").write_text(BLOCKS)
    shown = pkc("analyze", "deep.py", "--symbolic", "--variances", "he")
    assert shown.exit_code == 0 and "E[R_2] x 2 for one more block" in shown.stdout


def test_symbolic_of_an_artifact_is_that_of_the_dense_graph(home: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    of_model = json.loads(pkc("analyze", "mlp.py", "--symbolic", "--json", "-").stdout)["symbolic"]
    of_artifact = json.loads(pkc("analyze", "a", "--symbolic", "--json", "-").stdout)["symbolic"]
    assert of_artifact["forms"] == of_model["forms"]


def test_latex(home: Path) -> None:
    assert pkc("analyze", "mlp.py", "--latex", "forms.tex").exit_code == 0
    text = (home / "forms.tex").read_text()
    assert text.startswith("\\documentclass") and text.endswith("\\end{document}\n") and "\\operatorname{Tr}" in text
    assert text.count("{") == text.count("}")
    assert pkc("analyze", "mlp.py", "--latex", "-").stdout == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--variances", "he"), "--symbolic"),
        (("--verify",), "--with dynamics"),
        (("--verify", "--with", "path-norms"), "--with dynamics"),
        (("--latex", "-", "--json", "-"), "stdout holds one"),
        (("--symbolic", "--variances", "hee"), "'hee' is not one of"),
    ],
)
def test_options_that_do_not_go_together(home: Path, options: tuple[str, ...], message: str) -> None:
    result = pkc("analyze", "mlp.py", *options)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_latex_into_a_folder_that_is_not_there(home: Path) -> None:
    result = pkc("analyze", "mlp.py", "--latex", "none/forms.tex")
    assert result.exit_code == 1 and "PKC613" in result.stderr and "none/forms.tex" in result.stderr


def test_verify_trains_beside_the_prediction(home: Path) -> None:
    (home / "curves.pkc").write_text(DYNAMICS)
    args = ("analyze", "mlp.py", "--with", "curves.pkc", "--data", "digits(per_class = 1)", "--json", "-")
    plain = json.loads(pkc(*args).stdout)["analyses"][0]["rows"]
    rows = json.loads(pkc(*args, "--verify").stdout)["analyses"][0]["rows"]
    assert [row["label"] for row in plain] == ["loss"] and [row["label"] for row in rows] == ["loss", "loss, trained"]
    assert rows[0] == plain[0] and rows[1]["status"] == "exact"
    first, second = (row["value"]["values"] for row in rows)
    assert first[0] == pytest.approx(second[0]) and first[1:] == pytest.approx(second[1:], rel=0.05) and first[1:] != second[1:]


def test_the_trained_curve_is_plain_gradient_descent() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    found = run_analysis(net, x[:1], DYNAMICS, data=(x, y), verify=True)["loss, trained"]
    losses = []
    for _ in range(5):
        loss = (net(x) - y).square().sum() / 2
        losses.append(loss.item())
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.data -= 0.01 * g
    assert found.values.tolist() == pytest.approx(losses, rel=1e-12)


def test_a_loss_curve_without_data_is_a_bound_from_the_trace() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    text = 'analysis a { source = "x" report "t" = predicted_trace() report "left" = expected_dynamics(lr = 0.1, steps = 3) }'
    report = run_analysis(net, torch.randn(1, 8), text)
    trace, left = float(report["t"]), report["left"]
    assert left.status == "bound"
    assert left.values.tolist() == pytest.approx([math.exp(-2 * 0.1 * t * trace / 4) for t in range(4)], rel=1e-12)


def test_predictions_take_the_moments_of_the_data() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 4))
    x, y = 3 * torch.randn(40, 8), torch.randint(0, 4, (40,))
    report = run_analysis(
        net, x[:1], 'analysis a { source = "x" report "t" = predicted_trace() report "n" = trace(ntk()) }', data=(x, y)
    )
    assert float(report["t"]) == pytest.approx(float(ntk(net, (x, y)).trace()) / 40, rel=0.15)
    assert (
        float(run_analysis(net, x[:1], 'analysis a { source = "x" report "t" = predicted_trace() }')["t"]) < float(report["t"]) / 4
    )


def test_the_command_predicts_by_the_models_own_factory(home: Path) -> None:
    """A factory that overwrites what ``reset_parameters`` drew: modules alone cannot draw it again."""
    (home / "own.py").write_text(OWN)
    (home / "p.pkc").write_text('analysis p { source = "x" report "t" = predicted_trace() }')
    rows = json.loads(pkc("analyze", "own.py", "--input", "1x4", "--with", "p.pkc", "--json", "-").stdout)["analyses"][0]["rows"]
    assert rows[0]["status"] in ("estimated", "approximate") and rows[0]["value"]["value"] > 1000
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    for p in net.parameters():
        nn.init.normal_(p, std=3.0)
    alone = run_analysis(net, torch.randn(1, 4), (home / "p.pkc").read_text())["t"]
    assert alone.status == "not predicted"
