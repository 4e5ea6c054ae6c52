"""A folder of small files of every kind that an option can name, some of which would run code if they were believed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from pkcompiler.cli import main

MODEL = """\
import torch
from torch import nn

def model(width=3, act="relu", wn=False):
    if wn not in (True, False):
        raise TypeError("wn is a switch")
    return nn.Sequential(nn.Linear(4, int(width)), nn.ReLU(), nn.Linear(int(width), 2))

built = nn.Linear(4, 2)

def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))

def nothing():
    return None

def loss(output, target):
    return ((output - target) ** 2).mean()

def example_inputs():
    return torch.ones(1, 4)
"""
CANARY = "from pathlib import Path\nPath(__file__).with_name('RAN').touch()\nmodel = None\n"
OPS = """\
from pkcompiler.ops.table import path_op

@path_op("aten.cumprod.default")
def entry(use):
    raise use.unsupported("it is not understood")
"""
PASS = 'pass mine {\n  source = "me"\n  score = abs(theta)\n}\n'
TWO = "schedule two {\n  prune magnitude { density = 50% }\n  prune synflow { sparsity = 90%  rounds = 4 }\n}\n"
STUDY = 'study s {\n  model = "model.py"\n  passes = synflow\n  compression = 1\n  seeds = 0..1\n  train = "model.py:loss"\n}\n'


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("RAN"),)


def furnish(folder: Path) -> None:
    """Write them; the working directory is the folder."""
    texts = {"model.py": MODEL, "canary.py": CANARY, "ops.py": OPS, "mine.pkc": PASS, "two.pkc": TWO, "study.pkc": STUDY}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    save_file(network.state_dict(), folder / "w.safetensors")
    torch.save(network.state_dict(), folder / "w.pt")
    torch.save({"a": torch.ones(2)}, folder / "other.pt")
    (folder / "evil.pt").write_bytes(pickle.dumps(_Evil()))
    (folder / "torn.pt").write_bytes((folder / "w.pt").read_bytes()[:200])
    x, y = np.ones((4, 4), np.float32), np.array([0, 0, 1, 1])
    np.savez(folder / "d.npz", x=x, y=y)
    np.savez(folder / "nan.npz", x=x * np.nan, y=y)
    np.savez(folder / "evil.npz", x=np.array([_Evil()], dtype=object), y=y[:1])
    made = CliRunner().invoke(main, ["prune", "model.py", "--pass", "magnitude", "--density", "50%", "-o", "art"])
    assert made.exit_code == 0, made.output
    shutil.copytree(folder / "art", folder / "evil")
    manifest = json.loads((folder / "evil/manifest.json").read_text())
    manifest["model"] |= {"spec": "canary.py", "factory": "model", "plugins": {"canary.py": "0" * 64}}
    (folder / "evil/manifest.json").write_text(json.dumps(manifest))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder with None; compiled Python left out."""
    found = (p for p in folder.rglob("*") if "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found}


def restore(folder: Path, before: dict[str, bytes | None]) -> None:
    """The folder as it was."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if name not in before and "__pycache__" not in path.parts:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, content in before.items():
        if content is None:
            (folder / name).mkdir(exist_ok=True)
        elif not (folder / name).is_file() or (folder / name).read_bytes() != content:
            (folder / name).write_bytes(content)
