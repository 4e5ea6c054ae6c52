"""``pkc ir --groups``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import pkc

RESIDUAL = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.one, self.two, self.norm = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.norm(x + self.two(self.one(x).relu())))

def model():
    return Net()

def example_inputs():
    return torch.randn(1, 4)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(RESIDUAL)
    return "net.py"


def test_coupled_layers_as_a_table(net: str) -> None:
    lines = pkc("ir", net, "--groups").stdout.splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["6", "6", "21", "first,", "two,", "norm", "one,", "head"],
        ["5", "5", "13", "one", "two"],
    ]
    assert lines[5] == "11 groups in 2 layers"
    assert lines[6].startswith("6 of them are normalised or summed with others (norm)")
    assert lines[-1].split() == ["the", "model's", "output", "3", "head"]


def test_every_group_as_json(net: str) -> None:
    found = json.loads(pkc("ir", net, "--groups", "--format", "json").stdout)
    assert [len(found[key]) for key in ("groups", "layers", "excluded")] == [11, 2, 1]
    members = found["groups"][-1]["members"]
    assert [(m["parameter"], m["axis"], m["indices"], m["side"]) for m in members] == [
        ("one.weight", 0, [4], "out"),
        ("one.bias", 0, [4], "out"),
        ("two.weight", 1, [4], "in"),
    ]


def test_groups_have_no_picture(net: str) -> None:
    result = pkc("ir", net, "--groups", "--format", "dot")
    assert result.exit_code == 2
    assert "not as dot" in result.stderr
