"""``pkc prune``, ``show``, ``compare``, ``certify`` as a user meets them: results, wrong inputs of each kind, what is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import pkcompiler
from pkcompiler.cli import main
from pkcompiler.pruning.progress import Sometimes, describe
from pkcompiler.pruning.rounds import Round

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "pkcompiler" / "pruning" / "manifest.schema.json").read_text())

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


# results -------------------------------------------------------------------------------------------------------------------


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
    from pkcompiler.pipeline import open_model

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


# wrong inputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "--pass synflow-l2 --sparsity 98%"),
        (("--pass", "synflow"), "--sparsity 98%"),
        (("--pass", "synflow", "--sparsity", "98"), "--sparsity 98%"),
        (("--pass", "synflow", "--sparsity", "100%"), "--sparsity 90%"),
        (("--pass", "synflow", "--density", "0"), "--density 90%"),
        (("--pass", "synflow", "--density", "many"), "--density 98%"),
        (("--pass", "synflow", "--density", "-1"), "--density 98%"),
        (("--pass", "synflow", "--compression", "0.5x"), "--compression 50x"),
        (("--pass", "synflow", "--compression", "50%"), "--compression 50x"),
        (("--pass", "synflow", "--sparsity", "90%", "--density", "10%"), "type only one of them"),
        (("--schedule", "two.pkc", "--density", "10%"), "leave out --density"),
        (("--schedule", "two.pkc", "--pass", "synflow"), "type one of them"),
        (("--pass", "synflow", "--sparsity", "90%", "--force", "--fresh"), "type only --force"),
        (("--pass", "synflow", "--sparsity", "90%", "--batch", "4"), "type --data"),
        (("--pass", "synflow", "--sparsity", "90%", "--rounds", "0"), "--rounds"),
        (("--pass", "synflow", "--sparsity", "90%", "--curve", "steep"), "exponential"),
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
            "mean over the batch",
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
    assert again.exit_code == 1 and f"resuming behind round {good[1]} " in again.stderr and "PKC410" in again.stderr
    assert pkc(*args[:5], "5x", *args[6:], "--fresh").exit_code == 0


def test_json_that_cannot_be_written(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pruned)
    result = pkc("show", "a", "--json", "nowhere/a.json")
    assert result.exit_code == 1 and "PKC631" in result.stderr


# the other commands --------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("pkcompiler.analysis.certificate.gradient_errors", lambda *_: {"0.weight": 0.5})
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


# progress ------------------------------------------------------------------------------------------------------------------


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
