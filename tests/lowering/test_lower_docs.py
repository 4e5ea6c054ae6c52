"""The page about masks without pkcompiler, run where pkcompiler cannot be imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.lowering.lower_models import random_masks

PAGE = Path(__file__).parents[2] / "docs" / "masks-without-pkcompiler.md"

BEFORE = """
import sys
sys.modules["pkcompiler"] = None
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
"""

AFTER = """
for scale in (1.0, 1.0, 1.0):
    optimizer.zero_grad()
    (model(torch.randn(4, 3, 8, 8)).square().mean() * scale).backward()
    optimizer.step()
from safetensors.torch import save_file
save_file(model.state_dict(), "trained.safetensors")
optimizer.zero_grad()
(model(torch.randn(4, 3, 8, 8)).sum() * float("inf")).backward()
save_file({name: p.grad for name, p in model.named_parameters()}, "gradients.safetensors")
try:
    import pkcompiler
except ImportError:
    print("not importable")
"""


def test_the_page_keeps_zeros_without_us(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    masks = {name: mask for name, mask in random_masks(net).items() if mask.dim() > 1}
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    save_file(masks, tmp_path / "masks.safetensors")
    (tmp_path / "page.py").write_text(BEFORE + "".join(blocks) + AFTER)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "not importable" in done.stdout
    trained, gradients = load_file(tmp_path / "trained.safetensors"), load_file(tmp_path / "gradients.safetensors")
    for name, mask in masks.items():
        assert not trained[name][~mask].any() and not gradients[name][~mask].any()
        assert not torch.equal(trained[name], net.get_parameter(name) * mask) and not gradients[name].isfinite().all()
        assert (trained[name] - net.get_parameter(name) * mask).abs().max() < 1
