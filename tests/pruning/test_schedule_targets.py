"""Targets of stages hold, or are refused or said: swaps under budgets, blocks, floors, scopes, and what earlier stages removed."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pkcompiler
from pkcompiler import PkcError
from pkcompiler.artifact.resume import read_state, write_state
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.plan import plan_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.selection.floors import fewest, served
from pkcompiler.structure import kept_of, masks_of

X = torch.randn(2, 20, generator=torch.Generator().manual_seed(3))
DATA = (torch.randn(12, 20, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 10)


def mlp(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def states(model: nn.Module, text: str, x: torch.Tensor = X, masks=None, after=None, data=None):
    run = Run(
        capture(model, x, dtype=torch.float64), plan_of(schedule=text), torch.float64, Evidence(data), state=model.state_dict()
    )
    return list(run.rounds(masks=masks, after=after))


def back(now, before) -> int:
    return sum(int((now[n] & ~before[n].bool()).sum()) for n in now)


def code(model: nn.Module, body: str, **options) -> tuple[str, str]:
    with pytest.raises(PkcError) as caught:
        pkcompiler.prune(model, X, schedule=f"schedule s {{ {body} }}", **options)
    return caught.value.diagnostics[0].code, caught.value.diagnostics[0].message


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_floor_takes_the_smallest_sum_of_blocks_that_serves_it(sizes, least) -> None:
    sums = [sum(c) for k in range(len(sizes) + 1) for c in combinations(sizes, k)]
    expected = min([s for s in sums if s >= least], default=sum(sizes))
    places = np.array(sizes)
    assert sum(fewest(places, least).elements()) == expected
    assert places[served(places, np.arange(places.size), least, sparing=True)].sum() == expected
    assert places[served(places, np.arange(places.size), least, sparing=False)].sum() >= min(least, sum(sizes))


def test_units_that_still_fit_are_put_back() -> None:
    """By hand, in multiply-adds of 40 -> 3 -> 10 -> 2: 170 in all, 102 asked. The 9 worst of the wide layer go (5 each: 125 left),
    then a unit of the first (40 and 1: 84 left); beside it the best four of the nine fit again, at 4 each."""
    net = mlp(40, 3, 10, 2)
    for layer, sizes in ((net[0], [9.0, 7.0, 8.0]), (net[2], [0.1 * i for i in (3, 9, 1, 5, 10, 2, 8, 4, 7, 6)])):
        layer.weight.data.copy_(torch.tensor(sizes)[:, None].expand_as(layer.weight))
        layer.bias.data.zero_()
    text = "schedule s { prune magnitude { flops = 60% structure = channel } }"
    (state,) = states(net, text, torch.randn(2, 40, generator=torch.Generator().manual_seed(0)))
    assert state.masks["0.weight"].any(1).tolist() == [True, False, True]
    assert state.masks["2.weight"].any(1).nonzero().flatten().tolist() == [1, 4, 6, 8, 9]
    assert [int(state.masks[n].sum()) for n in ("0.weight", "2.weight", "4.weight")] == [80, 10, 10]
    assert not state.missed


@pytest.mark.parametrize("target", ["flops = 60%", "flops = 30%", "size = 3KB", "density = 40%"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_no_unit_that_has_gone_in_the_last_round_fits_beside_what_is_left(target: str, rounds: int) -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 6, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *mlp(24, 64, 4))
    text = f"schedule s {{ prune synflow {{ {target} structure = channel rounds = {rounds} }} }}"
    run = Run(capture(net, torch.randn(1, 1, 16, 16), dtype=torch.float64), plan_of(schedule=text), torch.float64)
    states, aim = list(run.rounds()), run.aims[0]
    last, first = states[-1], {n: m for state in states[:-1] for n, m in state.masks.items()}
    assert not last.missed and aim.amount(last.masks) <= aim.budget(aim.part)
    assert aim.coupling is not None
    kept, before = kept_of(aim.coupling, last.masks), kept_of(aim.coupling, first)
    for position in (before & ~kept).nonzero().flatten().tolist():
        more = masks_of(aim.coupling, kept.index_fill(0, torch.tensor([position]), True))
        assert aim.amount({n: m & first.get(n, m) for n, m in more.items()}) > aim.budget(aim.part)


@pytest.mark.parametrize("target", ["flops = 30%", "size = 10KB"])
def test_a_swap_under_a_budget_holds_it(target: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        net[4].weight.mul_(10)
    text = f"schedule s {{ prune magnitude {{ {target}\n regrow = 0 - abs(theta)\n swap = 30% }} }}"
    run = Run(capture(net, torch.randn(1, 1, 8, 8)), plan_of(schedule=text), torch.float64, state=net.state_dict())
    aim, found = run.aims[0], list(run.rounds())[-1]
    assert aim.budget(aim.part) - 64 <= aim.amount(found.masks) <= aim.budget(aim.part)


@pytest.mark.parametrize("more", ["", "scope = uniform", 'floor "2.weight" = 70%'])
def test_a_swap_of_blocks_at_edges_holds_the_density_and_floors(more: str) -> None:
    body = f"density = 60%\n rounds = 2\n structure = block(16, 16)\n regrow = noise(axes = param)\n swap = 30%\n {more}"
    found = states(mlp(20, 50, 50, 20), f"schedule s {{ prune magnitude {{ {body} }} }}")[-1]
    assert 0.55 < found.kept / found.total <= 0.6
    assert "floor" not in more or int(found.masks["2.weight"].sum()) >= 1750


def test_scope_layer_holds_the_target_beside_except_and_floors() -> None:
    for settings_ in ('except = "0.weight"', 'floor "0.weight" = 100%', 'select = kth_le\n except = "0.weight"'):
        model = mlp(20, 20, 20, 20)
        found = states(model, f"schedule s {{ prune magnitude {{ density = 50%\n scope = layer\n {settings_} }} }}")[-1]
        assert found.kept == 600 and bool(found.masks["0.weight"].all()), settings_


def test_floors_of_blocks_and_channels_are_kept() -> None:
    body = 'density = 50%\n structure = block(16, 16)\n scope = uniform\n floor "2.weight" = 48%'
    found = states(mlp(20, 32, 20, 32), f"schedule s {{ prune magnitude {{ {body} }} }}")[-1]
    assert int(found.masks["2.weight"].sum()) >= 308 and found.kept <= 960
    model = mlp(20, 30, 30, 10)
    with torch.no_grad():
        model[0].weight.mul_(0.01), model[0].bias.mul_(0.01)
    body = 'density = 60%\n structure = channel\n floor "0.weight" = 90%'
    found = states(model, f"schedule s {{ prune magnitude {{ {body} }} }}")[-1]
    assert int(found.masks["0.weight"].sum()) >= 540 and found.kept <= 0.6 * found.total


def test_what_cannot_hold_is_refused_before_any_work() -> None:
    floors = 'density = 52%\n structure = block(16, 16)\n floor "*" = 50%'
    few = {"0.weight": torch.rand(40, 20) < 0.2, "2.weight": torch.rand(10, 40) < 0.2}
    cases = [
        (mlp(20, 20, 20), f"prune magnitude {{ {floors} }}", {}, "PKC403", "96 too many"),
        (mlp(20, 20, 20), 'prune magnitude { density = 50%\n floor "*.bias" = 90% }', {}, "PKC402", "never pruned"),
        (
            mlp(20, 32, 32),
            "prune magnitude { density = 1%\n structure = block(16, 16)\n scope = layer }",
            {},
            "PKC423",
            "58 too few",
        ),
        (mlp(20, 40, 10), "prune magnitude { density = 90% }", {"masks": few}, "PKC423", "masks given keep"),
        (mlp(20, 40, 10), "prune magnitude { density = 20% } prune magnitude { size = 4KB }", {}, "PKC114", "too few"),
        (mlp(20, 40, 10), 'prune magnitude { density = 60% } lower { structure "*" = 2:4 }', {}, "PKC424", "120 too many"),
    ]
    for model, body, options, expected, part in cases:
        found = code(model, body, **options)
        assert found[0] == expected and part in found[1], found


def test_a_target_that_masks_before_make_unreachable_is_said_when_the_stage_ends() -> None:
    body = "prune magnitude { density = 55% } prune random { density = 50%\n structure = 2:4 }"
    text = f"schedule s {{ {body} }}"
    last = states(mlp(20, 40, 40, 20), text)[-1]
    assert f"{1600 - last.kept:,} too few" in last.missed
    with pytest.warns(UserWarning, match="too few"):
        pkcompiler.prune(mlp(20, 40, 40, 20), X, schedule=text)


def test_regrowth_at_random_explores_in_every_round() -> None:
    text = "schedule s { prune magnitude { density = 50% } prune magnitude { density = 50%\n rounds = 4\n regrow = uniform() } }"
    found = states(mlp(20, 40, 10), text)
    changed = [back(b.masks, a.masks) for a, b in pairwise(found)]
    assert len(found) == 5 and min(changed) > 50 and {s.kept for s in found} == {600}
    assert back(found[-1].masks, states(mlp(20, 40, 10), text)[-1].masks) == 0


def test_nothing_comes_back_that_the_user_or_a_structure_removed(tmp_path) -> None:
    model = mlp(20, 40, 10)
    given_ = {
        n: torch.rand(p.shape, generator=torch.Generator().manual_seed(5)) < 0.7 for n, p in model.named_parameters() if p.dim() > 1
    }
    grow = "prune magnitude { density = 40%\n rounds = 3\n regrow = uniform() }"
    free = states(model, f"schedule s {{ prune random {{ density = 45% }} {grow} }}", masks=given_)
    assert back(free[-1].masks, given_) == 0 and back(free[-1].masks, free[0].masks) > 0
    for first in ("random { density = 50%\n structure = 2:4 }", "magnitude { density = 55%\n structure = channel }"):
        text = f"schedule s {{ prune {first} prune magnitude {{ density = 45% }} {grow} }}"
        found = states(model, text)
        assert back(found[-1].masks, found[0].masks) == 0 and back(found[-1].masks, found[1].masks) > 0
        write_state(tmp_path / "s", found[2], 1.0, "r")
        loaded = read_state(tmp_path / "s", "r")
        assert loaded is not None and back(states(model, text, after=loaded[0])[-1].masks, found[-1].masks) == 0


def test_stages_undo_nothing_of_the_stages_before(tmp_path) -> None:
    model = mlp(20, 40, 10)
    text = "schedule s { prune random { density = 50% } prune force { density = 20%\n rounds = 4 } }"
    found = states(model, text, data=DATA)
    assert back(found[-1].masks, found[0].masks) == 0
    assert any(back(b.masks, a.masks) for a, b in pairwise(found[1:]))
    write_state(tmp_path / "s", found[2], 1.0, "r")
    loaded = read_state(tmp_path / "s", "r")
    assert loaded is not None and back(states(model, text, after=loaded[0], data=DATA)[-1].masks, found[-1].masks) == 0
    later = states(model, 'schedule s { prune random { density = 50% } prune magnitude { density = 40%\n except = "2.weight" } }')
    assert back(later[-1].masks, later[0].masks) == 0 and later[-1].kept == 480
