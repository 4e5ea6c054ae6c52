"""What the tests of the command line share: a small model, a folder to work in, two artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pkcompiler.cli import main

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "pkcompiler" / "artifact" / "manifest.schema.json").read_text())

MLP = """\
import torch
from torch import nn

def model(width=12):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

def example_inputs():
    return torch.randn(1, 1, 8, 8)
"""

TWO = """\
schedule two {
  seed = 5
  prune magnitude { density = 50% }
  prune synflow { sparsity = 90%  rounds = 4 }
}
"""


def pkc(*args: str) -> Result:
    return CliRunner().invoke(main, args, catch_exceptions=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlp.py").write_text(MLP)
    (tmp_path / "two.pkc").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.py and two artifacts, ``a`` (synflow-l2, 90%) and ``b`` (magnitude, 50x)."""
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "mlp.py").write_text(MLP)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert pkc("prune", "mlp.py", "--pass", "synflow-l2", "--sparsity", "90%", "--rounds", "5", "-o", "a").exit_code == 0
        assert pkc("prune", "mlp.py", "--pass", "magnitude", "--compression", "5x", "-o", "b").exit_code == 0
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts)
