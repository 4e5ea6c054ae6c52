"""Stages on models: budgets counted independently, requirements, channels, refusals with their numbers, resumption, artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pkcompiler
from pkcompiler import PkcError
from pkcompiler.artifact.resume import read_state, write_state
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_schedule
from pkcompiler.lang.plan import plan_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.selection import quantity
from tests.cli_support import home, pkc

__all__ = ["home"]

X, IMAGE = torch.randn(2, 8), torch.randn(1, 4, 8, 8)
DATA = (torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*body, nn.ConvTranspose2d(8, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1)
        return weights @ self.v(x)


def prune(model: nn.Module, x: torch.Tensor, body: str, more: str = "", **options):
    return pkcompiler.prune(model, x, schedule=f"schedule s {{ {body} {more} }}", **options)


def refused(model: nn.Module, x: torch.Tensor, body: str, more: str = "") -> tuple[str, str]:
    with pytest.raises(PkcError) as caught:
        prune(model, x, body, more)
    return caught.value.diagnostics[0].code, caught.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("model", "x"), [(mlp(), X[:1]), (cnn(), IMAGE), (Attention(), torch.randn(1, 5, 8))], ids=["mlp", "cnn", "attention"]
)
def test_multiply_adds_are_half_of_what_torch_counts(model: nn.Module, x: torch.Tensor) -> None:
    captured = capture(model.eval(), x)
    counted = quantity.flops(captured.graph, sizes_of(model))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counted.whole * 2 == counter.get_total_flops()


def sizes_of(model: nn.Module) -> dict[str, int]:
    return {n: p.numel() for n, p in model.named_parameters() if p.dim() > 1}


def test_a_target_in_flops_is_held_and_almost_used_up() -> None:
    found = prune(cnn(), IMAGE, "prune synflow { flops = 30%\n rounds = 4 }")
    costs = quantity.flops(found.graph, {n: m.numel() for n, m in found.masks.items()})
    amount, budget = costs.at({n: int(m.sum()) for n, m in found.masks.items()}), int(0.3 * costs.whole)
    assert budget - max(costs.costs.values()) < amount <= budget


def test_a_target_in_bytes_is_the_size_of_a_file(tmp_path: Path) -> None:
    found = prune(mlp(), X, "prune magnitude { size = 1400\n rounds = 3 }")
    folder = found.save(tmp_path / "a")
    assert 1390 <= (folder / "sparse.safetensors").stat().st_size <= 1400
    artifact = pkcompiler.load(folder)
    assert "sparse.safetensors" in artifact.manifest["files"] and "size" in artifact.schedule
    whole = load_file(folder / "sparse.safetensors")
    assert all(torch.equal(whole[f"{n}:values"], artifact.weights[n][m]) for n, m in artifact.masks.items())


def test_a_requirement_stops_the_stage_just_above_it() -> None:
    model = mlp()
    found = prune(model, X, "prune magnitude { density = 20%\n rounds = 3\n require effective_paths = 500 }")
    paths = found.report.totals["paths"].value
    assert paths >= 500 and found.density > 0.2
    fewer = pkcompiler.prune(model, X, "magnitude", density=(found.kept - 1) / found.total, rounds=1)
    assert fewer.report.totals["paths"].value < 500
    code, message = refused(model, X, "prune magnitude { density = 20%\n require effective_paths = 100000 }")
    dense = pkcompiler.analyze(model, X).totals["paths"].value
    assert code == "PKC423" and f"{100_000 - dense:,} too few" in message


def test_channels_leave_whole_units() -> None:
    found = prune(cnn(), IMAGE, 'prune synflow { flops = 75%\n rounds = 2\n structure = channel\n except = "8.*" }')
    assert bool(found.masks["8.weight"].all()) and not bool(found.masks["2.weight"].all())
    rows = found.masks["2.weight"].flatten(1)
    assert torch.equal(rows.any(1), found.masks["3.weight"]) and torch.equal(found.masks["2.bias"], found.masks["3.weight"])


def test_targets_out_of_reach_are_refused_with_the_number() -> None:
    cases = [
        (mlp(), X, "density = 60%\n structure = 2:4", "PKC423", "29 too few"),
        (mlp(), X, 'density = 50%\n structure = 2:4\n floor "4.weight" = 75%', "PKC423", "8 weights of '4.weight' more"),
        (mlp(), X, "density = 1%\n structure = block(2, 2)", "PKC423", "1 more"),
        (cnn(), IMAGE, "size = 100", "PKC423", "too many"),
        (mlp(), X, "compression = 100000x", "PKC423", "less than one"),
        (cnn(), IMAGE, "flops = 0.001%", "PKC423", "too few"),
        (cnn(), IMAGE, 'flops = 5%\n except = "0.weight"', "PKC423", "too many"),
        (cnn(), IMAGE, "density = 1%\n structure = channel", "PKC423", "too many"),
        (cnn(), IMAGE, "density = 10%\n structure = 2:3", "PKC422", "multiple of 3"),
        (mlp(), X, "density = 10%\n at = end", "PKC425", "in a training that pkcompiler does not run"),
    ]
    for model, x, settings, code, part in cases:
        found = refused(model, x, f"prune magnitude {{ {settings} }}")
        assert found[0] == code and part in found[1], found


def test_lower_demands_a_structure() -> None:
    lower = 'lower { structure "[02].weight" = 2:4 }'
    good = prune(mlp(), X, "prune magnitude { density = 50%\n structure = 2:4 }", lower)
    assert "lower {" in good.plan.text
    assert refused(mlp(), X, "prune magnitude { density = 50% }", lower)[0] == "PKC424"
    assert refused(mlp(), X, "prune magnitude { density = 50% }", 'lower { structure "head.*" = 2:4 }')[0] == "PKC402"


EVERYTHING = """\
schedule everything {
  prune random { density = 80%  rounds = 2  structure = block(2, 2) }
  prune magnitude { density = 60%  rounds = 3  curve = 1 - (1 - rho) * k / n  regrow = abs(grad(loss, theta))  swap = 20% }
  prune synflow { flops = 55%  rounds = 3  curve = rho^(k / n) }
  prune magnitude { density = 5%  rounds = 4  require effective_paths = 300 }
}
"""


def test_any_state_goes_on_to_the_same_masks(tmp_path: Path) -> None:
    model = mlp()
    captured, plan = capture(model, X, dtype=torch.float64), plan_of(schedule=EVERYTHING)
    states = list(Run(captured, plan, torch.float64, Evidence(DATA)).rounds())
    assert [s.round for s in states] == [1, 2, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4] and states[-1].stopped
    for state in states[:-1]:
        write_state(tmp_path / "s", state, 1.0, "r")
        loaded = read_state(tmp_path / "s", "r")
        assert loaded is not None and loaded[0].stopped == state.stopped
        last = list(Run(captured, plan, torch.float64, Evidence(DATA)).rounds(after=loaded[0]))[-1]
        assert all(torch.equal(last.masks[n], m) for n, m in states[-1].masks.items())
        assert (last.density, last.kept, last.stopped) == (states[-1].density, states[-1].kept, states[-1].stopped)


def test_the_resolved_plan_reads_back() -> None:
    training = "at = steps(100..1000, every = 100)\n regrow = abs(grad(loss, theta))"
    rewound = "at = end\n rewind = step(500)\n rounds = 3"
    text = f"schedule t {{ prune random {{ density = 10% }} prune magnitude {{ density = 10%\n {training} }} "
    text += f'prune snip {{ size = 2.5KB\n {rewound} }} lower {{ structure "*" = block(1, 2) }} }}'
    for plan in (plan_of(schedule=EVERYTHING), plan_of(schedule=text)):
        again = plan_of(schedule=plan.text)
        assert again.text == plan.text and again.schedule.lower == plan.schedule.lower
        assert again.stages == plan.stages
    assert plan.stages[1].rounds == 10 and plan.stages[1].swap == 0.3 and plan.needs_data


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples" / "schedules").glob("*.pkc")), ids=lambda p: p.stem)
def test_schedules_to_start_from_are_checked_and_laid_out(path: Path) -> None:
    assert pkc("check", str(path)).exit_code == 0 and pkc("fmt", "--check", str(path)).exit_code == 0
    assert plan_of(schedule=find_schedule(str(path))).stages


def test_flags_of_structures_and_budgets_equal_the_schedule_that_they_print(home: Path) -> None:
    flags = ("--pass", "magnitude", "--flops", "40%", "--structure", "2:4", "--curve", "rho^(k/n)", "--rounds", "2")
    printed = pkc("prune", "mlp.py", *flags, "--print-schedule")
    assert printed.exit_code == 0 and "structure = 2:4" in printed.stdout and "flops     = 40%" in printed.stdout
    (home / "s.pkc").write_text(printed.stdout)
    assert pkc("prune", "mlp.py", *flags, "-o", "flags").exit_code == 0
    assert pkc("prune", "mlp.py", "--schedule", "s.pkc", "-o", "schedule").exit_code == 0
    one, other = load_file("flags/masks.safetensors"), load_file("schedule/masks.safetensors")
    assert all(torch.equal(one[n], m) for n, m in other.items())
    assert pkc("prune", "mlp.py", "--pass", "magnitude", "--size", "3KB", "--dry-run", "--plot", "plots").exit_code == 0
    assert sorted(p.name for p in (home / "plots").iterdir()) == ["densities.png", "densities.svg"]
    said = pkc("prune", "mlp.py", "--pass", "magnitude", "--density", "50%", "--curve", "1 - k/n")
    assert said.exit_code == 1 and "PKC420" in said.stderr
