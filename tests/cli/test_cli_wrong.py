"""``pkc prune`` with wrong inputs of each kind: what is said, and that nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli_support import home, listing, pkc, pruned

__all__ = ["home", "pruned"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "pkc prune mlp.py --pass synflow-l2 --sparsity 98%"),
        (("--density", "10%"), "No pass: type how weights are scored, such as --pass synflow-l2;"),
        (("--pass", "synflow"), "--sparsity 98%"),
        (("--pass", "synflow", "--sparsity", "98"), "--sparsity 98%"),
        (("--pass", "synflow", "--sparsity", "100%"), "--sparsity 90%"),
        (("--pass", "synflow", "--density", "0"), "--density 10%"),
        (("--pass", "synflow", "--density", "many"), "--density 10% or --density 0.1"),
        (("--pass", "synflow", "--density", "-1"), "--density 10%"),
        (("--pass", "synflow", "--compression", "0.5x"), "--compression 50x"),
        (("--pass", "synflow", "--compression", "50%"), "--compression 50x"),
        (("--pass", "synflow", "--sparsity", "90%", "--density", "10%"), "type only one of them"),
        (("--schedule", "two.pkc", "--density", "10%"), "leave out --density"),
        (("--schedule", "two.pkc", "--pass", "synflow"), "type one of them"),
        (("--pass", "synflow", "--sparsity", "90%", "--force", "--fresh"), "type only --force"),
        (("--pass", "synflow", "--sparsity", "90%", "--batch", "4"), "type --data"),
        (("--pass", "synflow", "--sparsity", "90%", "--rounds", "0"), "--rounds"),
        (("--pass", "synflow", "--size", "4TB"), "--size 4MB"),
        (("--pass", "synflow", "--sparsity", "90%", "--plot", "plots"), "--dry-run --plot DIR"),
        (("--pass", "synflow", "--sparsity", "90%", "--select", "best"), "kth-le"),
    ],
)
def test_usage_errors_say_what_to_type(home: Path, args: Sequence[str], message: str) -> None:
    result = pkc("prune", "mlp.py", *args)
    assert result.exit_code == 2 and result.stdout == "" and message in result.stderr
    assert len(result.stderr.strip().splitlines()[-1].split(". ")) <= 2
    assert listing(home) == ["mlp.py", "two.pkc"]


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [
        (("mpl.py", "--pass", "synflow", "--density", "10%"), "PKC242", "did you mean 'mlp.py'"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--input", "1x3x8x8"), "PKC203", "(1, 3, 8, 8)"),
        (("net.py", "--pass", "synflow", "--density", "10%"), "PKC242", "there are: "),
        (
            ("mlp.py", "--pass", "synflow", "--density", "10%", "--structure", "block(4)"),
            "PKC106",
            "block(4): needs two whole numbers",
        ),
        (("mlp.py", "--schedule", "synflow.pkc"), "PKC611", "'pkc passes' lists"),
        (("mlp.py", "--schedule", "own.pkc"), "PKC119", "--pass own.pkc"),
        (("mlp.py", "--pass", "two.pkc", "--density", "10%"), "PKC119", "--schedule two.pkc"),
        (("made", "--pass", "synflow", "--density", "10%"), "PKC242", "pkc show made"),
        (("mlp.py", "--pass", "sinflow", "--density", "10%"), "PKC117", "did you mean 'synflow'"),
        (("mlp.py", "--pass", "./none.pkc", "--density", "10%"), "PKC611", "none.pkc"),
        (("mlp.py", "--schedule", "tow.pkc"), "PKC611", "two.pkc"),
        (("mlp.py", "--pass", "snip", "--density", "10%"), "PKC502", "--data digits"),
        (("mlp.py", "--pass", "snip", "--density", "10%", "--data", "digit"), "PKC660", "did you mean 'digits'"),
        (("mlp.py", "--pass", "snip", "--density", "10%", "--data", "unlabelled.npz"), "PKC662", "no 'y'"),
        (("mlp.py", "--pass", "snip", "--density", "10%", "--data", "wide.npz"), "PKC505", "(1, 9, 9)"),
        (("mlp.py", "--pass", "snip", "--density", "10%", "--data", "digits", "--loss", "mlp.py:lost"), "PKC412", "lost"),
        (("mlp.py", "--pass", "snip", "--density", "10%", "--data", "digits", "--loss", "bad.py:raises"), "PKC243", "bad.py:2"),
        (
            ("mlp.py", "--pass", "snip", "--density", "10%", "--data", "digits", "--loss", "bad.py:wide"),
            "PKC412",
            "mean over the samples",
        ),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--weights", "nan.safetensors"), "PKC405", "'3.weight'"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--weights", "nan.pth"), "PKC640", "nan.pth"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--except", "*.weight"), "PKC403", "too many"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--except", "conv*"), "PKC402", "conv*"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "--device", "cuda:77"), "PKC411", "--device cpu"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "-o", "mlp.py/out"), "PKC620", "-o DIR"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "-o", "/proc/none/out"), "PKC620", "-o DIR"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "-o", "."), "PKC621", "-o DIR"),
        (("mlp.py", "--pass", "synflow", "--density", "10%", "-o", ".", "--force"), "PKC621", "-o DIR"),
        (("mlp.py", "--pass", "magnitude", "--compression", "1000x", "-o", "out"), "PKC410", "synflow"),
    ],
)
def test_wrong_inputs_are_diagnosed_and_leave_nothing(home: Path, args: Sequence[str], code: str, named: str) -> None:
    generator = np.random.default_rng(0)
    np.savez(home / "unlabelled.npz", x=generator.normal(size=(8, 1, 8, 8)))
    np.savez(home / "wide.npz", x=generator.normal(size=(20, 1, 9, 9)).astype("float32"), y=np.arange(20) % 2)
    (home / "own.pkc").write_text('pass own {\n  source = "mine"\n  score = abs(theta)\n}\n')
    (home / "made").mkdir()
    (home / "made" / "manifest.json").write_text("{}")
    (home / "bad.py").write_text(
        "def raises(output, target):\n    return output.nothing\ndef wide(output, target):\n    return output\n"
    )
    state: dict[str, Any] = {f"{i}.{w}": torch.ones(s) for i, w, s in SIZES}
    state["3.weight"][0, 0] = float("nan")
    save_file(state, home / "nan.safetensors")
    before = listing(home)
    result = pkc("prune", *args)
    assert result.exit_code == 1 and result.stdout == "", result.stderr
    assert f"error[{code}]" in result.stderr and named in result.stderr
    assert [p for p in listing(home) if not p.endswith(".pyc")] == before


SIZES = [
    ("1", "weight", (12, 64)),
    ("1", "bias", 12),
    ("3", "weight", (12, 12)),
    ("3", "bias", 12),
    ("5", "weight", (10, 12)),
    ("5", "bias", 10),
]


def test_a_collapse_keeps_the_last_good_masks(home: Path) -> None:
    args = ("prune", "mlp.py", "--pass", "magnitude", "--compression", "900x", "--rounds", "12", "-o", "out")
    result = pkc(*args)
    assert result.exit_code == 1 and "PKC410" in result.stderr
    good = re.search(r"the masks of round (\d+) \(([\d,]+) of", result.stderr)
    assert good is not None
    masks = load_file("out.partial/masks.safetensors")
    assert sum(int(m.sum()) for m in masks.values()) == int(good[2].replace(",", "")) and not Path("out").exists()
    again = pkc(*args)
    assert again.exit_code == 1 and f"resuming after round {good[1]} " in again.stderr and "PKC410" in again.stderr
    assert "the last run of this command ended here in layer collapse in round" in again.stderr
    assert "round " + good[1] + " at density" in again.stderr and "none" not in again.stderr
    assert "ended in layer collapse" in pkc("analyze", "out").stderr
    shown = pkc("show", "out")
    assert shown.exit_code == 1 and "ended in layer collapse" in shown.stderr and "it was: pkc prune mlp.py" in shown.stderr
    assert pkc(*args[:5], "5x", *args[6:], "--fresh").exit_code == 0


@pytest.mark.parametrize("pass_", ["synflow", "synflow-l2", "magnitude"])
def test_a_collapse_never_advises_the_pass_in_use(home: Path, pass_: str) -> None:
    result = pkc("prune", "mlp.py", "--pass", pass_, "--density", "0.1%", "--rounds", "1", "-o", "out")
    advised = re.search(r"conserves path mass \(([^)]*)\)", result.stderr)
    assert result.exit_code == 1 and advised is not None and pass_ not in advised[1].split(", ")
    assert "no round was done before it" in result.stderr and listing(home) == ["mlp.py", "two.pkc"]


def test_a_collapse_without_a_good_round_keeps_no_masks_and_says_so(home: Path) -> None:
    result = pkc("prune", "mlp.py", "--pass", "random", "--density", "1.2%", "--rounds", "40", "-o", "out")
    assert result.exit_code == 1 and re.search(r"round 39 had lost its last path already", result.stderr)
    assert "the masks of round" not in result.stderr and not Path("out.partial/masks.safetensors").exists()


def test_json_that_cannot_be_written(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    result = pkc("show", "a", "--json", "nowhere/a.json")
    assert result.exit_code == 1 and "PKC631" in result.stderr
