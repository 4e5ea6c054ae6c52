"""``pkc prune``: what it prints, what it writes, what makes another run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pkcompiler
from pkcompiler.pruning.progress import Sometimes, describe
from pkcompiler.pruning.state import Round
from tests.cli_support import MLP, ROOT, SCHEMA, home, listing, pkc, pruned

__all__ = ["home", "pruned"]

GATED = """
import torch
from torch import nn


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.a(x) * torch.sigmoid(self.b(x)))


def model():
    return Gated()


def example_inputs():
    return torch.zeros(1, 4)
"""


def test_one_screen_and_three_lines_that_run(home: Path) -> None:
    result = pkc("prune", "mlp.py", "--pass", "synflow-l2", "--sparsity", "90%", "--rounds", "5")
    assert result.exit_code == 0, result.stderr
    folder = "mlp-synflow-l2-sparsity90-s0"
    screen, lines = result.stdout.split("\n\n")
    total = 64 * 12 + 12 * 12 + 12 * 10
    assert f"{round(total / 10):,} of {total:,}" in screen and "direct" in screen and "effective" in screen
    assert len(re.findall(r"^(?:worst layers|\s{14})", screen, re.MULTILINE)) == 3
    assert f"folder        {folder}" in screen and len(screen.splitlines()) < 24
    assert "random initialisation (seed 0)" in result.stderr
    weights = "(p for n, p in network.named_parameters() if n.endswith('weight'))"
    check = f"{lines}\nassert sum(int((p != 0).sum()) for p in {weights}) == {round(total / 10)}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert len(lines.strip().splitlines()) == 3 and done.returncode == 0, done.stderr
    assert listing(home) == sorted(
        ["mlp.py", "two.pkc", folder, *(f"{folder}/{n}" for n in [*pkcompiler.load(folder).manifest["files"], "manifest.json"])]
    )


def test_a_run_says_how_products_of_activations_are_read(home: Path) -> None:
    (home / "gated.py").write_text(GATED)
    for name, said in (("synflow", ["either"]), ("synflow-l2-pairs", ["pairs"]), ("magnitude", [])):
        result = pkc("prune", "gated.py", "--pass", name, "--density", "50%", "--rounds", "1", "-o", name)
        assert result.exit_code == 0, result.stderr
        assert re.findall(rf"products of activations: 1, read by '{name}' as products = (\w+)", result.stderr) == said
    plain = pkc("prune", "mlp.py", "--pass", "synflow", "--density", "50%", "--rounds", "1", "-o", "plain")
    assert "products of activations" not in plain.stderr


def test_the_same_command_again_is_up_to_date(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    before = (pruned / "a" / "manifest.json").read_bytes()
    again = pkc("prune", "mlp.py", "--pass", "synflow-l2", "--density", "10%", "--rounds", "5", "-o", "a")
    assert again.exit_code == 1 and "sparsity = 90%" in again.stderr and "density = 10%" in again.stderr
    again = pkc("prune", "mlp.py", "--pass", "synflow-l2", "--sparsity", "0.9", "--rounds", "5", "-o", "a")
    assert again.exit_code == 0 and "up to date: a" in again.stderr and "kept" in again.stdout
    assert (pruned / "a" / "manifest.json").read_bytes() == before and not (pruned / "a.partial").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("--seed", "1"), ("the seed of the initialisation: 0 before, 1 now", "the weights changed")),
        (("--dtype", "float32"), ("the dtype: float64 before, float32 now",)),
        (("--arg", "width=6"), ("the arguments", "the weights changed")),
        (("--rounds", "6"), ("'rounds   = 6' now",)),
    ],
)
def test_another_recipe_is_named_and_refused(
    pruned: Path, monkeypatch: pytest.MonkeyPatch, args: Sequence[str], named: Sequence[str]
) -> None:
    monkeypatch.chdir(pruned)
    before = (pruned / "a" / "manifest.json").read_bytes()
    result = pkc("prune", "mlp.py", "--pass", "synflow-l2", "--sparsity", "90%", "--rounds", "5", "-o", "a", *args)
    assert result.exit_code == 1 and "PKC622" in result.stderr and "--force" in result.stderr
    assert all(re.sub(" +", " ", text) in re.sub(" +", " ", result.stderr) for text in named)
    assert (pruned / "a" / "manifest.json").read_bytes() == before and not (pruned / "a.partial").exists()


def test_a_changed_source_is_another_recipe_and_force_replaces(home: Path) -> None:
    args = ("prune", "mlp.py", "--pass", "magnitude", "--sparsity", "50%", "-o", "out")
    assert pkc(*args).exit_code == 0
    (home / "mlp.py").write_text(MLP + "\n# another\n")
    refused = pkc(*args)
    assert refused.exit_code == 1 and "the model's source file changed" in refused.stderr
    assert pkc(*args, "--force").exit_code == 0 and pkc(*args).exit_code == 0
    assert {p.name for p in home.iterdir() if p.is_dir()} - {"__pycache__"} == {"out"}


def test_flags_and_the_schedule_that_they_print_make_the_same_masks(home: Path) -> None:
    flags = (
        "--pass",
        "synflow",
        "--compression",
        "2.5x",
        "--rounds",
        "3",
        "--curve",
        "linear",
        "--select",
        "kth-le",
        "--except",
        "5.weight",
    )
    printed = pkc("prune", "mlp.py", *flags, "--seed", "4", "--print-schedule")
    assert printed.exit_code == 0 and listing(home) == ["mlp.py", "two.pkc"]
    (home / "s.pkc").write_text(printed.stdout)
    assert pkc("check", "s.pkc").exit_code == 0
    assert pkc("prune", "mlp.py", *flags, "--seed", "4", "-o", "flags").exit_code == 0
    assert pkc("prune", "mlp.py", "--schedule", "s.pkc", "-o", "schedule").exit_code == 0
    one, other = load_file("flags/masks.safetensors"), load_file("schedule/masks.safetensors")
    assert all(torch.equal(one[n], m) for n, m in other.items()) and bool(one["5.weight"].all())


def test_a_schedule_brings_its_seed_and_the_command_line_overrides(home: Path) -> None:
    assert pkc("prune", "mlp.py", "--schedule", "two.pkc").exit_code == 0
    artifact = pkcompiler.load("mlp-two-sparsity90-s5")
    assert artifact.manifest["model"]["seed"] == 5 and artifact.kept == round(0.1 * artifact.total)
    result = pkc("prune", "mlp.py", "--schedule", "two.pkc", "--seed", "6", "--rounds", "2")
    assert result.exit_code == 0 and "rounds   = 2" in pkcompiler.load("mlp-two-sparsity90-s6").schedule


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--sparsity", "75%"), 0.25),
        (("--density", ".25"), 0.25),
        (("--compression", "4"), 0.25),
        (("--sparsity", "0%"), 1.0),
        (("--density", "1"), 1.0),
        (("--density", "2.5%"), 0.025),
    ],
)
def test_targets(home: Path, flags: Sequence[str], kept: float) -> None:
    result = pkc("prune", "mlp.py", "--pass", "synflow", "--rounds", "30", *flags, "-o", "out", "--json", "-")
    found = json.loads(result.stdout)
    assert found["kept"] == round(kept * found["total"]) and found["status"] == "new"


def test_include_and_except_take_globs_and_words(home: Path) -> None:
    result = pkc(
        "prune", "mlp.py", "--pass", "magnitude", "--density", "50%", "--include", "bias", "--except", "[35].*", "-o", "out"
    )
    assert result.exit_code == 0, result.stderr
    masks = load_file("out/masks.safetensors")
    assert "1.bias" in masks and all(bool(m.all()) == n.startswith(("3.", "5.")) for n, m in masks.items())


def test_data_and_loss_of_the_user(home: Path) -> None:
    (home / "my_loss.py").write_text("def square(output, target):\n    return (output ** 2).mean()\n")
    base = ("prune", "mlp.py", "--pass", "snip", "--density", "20%", "--data", "digits(per_class = 2)")
    assert pkc(*base, "-o", "whole").exit_code == 0
    assert pkc(*base, "--batch", "7", "-o", "batches").exit_code == 0
    assert pkc(*base, "--loss", "my_loss.py:square", "-o", "square").exit_code == 0
    manifest = json.loads(Path("batches/manifest.json").read_text())
    jsonschema.validate(manifest, SCHEMA)
    assert len(manifest["data"]["indices"]) == 20 and manifest["data"]["batch"] == 7
    overlaps = json.loads(pkc("compare", "whole", "batches", "square", "--json", "-").stdout)["overlaps"]
    assert overlaps[0]["jaccard"] > 0.98 > overlaps[1]["jaccard"]


def test_no_absolute_path_is_recorded(home: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype("float32"), np.arange(20) % 2
    np.savez(home / "data.npz", x=x, y=y)
    (home / "mine.pkc").write_text('pass mine {\n  source = "me"\n  score = abs(theta * grad(loss, theta))\n}\n')
    names = [str(home / name) for name in ("mlp.py", "mine.pkc", "data.npz")]
    result = pkc(
        "prune", names[0], "--pass", names[1], "--density", "20%", "--data", f"{names[2]}(per_class = 3)", "-o", str(home / "out")
    )
    assert result.exit_code == 0, result.stderr
    for file in (home / "out").iterdir():
        assert str(home).encode() not in file.read_bytes(), file.name
    assert "pass mine {" in pkcompiler.load("out").schedule


def test_weights_are_recorded_and_scored(home: Path) -> None:
    from pkcompiler.driver.open import open_model

    state = {n: t * 2 for n, t in open_model("mlp.py").module.state_dict().items()}
    save_file(state, "w.safetensors")
    result = pkc("prune", "mlp.py", "--pass", "magnitude", "--density", "20%", "--weights", "w.safetensors", "-o", "out")
    assert result.exit_code == 0 and "random initialisation" not in result.stderr
    assert all(torch.equal(pkcompiler.load("out").weights[n], t) for n, t in state.items())


def test_resnet20(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ROOT / "examples" / "resnet20.py"
    result = pkc(
        "prune", str(model), "--pass", "synflow", "--sparsity", "98%", "--rounds", "10", "--dtype", "float32", "--json", "out.json"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(Path("out.json").read_text())
    assert found["kept"] == round(0.02 * 270_896) and found["effective_sparsity"] >= found["direct_sparsity"]
    jsonschema.validate(found["manifest"], SCHEMA)
    assert "worst layers" in result.stdout


# dry run -------------------------------------------------------------------------------------------------------------------


def test_dry_run_prints_every_layer_at_every_round_and_writes_nothing(home: Path) -> None:
    args = ("prune", "mlp.py", "--pass", "synflow", "--sparsity", "90%", "--rounds", "3")
    result = pkc(*args, "--dry-run")
    assert result.exit_code == 0 and listing(home) == ["mlp.py", "two.pkc"]
    assert "nothing is written" in result.stderr and "took" in result.stderr
    rows = result.stdout[result.stdout.index("round") :].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"] and all(len(row.split()) == 6 for row in rows)
    states = json.loads(pkc(*args, "--dry-run", "--json", "-").stdout)["rounds"]
    assert pkc(*args, "-o", "out").exit_code == 0
    masks = load_file("out/masks.safetensors")
    assert states[-1]["layers"] == {n: float(m.float().mean(dtype=torch.float64)) for n, m in sorted(masks.items())}
    assert [round(s["density"], 6) for s in states] == [round(0.1 ** (k / 3), 6) for k in (1, 2, 3)]


def test_dry_run_of_several_stages(home: Path) -> None:
    rows = pkc("prune", "mlp.py", "--schedule", "two.pkc", "--dry-run").stdout.splitlines()[-5:]
    assert [row.split()[0] for row in rows] == ["1.1", "2.1", "2.2", "2.3", "2.4"]


def test_progress_names_what_is_known() -> None:
    state = Round(0, 3, 10, 0.12345, 5, 40, {}, 45.67)
    assert describe(state, 0.98765) == "density 0.1235  log10 mass 45.7  effective sparsity 98.77%"
    assert describe(Round(0, 3, 10, 0.5, 5, 40, {}), None) == "density 0.5"


def test_the_effective_sparsity_takes_a_tenth_of_the_time_at_most() -> None:
    now, calls = [0.0], []

    def costly(state: Round) -> float:
        now[0] += 2.0
        calls.append(now[0])
        return 0.5

    sometimes = Sometimes(costly, lambda: now[0])
    for _ in range(1000):
        now[0] += 0.1
        sometimes(Round(0, 1, 1, 0.5, 1, 2, {}))
    assert len(calls) >= 3 and 2.0 * len(calls) <= 0.12 * now[0]
