"""``pkc rescale``: the file that it writes, the table, JSON, and everything that can be typed wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_support import listing, pkc
from safetensors.torch import load_file
from torch import nn

from pkcompiler.frontend.spec import load_model

MODEL = """\
import torch
from torch import nn

def model():
    first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, nn.Linear(96, 5), nn.GELU(), nn.Linear(5, 2))

def example_inputs():
    return torch.randn(1, 1, 4, 4)
"""

SHOWS = """\
import torch
from torch import nn

class Shows(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h), h

def model():
    return Shows()

def example_inputs():
    return torch.randn(1, 3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "shows.py").write_text(SHOWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_weights_that_give_the_same_function(folder: Path) -> None:
    result = pkc("rescale", "net.py")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == "written: net-rescaled.safetensors"
    assert listing(folder) == ["net-rescaled.safetensors", "net.py", "shows.py"]
    model, other = (load_model("net.py").module.eval() for _ in range(2))
    state = load_file("net-rescaled.safetensors")
    other.load_state_dict(state)
    assert not torch.equal(state["1.weight"], model.state_dict()["1.weight"])
    x = torch.randn(5, 1, 4, 4)
    assert torch.allclose(model(x), other(x), rtol=0, atol=1e-5)
    again = pkc("rescale", "net.py", "--weights", "net-rescaled.safetensors", "-o", "twice.safetensors", "--json", "-")
    assert json.loads(again.stdout)["after"]["ratio"] == pytest.approx(json.loads(again.stdout)["before"]["ratio"], rel=1e-6)


def test_the_table_names_what_is_left_alone(folder: Path) -> None:
    lines = pkc("rescale", "net.py").stdout.splitlines()
    assert lines[2].startswith("F = p log sum g - sum Bz")
    assert any(line.startswith("diag(G): arithmetic / geometric mean") for line in lines)
    assert any(line.startswith("6 units rescaled by conditioning: converged after ") for line in lines)
    assert any("on random inputs in float64: preserved to " in line for line in lines)
    left = {line.split("  ")[0]: line.split()[-2:] for line in lines[lines.index("") :] if line.endswith((" 0", " 4", " 6"))}
    assert left == {
        "a BatchNorm that keeps its statistics reads it": ["6", "0"],
        "gelu is not homogeneous": ["5", "4"],
        "the output of the network": ["2", "6"],
    }


@pytest.mark.parametrize("method", ["conditioning", "equi-norm"])
def test_json(folder: Path, method: str) -> None:
    result = pkc("rescale", "net.py", "--method", method, "--json", "figures.json", "-o", "new.safetensors")
    assert result.exit_code == 0 and "before" in result.stdout
    figures = json.loads((folder / "figures.json").read_text())
    assert (figures["file"], figures["method"], figures["units"]) == ("new.safetensors", method, 6)
    assert figures["converged"] is True and figures["deviation"]["float64"] <= 1e-9
    assert figures["after"]["objective"] < figures["before"]["objective"]
    assert figures["history"] == sorted(figures["history"], reverse=True)
    assert list(figures["scales"]) == ["1"] and len(figures["scales"]["1"]) == 6
    assert {"name": "6", "units": 2, "reason": "the output of the network"} in figures["left_alone"]
    alone = pkc("rescale", "net.py", "--method", method, "--json", "-", "-o", "new.safetensors", "--force")
    assert json.loads(alone.stdout) == figures


def test_the_same_bytes_again(folder: Path) -> None:
    for name in ("one", "two"):
        assert pkc("rescale", "net.py", "-o", f"{name}.safetensors").exit_code == 0
    assert (folder / "one.safetensors").read_bytes() == (folder / "two.safetensors").read_bytes()


def test_powers_of_two(folder: Path) -> None:
    figures = json.loads(pkc("rescale", "net.py", "--powers-of-two", "--json", "-").stdout)
    assert figures["deviation"] == {"float64": 0.0, "stored": 0.0}
    assert all(torch.tensor(part).log2().frac().abs().max() == 0 for part in figures["scales"].values())


def test_a_file_that_is_there_stays(folder: Path) -> None:
    (folder / "net-rescaled.safetensors").write_text("mine")
    result = pkc("rescale", "net.py")
    assert result.exit_code == 1 and "error[PKC543]: 'net-rescaled.safetensors' exists already" in result.stderr
    assert (folder / "net-rescaled.safetensors").read_text() == "mine"
    assert pkc("rescale", "net.py", "--force").exit_code == 0
    assert len(load_file("net-rescaled.safetensors")) == len(nn.BatchNorm2d(1).state_dict()) + 6


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("new.pt", "'new.pt' is no .safetensors file"),
        ("missing/new.safetensors", "there is no folder 'missing'"),
        ("taken.safetensors", "'taken.safetensors' is a folder"),
    ],
)
def test_a_place_that_cannot_be_written(folder: Path, out: str, says: str) -> None:
    (folder / "taken.safetensors").mkdir()
    before = listing(folder)
    result = pkc("rescale", "net.py", "-o", out, "--force")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error[PKC543]: {says}" in result.stderr and "help:" in result.stderr
    assert listing(folder) == before


def test_an_interrupted_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "new.safetensors").write_text("mine")

    def full(old: object, new: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    result = pkc("rescale", "net.py", "-o", "new.safetensors", "--force")
    assert result.exit_code == 1 and "error[PKC543]: 'new.safetensors' cannot be written: No space left on device" in result.stderr
    assert (folder / "new.safetensors").read_text() == "mine"


def test_another_function_is_refused_and_nothing_written(folder: Path) -> None:
    before = listing(folder)
    result = pkc("rescale", "shows.py")
    assert result.exit_code == 1 and "error[PKC541]: output 1 of the rescaled network differs" in result.stderr
    assert listing(folder) == before
    assert "--output 1" in result.stderr
    assert pkc("rescale", "shows.py", "--output", "1").exit_code == 0


def test_usage(folder: Path) -> None:
    result = pkc("rescale", "net.py", "--method", "enorm")
    assert result.exit_code == 2 and "'enorm' is not one of" in result.stderr
    assert pkc("rescale", "absent.py").exit_code == 1
