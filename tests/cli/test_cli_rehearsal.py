"""The dry run of schedules that prune in training says what the training then does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pkcompiler import load_schedule
from pkcompiler.show.densities import densities
from tests.cli_support import MLP, home, pkc

__all__ = ["home"]

SCHEDULE = """\
schedule grows {
  prune synflow { density = 60%  rounds = 2 }
  prune magnitude { density = 20%  curve = cubic  at = epochs(1..3) }
  prune magnitude { density = 15%  at = end  rounds = 2  rewind = epoch(1)  except = "5.weight" }
}
"""


def trained(text: str) -> list[tuple[int, float, int]]:
    """Round, density and kept weights of every round, from a training of four epochs."""
    space: dict = {}
    exec(MLP, space)
    torch.manual_seed(0)
    model, x, y = space["model"](), torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = load_schedule(text).cycles(model, optimizer, x[:1], epochs=4)
    for cycle in run:
        for _ in cycle:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            cycle.step()
            cycle.epoch_end()
    return [(visit.round, visit.density, visit.kept) for visit in run.visits]


def test_planned_rounds_are_those_of_the_training(home: Path) -> None:
    (home / "grows.pkc").write_text(SCHEDULE)
    found = pkc("prune", "mlp.py", "--schedule", "grows.pkc", "--dry-run", "--json", "-", "--plot", "plots")
    rows = json.loads(found.stdout)["rounds"]
    visits = trained(SCHEDULE)
    assert [(r["round"], r["kept"]) for r in rows] == [(number, kept) for number, _, kept in visits]
    assert [r["density"] for r in rows] == pytest.approx([density for _, density, _ in visits], abs=1e-3)
    after = [r["when"] for r in rows]
    back = "after training, then back to epoch 1"
    assert after == ["before training"] * 2 + [f"after epoch {e}" for e in (1, 2, 3)] + [back] * 2
    assert [bool(r["layers"]) for r in rows] == [True, True, False, False, False, False, False]
    assert sorted(p.name for p in (home / "plots").iterdir()) == ["densities.png", "densities.svg"]


def test_a_dry_run_shows_parts_of_other_quantities(home: Path) -> None:
    (home / "s.pkc").write_text("schedule s { prune magnitude { flops = 25%  curve = linear  at = steps(10..30, every = 10) } }")
    shown = pkc("prune", "mlp.py", "--schedule", "s.pkc", "--dry-run")
    assert shown.exit_code == 0 and "3 rounds in training" in shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()[1:]]
    assert [row[-3:] for row in rows] == [["-", part, "-"] for part in ("0.7500", "0.5000", "0.2500")]


def test_what_training_could_never_reach_is_refused(home: Path) -> None:
    (home / "s.pkc").write_text('schedule s { prune magnitude { density = 1%  at = end  floor "1.weight" = 20% } }')
    refused = pkc("prune", "mlp.py", "--schedule", "s.pkc", "--dry-run")
    assert refused.exit_code == 1 and "PKC4" in refused.stderr and refused.stdout == ""


def test_a_layer_that_is_emptied_is_marked() -> None:
    rows = [({"a": 0.5, "b": 0.4}, 0.45), ({"a": 0.3, "b": 0.0}, 0.2), ({"a": 0.1, "b": 0.0}, 0.1)]
    (axis,) = densities([{"layers": layers, "density": whole, "when": "before training"} for layers, whole in rows]).axes
    crosses = [line for line in axis.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [(list(c.get_xdata()), list(c.get_ydata())) for c in crosses] == [([1], [0.4])]
