"""Scores of 0 are said: how many of what is kept position chose, and an error of its own where there is nothing to choose by."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from cli_support import pkc
from torch import Tensor, nn

import pkcompiler
from pkcompiler import PkcError
from pkcompiler.artifact.resume import read_state, write_state
from pkcompiler.pruning.state import Round

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)  # as zero_init_last does

    def forward(self, x):
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3), Block(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))).mean((2, 3)))

def model() -> nn.Module:
    return Net()

def example_inputs():
    return torch.ones(1, 3, 6, 6)
"""


def net() -> nn.Module:
    torch.manual_seed(0)
    space: dict = {}
    exec(MODEL, space)
    found: nn.Module = space["Net"]().eval()
    return found


def zeros_kept(model: nn.Module, kept: dict[str, Tensor], **options) -> int:
    scores = pkcompiler.score(model, X, "synflow", **options)
    return sum(int(((scores[n] == 0) & m).sum()) for n, m in kept.items())


@pytest.mark.parametrize("more", [{}, {"scope": "uniform"}])
def test_kept_weights_of_score_zero_are_counted_and_said(more) -> None:
    """The block's 288 weights have score 0; of 408 in all 245 are kept, so at least 125 of these."""
    model = net()
    with pytest.warns(UserWarning, match="score 0: position alone chose it; block.norm2.weight is 0 throughout") as caught:
        pruned = pkcompiler.prune(model, X, "synflow", density=0.6, rounds=1, **more)
    assert pruned.by_position == zeros_kept(model, pruned.masks) > 0
    assert f"{pruned.by_position / pruned.kept:.1%} of what is kept ({pruned.by_position} of {pruned.kept}" in str(
        caught[0].message
    )


def test_over_rounds_the_last_one_counts() -> None:
    model = net()
    with pytest.warns(UserWarning, match="position alone"):
        pruned = pkcompiler.prune(model, X, "synflow", density=0.6, rounds=5)
    assert pruned.by_position == zeros_kept(model, pruned.masks, masks=pruned.masks) == pruned.kept - 108 - 12


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_nothing_is_said_where_scores_chose_all_of_it(density: float) -> None:
    """Every weight of score 0 has gone, or every one stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pkcompiler.prune(net(), X, "synflow", density=density, rounds=1).by_position == 0


def test_units_count_with_what_they_hold() -> None:
    """Blocks by their sums: one that holds a weight with a score is chosen by it. Channels likewise; the inner four have 0."""
    model = net()
    scores = pkcompiler.score(model, X, "synflow")
    text = "schedule s {{ prune synflow {{ density = {} structure = {} rounds = 1 }} }}"
    with pytest.warns(UserWarning, match="position alone"):
        blocks = pkcompiler.prune(model, X, schedule=text.format("60%", "block(2, 2)"))
    assert blocks.by_position == sum(
        int(m.sum()) for n, m in blocks.masks.items() if n.startswith("block") and not bool(scores[n].any())
    )
    with pytest.warns(UserWarning, match="position alone"):
        channels = pkcompiler.prune(model, X, schedule=text.format("75%", "channel"))
    inner = ("block.conv1.weight", "block.conv1.bias", "block.norm1.weight", "block.norm1.bias")
    assert channels.by_position == sum(int(channels.masks[n].sum()) for n in inner) > 0


def test_every_score_zero_is_an_error_of_its_own() -> None:
    model = net()
    nn.init.zeros_(model.head.weight)
    for name in ("synflow", "synflow-l2"):
        with pytest.raises(PkcError) as caught:
            pkcompiler.prune(model, X, name, density=0.5)
        (found,) = caught.value.diagnostics
        assert found.code == "PKC413" and "in round 1 of 100" in found.message
        assert "head.weight are 0 throughout" in found.notes[0] and "layer collapse" not in str(caught.value)
    assert pkcompiler.prune(model, X, "synflow", density=1.0, rounds=1).kept == 408


def test_targets_that_are_all_ignored() -> None:
    model = net()
    nn.init.ones_(model.block.norm2.weight)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, ignore_index=-100, reduction="sum") / len(target)

    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(model, X, "snip", density=0.5, data=(X, torch.full((2,), -100)), loss=loss)
    (found,) = caught.value.diagnostics
    assert (found.code, "all targets ignored" in found.notes[0]) == ("PKC413", True)


def test_the_command_says_it_and_the_artifact_holds_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    result = pkc("prune", "net.py", "--pass", "synflow", "--density", "60%", "-o", "out", "--json", "out.json")
    found = json.loads(Path("out.json").read_text())
    artifact = pkcompiler.load("out")
    assert result.exit_code == 0 and artifact.by_position == found["by_position"] == artifact.manifest["by_position"] > 0
    number = f"{artifact.by_position:,}"
    assert f"({number} of {artifact.kept:,} weights) has score 0: position alone chose it" in result.stderr
    assert f"{number} of them have score 0" in artifact.text("README.txt")
    again = pkc("prune", "net.py", "--pass", "synflow", "--density", "60%", "-o", "out")
    assert f"by position   {number} of the kept" in again.stdout


def test_a_state_on_disk_keeps_what_is_said(tmp_path: Path) -> None:
    state = Round(0, 2, 2, 0.5, 2, 4, {"w": torch.tensor([True, False])}, by_position=3, arbitrary="why", uncertain="so")
    write_state(tmp_path / "state", state, 1.0, "recipe")
    found = read_state(tmp_path / "state", "recipe")
    assert found is not None and (found[0].by_position, found[0].faults, found[0].remarks) == (3, state.faults, state.remarks)
