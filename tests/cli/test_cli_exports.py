"""``pkc export`` and ``pkc import``: what they write and say, and what can be typed wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_support import MLP, listing, pkc, pruned  # noqa: F401
from safetensors.torch import load_file
from torch.nn.utils import prune

import pkcompiler
from pkcompiler.frontend.spec import load_model


@pytest.fixture
def inside(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An empty folder beside the artifact ``a``."""
    (tmp_path / "mlp.py").write_text(MLP)
    (tmp_path / "a").symlink_to(pruned / "a")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_written_and_said(inside: Path) -> None:
    result = pkc("export", "a", "mlp.py", "--to", "pt2", "-o", "net.pt2")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {line.split()[0]: line.partition("  ")[2].strip() for line in result.stdout.splitlines()}
    assert rows["net.pt2"] == f"{(inside / 'net.pt2').stat().st_size:,} bytes"
    assert (rows["inputs"], rows["batch"]) == ("input", "any")
    assert rows["checked"].startswith("differs from the model by ")
    data = json.loads(pkc("export", "a", "mlp.py", "--to", "safetensors", "-o", "net.safetensors", "--json", "-").stdout)
    assert data["files"] == {"net.safetensors": (inside / "net.safetensors").stat().st_size} and data["difference"] is None
    stored, artifact = load_file("net.safetensors"), pkcompiler.load("a")
    assert all(torch.equal(stored[n], artifact.weights[n] * mask) for n, mask in artifact.masks.items())


def test_weights_that_were_trained_take_the_place_of_the_artifacts(inside: Path) -> None:
    state = {n: t + 1 for n, t in load_model("mlp.py").module.state_dict().items()}
    torch.save(state, "trained.pt")
    assert pkc("export", "a", "mlp.py", "--to", "safetensors", "-o", "net.safetensors", "--weights", "trained.pt").exit_code == 0
    masks = pkcompiler.load("a").masks
    assert all(torch.equal(t, state[n] * masks.get(n, 1)) for n, t in load_file("net.safetensors").items())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("a", "mlp.py", "--to", "onx", "-o", "net.onnx"), 2, "'onx' is not one of"),
        (("a", "mlp.py", "--to", "pt2", "-o", "mlp.py"), 1, "PKC655"),
        (("a", "mlp.py", "--to", "source", "-o", "mlp.py"), 1, "--force"),
        (("b", "mlp.py", "--to", "pt2", "-o", "net.pt2"), 1, "PKC624"),
        (("a", "mlp.py", "--arg", "width=13", "--to", "pt2", "-o", "net.pt2"), 1, "PKC629"),
    ],
)
def test_what_can_be_typed_wrong(words: tuple[str, ...], code: int, said: str, inside: Path) -> None:
    result = pkc("export", *words)
    assert result.exit_code == code and said in result.stderr
    assert listing(inside) == ["a", "mlp.py"]


def test_a_network_of_torch_prune_becomes_an_artifact(inside: Path) -> None:
    model = load_model("mlp.py").module
    dense = {n: t.clone() for n, t in model.state_dict().items()}
    prune.l1_unstructured(model[1], "weight", 0.5)
    prune.random_unstructured(model[5], "weight", 0.25)
    torch.save(model.state_dict(), "pruned.pt")
    refused = pkc("analyze", "mlp.py", "--weights", "pruned.pt")
    assert refused.exit_code == 1 and "pkc import MODEL --weights pruned.pt" in refused.stderr
    result = pkc("import", "mlp.py", "--weights", "pruned.pt", "-o", "taken")
    assert result.exit_code == 0 and result.stdout.startswith("kept ")
    found = pkcompiler.load("taken")
    assert torch.equal(found.masks["1.weight"], model[1].weight_mask.bool()) and found.masks.keys() == {"1.weight", "5.weight"}
    assert all(torch.equal(t, dense[n]) for n, t in found.weights.items())
    assert pkc("show", "taken").exit_code == 0
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(found.lower(load_model("mlp.py").module)(x), model(x))


def test_zeros_become_an_artifact_and_nothing_is_said_so(inside: Path) -> None:
    torch.save(load_model("mlp.py").module.state_dict(), "dense.pt")
    result = pkc("import", "mlp.py", "--weights", "dense.pt", "-o", "taken")
    assert result.exit_code == 1 and "error[PKC464]" in result.stderr and "--zeros" not in result.stderr
    assert pkc("export", "a", "mlp.py", "--to", "safetensors", "-o", "sparse.safetensors").exit_code == 0
    assert "--zeros" in pkc("import", "mlp.py", "--weights", "sparse.safetensors", "-o", "taken").stderr
    assert pkc("import", "mlp.py", "--weights", "sparse.safetensors", "--zeros", "-o", "taken").exit_code == 0
    taken, given = pkcompiler.load("taken").masks, pkcompiler.load("a").masks
    assert all(torch.equal(taken[n], mask) for n, mask in given.items() if not bool(mask.all()))


def test_a_compact_network_is_smaller_and_the_same_function(inside: Path) -> None:
    assert pkc("prune", "mlp.py", "--pass", "synflow", "--sparsity", "98%", "-o", "sparse").exit_code == 0
    result = pkc("export", "sparse", "mlp.py", "--to", "pt2", "--compact", "-o", "net.pt2", "--json", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    left = json.loads(result.stdout)["compact"]
    x = torch.randn(3, 1, 8, 8)
    stored = torch.export.load("net.pt2")
    assert 0 < left["parameters"][1] < left["parameters"][0] == sum(p.numel() for p in load_model("mlp.py").module.parameters())
    assert sum(t.numel() for t in stored.state_dict.values()) == left["parameters"][1]
    with torch.no_grad():
        masked = pkcompiler.load("sparse").lower(load_model("mlp.py").module.eval())(x)
        assert torch.allclose(stored.module()(x), masked, atol=1e-6 * float(masked.abs().max()), rtol=0)
    whole = json.loads(pkc("export", "sparse", "mlp.py", "--to", "pt2", "-o", "whole.pt2", "--json", "-").stdout)
    assert whole["compact"] is None and whole["files"]["whole.pt2"] > (inside / "net.pt2").stat().st_size
