"""``pkc show``, ``compare``, ``certify``, ``ir`` as a user meets them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli_support import home, pkc, pruned

__all__ = ["home", "pruned"]


def test_show(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    result = pkc("show", "a")
    assert result.exit_code == 0 and result.stderr == ""
    assert "Sequential of mlp.py" in result.stdout and "1.weight" in result.stdout and "pass synflow-l2 {" in result.stdout
    found = json.loads(pkc("show", "a", "--json", "-").stdout)
    assert found["kept"] == sum(row["kept"] for row in found["layers"]) and found["extra"] == []


def test_compare(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    result = pkc("compare", "a", "b")
    assert result.exit_code == 0
    for word in ("effective sparsity", "log10 paths", "L1 path norm", "L2 path norm", "1.weight", "Jaccard", "overlap"):
        assert word in result.stdout
    found = json.loads(pkc("compare", "a", "b", "a", "--json", "-").stdout)
    one, other = load_file("a/masks.safetensors"), load_file("b/masks.safetensors")
    expected = sum(int((one[n] & m).sum()) for n, m in other.items()) / sum(int((one[n] | m).sum()) for n, m in other.items())
    assert [o["jaccard"] for o in found["overlaps"]] == [pytest.approx(expected), 1.0, pytest.approx(expected)]
    for name, row in found["densities"].items():
        assert row == [float(m[name].sum()) / m[name].numel() for m in (one, other, one)]


def test_compare_of_different_models(pruned: Path, home: Path) -> None:
    assert pkc("prune", "mlp.py", "--arg", "width=6", "--pass", "magnitude", "--density", "50%", "-o", "small").exit_code == 0
    found = json.loads(pkc("compare", "small", str(pruned / "a"), "--json", "-").stdout)
    assert found["overlaps"][0]["jaccard"] is None and pkc("compare", "small", str(pruned / "a")).exit_code == 0


@pytest.mark.parametrize("how", [("--include", "bias"), ("--structure", "channel"), ("--except", "1.weight")])
def test_every_command_counts_the_same_weights(home: Path, how: tuple[str, str]) -> None:
    """Whatever has a mask, in prune, compare and analyze."""
    made = json.loads(pkc("prune", "mlp.py", "--pass", "magnitude", "--density", "85%", *how, "-o", "a", "--json", "-").stdout)
    assert pkc("prune", "mlp.py", "--pass", "synflow", "--density", "50%", "-o", "b").exit_code == 0
    compared = json.loads(pkc("compare", "a", "b", "--json", "-").stdout)["artifacts"][0]["totals"]
    analyzed = json.loads(pkc("analyze", "a", "--json", "-").stdout)["totals"]
    for totals in (compared, analyzed):
        assert totals["kept"]["value"] == made["kept"] and totals["prunable"]["value"] == made["total"]
        for name in ("direct_sparsity", "effective_sparsity"):
            assert totals[name]["value"] == pytest.approx(made[name], abs=1e-15)


def test_compare_needs_two(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    result = pkc("compare", "a")
    assert result.exit_code == 2 and "pkc compare a OTHER" in result.stderr


@pytest.mark.parametrize("command", ["show", "compare"])
def test_damage_is_named(home: Path, pruned: Path, command: str) -> None:
    shutil.copytree(pruned / "a", "a")
    (home / "a" / "report.json").write_text("{}")
    result = pkc(command, *["a"] * (1 if command == "show" else 2))
    assert result.exit_code == 1 and "PKC626" in result.stderr and "'report.json'" in result.stderr


def test_certify(home: Path) -> None:
    result = pkc("certify", "mlp.py")
    assert result.exit_code == 0 and len(re.findall(r"^holds .* < 1e-09", result.stdout, re.MULTILINE)) == 3
    assert "frozen: nothing" in result.stdout
    found = json.loads(pkc("certify", "mlp.py", "--json", "-").stdout)
    assert found["holds"] and found["max_gradient_error"] < 1e-9


def test_certify_lists_what_is_frozen_and_fails_when_it_does_not_hold(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "norm.py").write_text("import torch\nfrom torch import nn\nmodel = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))\n")
    shown = pkc("certify", "norm.py", "--input", "2x4")
    assert shown.exit_code == 0 and len(re.findall(r"^frozen: (?!nothing)", shown.stdout, re.MULTILINE)) == 1
    monkeypatch.setattr("pkcompiler.paths.certificate.gradient_errors", lambda *_: {"0.weight": 0.5})
    damaged = pkc("certify", "norm.py", "--input", "2x4")
    assert damaged.exit_code == 1 and "FAILS  gradients agree" in damaged.stdout and "PKC503" in damaged.stderr


def test_ir_says_what_was_chosen(home: Path) -> None:
    (home / "heads.py").write_text(
        "import torch\nfrom torch import nn\nclass Heads(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(4, 2)\n        self.b = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n        return {'first': self.a(x), 'second': self.b(x)}\n"
    )
    result = pkc("ir", "heads.py", "--input", "1x4")
    assert result.exit_code == 0 and "'first' is analysed" in result.stderr and "@a.weight" in result.stdout
    other = pkc("ir", "heads.py", "--input", "1x4", "--output", "second")
    assert "analysed" not in other.stderr and "@b.weight" in other.stdout


def test_plugins_are_imported_before_the_lift(home: Path) -> None:
    (home / "my_ops.py").write_text("raise RuntimeError('imported')\n")
    result = pkc("ir", "mlp.py", "--plugin", "my_ops.py")
    assert result.exit_code == 1 and "PKC243" in result.stderr and "imported" in result.stderr
