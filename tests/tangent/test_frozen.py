"""Parameters that do not train: they are pruned like any other, which is said, unless ``except = frozen`` keeps them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from pkcompiler import prune
from pkcompiler.training import load_schedule
from tests.cli_support import pkc

SCHEDULE = "schedule s {{ prune magnitude {{ density = 50%\n except = {} }} }}"
LATER = "schedule s { prune magnitude { density = 50%\n at = epochs(1..1) } }"


def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    return net


def test_pruning_them_is_said() -> None:
    with pytest.warns(UserWarning, match=r"'0\.weight'; except = frozen") as said:
        found = prune(model(), torch.randn(1, 4), "magnitude", density=0.5)
    assert len(said) == 1 and not found.masks["0.weight"].all()


@pytest.mark.parametrize("kept", ["frozen", '"0.*"', "bias, frozen"])
def test_the_word_keeps_them_whole_and_nothing_is_said(kept: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = prune(model(), torch.randn(1, 4), schedule=SCHEDULE.format(kept))
    assert found.masks["0.weight"].all() and found.kept == 20


def test_where_everything_trains_the_word_keeps_nothing() -> None:
    net = model().requires_grad_(True)
    words = SCHEDULE.format("frozen"), SCHEDULE.format("bias")
    a, b = (prune(net, torch.randn(1, 4), schedule=text).masks for text in words)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_schedule_in_training_says_it_before_training() -> None:
    net = model()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    with pytest.warns(UserWarning, match="frozen parameters"):
        load_schedule(LATER).cycles(net, optimizer, torch.randn(1, 4), epochs=1)


def test_what_is_thawed_in_training_competes_from_then_on() -> None:
    net = model()
    text = "schedule s { prune magnitude { density = 50%\n at = epochs(1..2)\n except = frozen } }"
    cycles = load_schedule(text).cycles(net, torch.optim.SGD(net.parameters(), 0.1), torch.randn(1, 4), epochs=2)
    for cycle in cycles:
        for epoch in cycle:
            cycle.epoch_end()
            assert cycle.masks["0.weight"].all() == (epoch == 1)
            net.requires_grad_(True)


def test_the_command_line_says_it_and_takes_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "from torch import nn\ndef model():\n    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    (tmp_path / "net.py").write_text(lines + "    net[0].requires_grad_(False)\n    return net\n")
    given = ("prune", "net.py", "--input", "1x4", "--pass", "magnitude", "--density", "0.7")
    said = pkc(*given, "--out", "a")
    quiet = pkc(*given, "--except", "frozen", "--out", "b")
    assert "frozen parameters" in said.stderr and "frozen parameters" not in quiet.stderr
