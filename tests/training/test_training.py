"""Schedules driven from a loop of training: rounds, densities, zeros, rewinding, regrowth."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler import apply_masks, prune
from pkcompiler.training import Cycle, load_schedule
from tests.training.training_runs import (
    BY_STEP,
    EPOCHS,
    GRADUAL,
    OPTIMIZERS,
    REWIND,
    RIGL,
    STEPS,
    WITHIN,
    Training,
    assert_same,
    network,
)

WEIGHTS = 6 * 10 + 10 * 8 + 8 * 3


def pruned_entries(training: Training) -> list[tuple[Tensor, Tensor]]:
    """(parameter, where it is pruned) of everything that is masked."""
    parameters = dict(training.net.named_parameters())
    return [(parameters[n], ~m) for n, m in training.cycles.masks.items()]


def assert_zero(training: Training) -> None:
    """Pruned weights, their gradients and what the optimizer remembers of them are exactly zero."""
    for parameter, gone in pruned_entries(training):
        assert not parameter[gone].any()
        assert parameter.grad is None or not parameter.grad[gone].any()
        for value in training.stepper.state[parameter].values():
            assert value.shape != parameter.shape or not value[gone].any()


# rounds and densities ---------------------------------------------------------------------------------------------------


def cubic(k: int, n: int, rho: float) -> float:
    """Zhu & Gupta 2017, arXiv:1710.01878, equation 1, from density 1."""
    return rho + (1 - rho) * (1 - k / n) ** 3


def test_gradual_pruning_visits_and_densities() -> None:
    training = Training(GRADUAL).run()
    assert [(v.epoch, v.step, v.cycle) for v in training.visits] == [(2, 2 * STEPS, 1), (3, 3 * STEPS, 1), (4, 4 * STEPS, 1)]
    densities = [cubic(k, 3, 0.2) for k in (1, 2, 3)]
    assert [v.density for v in training.visits] == pytest.approx(densities)
    assert [v.kept for v in training.visits] == [round(d * WEIGHTS) for d in densities]
    assert {v.total for v in training.visits} == {WEIGHTS}
    assert sum(int(m.sum()) for m in training.cycles.masks.values()) == round(0.2 * WEIGHTS)


def test_rounds_by_steps() -> None:
    training = Training(BY_STEP).run()
    assert [(v.epoch, v.step) for v in training.visits] == [(0, 3), (1, 8), (2, 13)]
    assert [v.kept for v in training.visits] == [round(0.2 ** (k / 3) * WEIGHTS) for k in (1, 2, 3)]


def test_masks_are_those_of_the_weights_at_the_visit() -> None:
    """Magnitude keeps the largest of the weights that are left, as training has made them."""
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def look(cycle: Cycle) -> None:
        seen.append(({n: p.detach().clone() for n, p in training.net.named_parameters()}, cycle.masks))

    training = Training(GRADUAL, after_step=look, after_epoch=look)
    training.run()
    for visit in training.visits:
        before, masks = seen[visit.epoch * (STEPS + 1) - 2][0], seen[visit.epoch * (STEPS + 1) - 1][1]
        kept = torch.cat([before[n][m].abs() for n, m in masks.items()])
        gone = torch.cat([before[n][~m].abs() for n, m in masks.items()])
        assert kept.min() >= gone.max()


def test_masks_only_shrink() -> None:
    history: list[dict[str, Tensor]] = []
    Training(GRADUAL, after_epoch=lambda cycle: history.append(cycle.masks)).run()
    for before, after in pairwise(history):
        assert all(not bool((after[n] & ~before[n]).any()) for n in before)


def test_a_visit_is_returned_where_it_is_done() -> None:
    training = Training(BY_STEP)
    found = []
    for cycle in training.cycles:
        for _ in cycle:
            for x, y in training.loader:
                training.batch(x, y)
                found.append(cycle.step())
            found.append(cycle.epoch_end())
    assert [v for v in found if v] == training.visits
    assert str(training.visits[0]).startswith("magnitude 1/3 (epoch 0, step 3): ")
    assert repr(training.cycles) == "Cycles(cycle 1, epoch 5, step 25, 3 of 3 rounds, finished)"
    assert repr(cycle) == "Cycle(1: epoch 5 of 5, step 25)"


def test_rounds_before_training_and_masks_that_the_model_brings() -> None:
    both = "schedule s { prune magnitude { density = 60% rounds = 2 } prune magnitude { density = 30% at = epochs(1) } }"
    training = Training(both)
    first = next(training.cycles)
    assert [(v.round, v.kept) for v in training.visits] == [(1, round(0.6**0.5 * WEIGHTS)), (2, round(0.6 * WEIGHTS))]
    assert_zero(training)
    assert next(first) == 1
    net = network()
    masks = {"0.weight": torch.rand(10, 6, generator=torch.Generator().manual_seed(0)) < 0.5}
    stepper = torch.optim.SGD(apply_masks(net, masks).parameters(), 0.1)
    cycles = load_schedule("schedule s { prune magnitude { density = 50% at = end } }").cycles(
        net, stepper, torch.zeros(1, 6), epochs=1
    )
    (cycle,) = [train_nothing(c) for c in cycles]
    assert not (cycle.masks["0.weight"] & ~masks["0.weight"]).any()


def train_nothing(cycle: Cycle) -> Cycle:
    for _ in cycle:
        cycle.epoch_end()
    return cycle


def test_random_states_are_those_of_training_without_a_schedule() -> None:
    """Rounds draw nothing from the states that training draws from."""
    by_schedule = Training("schedule s { prune random { density = 100% at = epochs(1..4) } }").run().end()
    plain = Training("schedule s { prune magnitude { density = 100% at = end } }").run().end()
    ours, theirs = ({k: v for k, v in end.items() if "visits" not in k} for end in (by_schedule, plain))
    assert_same(ours, theirs)


# zeros ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("text", [GRADUAL, RIGL], ids=["gradual", "rigl"])
def test_pruned_weights_and_what_the_optimizer_remembers_stay_zero(text: str, optimizer: str) -> None:
    training = Training(
        text, optimizer, after_step=lambda cycle: assert_zero(training), after_epoch=lambda cycle: assert_zero(training)
    )
    before = [p.detach().clone() for p in training.net.parameters()]
    training.run()
    assert sum(int(gone.sum()) for _, gone in pruned_entries(training)) > WEIGHTS // 2
    assert all(not torch.equal(a, b) for a, b in zip(before, training.net.parameters(), strict=True))


# rewinding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, midway, back", [(REWIND, False, (1, STEPS)), (WITHIN, True, (0, 3))], ids=["epoch", "step"])
def test_rewinding_restores_what_was_recorded_bit_for_bit(text: str, midway: bool, back: tuple[int, int]) -> None:
    """Weights under the masks, buffers, optimizer under the masks, learning rates and random states; then training goes on."""
    ends: dict[tuple[int, int], dict[str, object]] = {}
    starts: list[tuple[dict[str, object], dict[str, Tensor]]] = []

    def look(cycle: Cycle) -> None:
        position = training.cycles.position
        ends.setdefault((position.epoch, position.step), training.end())

    def begin(cycle: Cycle) -> None:
        starts.append((training.end(), cycle.masks))

    training = Training(text, midway=midway, before_cycle=begin, after_step=look, after_epoch=look)
    training.run()
    assert len(starts) == len(training.visits) + 1
    expected = {k: v for k, v in ends[back].items() if not k.startswith(("/visits", "/masks"))}
    assert len(expected) > 50
    for end, masks in starts[1:]:
        for key, value in expected.items():
            assert_under_masks(key, end[key], value, masks)


def assert_under_masks(key: str, found: object, expected: object, masks: dict[str, Tensor]) -> None:
    if not isinstance(expected, Tensor):
        assert found == expected, key
        return
    names = list(dict(network().named_parameters()))
    part = key.split("/")
    name = part[2] if part[1] == "parameters" else names[int(part[3])] if part[1:3] == ["optimizer", "state"] else ""
    mask = masks.get(name)
    if mask is not None and mask.shape == expected.shape:
        expected = torch.where(mask, expected, 0)
    assert torch.equal(found, expected), key


def test_cycles_of_rewinding() -> None:
    training = Training(REWIND).run()
    epochs = list(range(1, EPOCHS + 1))
    assert [(c, e) for c, e, _ in training.trail] == [(1, e) for e in epochs] + [(c, e) for c in (2, 3) for e in epochs[1:]]
    assert [(v.cycle, v.epoch, v.kept) for v in training.visits] == [
        (1, EPOCHS, round(0.2**0.5 * WEIGHTS)),
        (2, EPOCHS, round(0.2 * WEIGHTS)),
    ]


def test_rewinding_to_the_initialisation() -> None:
    """The lottery ticket: what is left has the weights that it began with."""
    training = Training("schedule s { prune magnitude { density = 20% rounds = 2 at = end rewind = epoch(0) } }")
    start = {n: p.detach().clone() for n, p in training.net.named_parameters()}
    for cycle in training.cycles:
        for name, parameter in training.net.named_parameters():
            assert torch.equal(parameter, start[name] * cycle.masks.get(name, torch.ones_like(start[name])))
        train_once(training, cycle)
    assert training.cycles.number == 3


def train_once(training: Training, cycle: Cycle) -> None:
    for _ in cycle:
        for x, y in training.loader:
            training.batch(x, y)
            cycle.step()
        training.rates.step()
        cycle.epoch_end()


def test_the_same_batches_again_after_rewinding_within_an_epoch() -> None:
    """Cycle 2 reads, from the step that it goes back to, the batches that cycle 1 read."""
    training = Training(WITHIN, midway=True)
    seen: dict[int, list[Tensor]] = {}
    for cycle in training.cycles:
        for _ in cycle:
            for x, y in cycle.batches(training.loader):
                training.batch(x, y)
                cycle.step()
                seen.setdefault(cycle.number, []).append(x)
            training.rates.step()
            cycle.epoch_end()
    assert [len(seen[c]) for c in (1, 2, 3, 4)] == [8, 12 - 3, 16 - 3, EPOCHS * STEPS - 3]
    again = seen[1][3:]
    for cycle in (2, 3, 4):
        assert all(torch.equal(a, b) for a, b in zip(again, seen[cycle], strict=False))
    assert all(torch.equal(a, b) for a, b in zip(seen[3], seen[4], strict=False))


# regrowth ---------------------------------------------------------------------------------------------------------------


def test_rigl_moves_weights_at_the_same_density_to_where_the_gradient_is_largest() -> None:
    """Evci et al. 2020: of each layer, the smallest weights go, and as many come back by the gradient of the dense network."""
    before: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    moved = []

    def prepare(cycle: Cycle) -> None:
        before.update({n: p.detach().clone() for n, p in training.net.named_parameters()})
        masks.update(cycle.masks)
        twin = network().double().eval()
        twin.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in training.net.state_dict().items()})
        F.cross_entropy(twin(training.x.double()), training.y).backward()
        gradients.update({n: p.grad for n, p in twin.named_parameters()})

    def judge(cycle: Cycle) -> None:
        if training.cycles.position.epoch > 4:
            return
        for name, new in cycle.masks.items():
            old, size = masks[name], before[name].abs()
            assert new.sum() == old.sum()
            count = round(0.3 * int(old.sum()))
            dropped = torch.zeros_like(old).view(-1)
            order = [i for i in size.view(-1).argsort().tolist() if old.view(-1)[i]]
            dropped[order[:count]] = True
            stays = old & ~dropped.view_as(old)
            free = torch.where(stays, -1.0, gradients[name].abs())
            grown = torch.zeros_like(old).view(-1)
            grown[free.view(-1).argsort(descending=True)[:count]] = True
            assert torch.equal(new, stays | grown.view_as(old)), name
            regained = new & ~old
            moved.append(int(regained.sum()))
            parameter = dict(training.net.named_parameters())[name]
            assert not parameter[regained].any()
            assert torch.equal(parameter[new & old], before[name][new & old])

    training = Training(RIGL, after_step=prepare, after_epoch=judge)
    training.run()
    assert sum(moved) > 20
    assert {v.kept for v in training.visits} == {round(0.4 * WEIGHTS)}


def test_what_goes_and_comes_back_in_one_swap_stays_as_it_is() -> None:
    """Its weight and its momentum: no connection is new that was there before (as in the released code of RigL)."""
    training = Training(
        "schedule s { prune magnitude { density = 50% at = epochs(1..2) regrow = abs(theta) swap = 60% } }", epochs=3
    )
    before: dict[str, tuple[Tensor, Tensor]] = {}
    seen = []

    def prepare(cycle: Cycle) -> None:
        memory = training.stepper.state
        before.update({n: (p.detach().clone(), memory[p]["momentum_buffer"].clone()) for n, p in training.net.named_parameters()})

    def judge(cycle: Cycle) -> None:
        for name, parameter in training.net.named_parameters():
            if training.cycles.position.epoch == 2 and name in cycle.masks:
                kept = cycle.masks[name]
                assert torch.equal(parameter[kept], before[name][0][kept])
                assert torch.equal(training.stepper.state[parameter]["momentum_buffer"][kept], before[name][1][kept])
                seen.append(int(kept.sum()))

    training.after_step, training.after_epoch = prepare, judge
    training.run()
    assert sum(seen) == round(0.5 * WEIGHTS)


def test_what_comes_back_trains() -> None:
    training = Training(RIGL, "adam").run()
    last = {n: m.clone() for n, m in training.cycles.masks.items()}
    for name, parameter in training.net.named_parameters():
        if name in last:
            assert int((parameter[last[name]] != 0).sum()) == int(last[name].sum())


# where schedules come from ----------------------------------------------------------------------------------------------


def test_a_function_gives_the_data_of_every_round() -> None:
    asked = []

    def data() -> tuple[Tensor, Tensor]:
        asked.append(1)
        return torch.randn(4, 6), torch.tensor([0, 1, 2, 0])

    net = network()
    cycles = load_schedule("schedule s { prune snip { density = 50% at = epochs(1..3) } }").cycles(
        net, torch.optim.SGD(net.parameters(), 0.1), torch.zeros(1, 6), epochs=3, data=data
    )
    state = torch.get_rng_state()
    for cycle in cycles:
        train_nothing(cycle)
    assert len(asked) == 3
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_rounds_as_prune_before_training() -> None:
    """At the moments of one and the same weights, rounds are those of ``prune``."""
    net = network()
    cycles = load_schedule("schedule s { prune magnitude { density = 30% rounds = 3 at = end } }").cycles(
        net, torch.optim.SGD(net.parameters(), 0.1), torch.zeros(1, 6), epochs=1
    )
    for cycle in cycles:
        train_nothing(cycle)
    pruned = prune(network(), torch.zeros(1, 6), schedule="schedule s { prune magnitude { density = 30% rounds = 3 } }")
    assert all(torch.equal(pruned.masks[n], m) for n, m in cycles.masks.items())


def test_tied_weights_are_pruned_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu())

    net = Tied()
    stepper = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    x = torch.randn(8, 5)
    for cycle in load_schedule("schedule s { prune magnitude { density = 40% at = epochs(1) } }").cycles(
        net, stepper, x[:1], epochs=2
    ):
        for _ in cycle:
            stepper.zero_grad()
            net(x).square().mean().backward()
            stepper.step()
            cycle.epoch_end()
    assert int((net.a.weight != 0).sum()) == 10 and net.b.weight is net.a.weight
