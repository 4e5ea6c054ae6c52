"""Loops that call a cycle out of order, and trainings that a schedule does not fit: told in words, with what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.training import Cycle, Cycles, load_schedule
from tests.training.training_runs import GRADUAL, REWIND, WITHIN, Training, network


def schedule(stage: str) -> str:
    return f"schedule s {{ prune magnitude {{ density = 50% {stage} }} }}"


def cycles(text: str = GRADUAL, *, epochs: int = 5, **options: Any) -> Cycles:
    net = network()
    return load_schedule(text).cycles(net, torch.optim.SGD(net.parameters(), 0.1), torch.zeros(1, 6), epochs=epochs, **options)


# the loop ---------------------------------------------------------------------------------------------------------------


def forgotten(run: Cycles) -> None:
    for cycle in run:
        for _ in cycle:
            cycle.step()


def twice(run: Cycles) -> None:
    for cycle in run:
        for _ in cycle:
            cycle.epoch_end()
            cycle.epoch_end()


def left_early(run: Cycles) -> None:
    for cycle in run:
        for epoch in cycle:
            cycle.epoch_end()
            if epoch == 3:
                break


def never_trained(run: Cycles) -> None:
    for _ in run:
        pass


def step_before_epochs(run: Cycles) -> None:
    next(run).step()


def step_after_epochs(run: Cycles) -> None:
    for cycle in run:
        for _ in cycle:
            cycle.epoch_end()
        cycle.step()


def batches_outside(run: Cycles) -> None:
    next(run).batches([1, 2])


@pytest.mark.parametrize(
    "loop, message",
    [
        (forgotten, r"epoch 1 has not ended\n.*cycle\.epoch_end\(\) last"),
        (twice, r"cycle\.epoch_end\(\) before the first epoch or after the end of one"),
        (left_early, r"the loop left cycle 1 after epoch 3 of 5"),
        (never_trained, r"the loop left cycle 1 after epoch 0 of 5"),
        (step_before_epochs, r"cycle\.step\(\) before the first epoch or after the end of one\n.*for epoch in cycle"),
        (step_after_epochs, r"cycle\.step\(\) before the first epoch or after the end of one"),
        (batches_outside, r"cycle\.batches\(loader\) before the first epoch"),
    ],
)
def test_calls_out_of_order(loop: Callable[[Cycles], None], message: str) -> None:
    with pytest.raises(PkcError, match=r"(?s)PKC452.*" + message):
        loop(cycles())


def test_a_cycle_that_has_ended_takes_no_more_steps() -> None:
    run = cycles(REWIND, epochs=2)
    first = whole(next(run))
    whole_again = next(run)
    next(whole_again)
    with pytest.raises(PkcError, match=r"PKC452.*cycle\.step\(\) of a cycle that has ended"):
        first.step()


def whole(cycle: Cycle) -> Cycle:
    for _ in cycle:
        cycle.step()
        cycle.epoch_end()
    return cycle


def test_steps_forgotten_where_the_schedule_counts_them() -> None:
    run = cycles(schedule("at = steps(1..3)"))
    with pytest.raises(PkcError, match=r"(?s)PKC452.*epoch 1 had none.*cycle\.step\(\) after every optimizer\.step"):
        for cycle in run:
            for _ in cycle:
                cycle.epoch_end()


@pytest.mark.parametrize(
    "text, message",
    [
        (WITHIN, "step 3 is within an epoch"),
        (schedule("at = steps(2) rewind = epoch(0)"), "rewinding after step 2 is within an epoch"),
    ],
)
def test_a_place_within_an_epoch_needs_the_batches(text: str, message: str) -> None:
    with pytest.raises(PkcError, match=rf"(?s)PKC453.*{message}.*cycle\.batches\(loader\)"):
        Training(text).run()


def test_a_checkpoint_within_an_epoch_needs_the_batches(tmp_path: Any) -> None:
    with pytest.raises(PkcError, match=r"PKC453.*a checkpoint is within an epoch"):
        Training(GRADUAL, options={"checkpoint": tmp_path / "run.safetensors", "checkpoint_steps": 2}).run()


def test_another_loader_after_going_back(tmp_path: Any) -> None:
    run = Training(WITHIN, midway=True)
    with pytest.raises(PkcError, match=r"PKC452.*the loader has 2 batches, 3 were read before"):
        for cycle in run.cycles:
            for _ in cycle:
                for x, y in cycle.batches(run.loader if cycle.number == 1 else list(run.loader)[:2]):
                    run.batch(x, y)
                    cycle.step()
                cycle.epoch_end()


# the training -----------------------------------------------------------------------------------------------------------


def test_moments_beyond_the_training() -> None:
    with pytest.raises(PkcError, match=r"PKC451.*after epoch 4, but training has 3 epochs"):
        cycles(GRADUAL, epochs=3)
    with pytest.raises(PkcError, match=r"PKC451.*after step 100, but training has 8 steps"):
        cycles(schedule("at = steps(100)"), epochs=4, loader=[1, 2])
    run = cycles(schedule("at = steps(100)"), epochs=2)
    with pytest.raises(PkcError, match=r"PKC451.*runs after step 100, but training ended after epoch 2, step 2"):
        for cycle in run:
            whole(cycle)
    run = cycles(schedule("at = end rewind = step(100)"), epochs=2)
    with pytest.raises(PkcError, match=r"PKC451.*go back to step 100, which it had not come to after epoch 2, step 2"):
        for cycle in run:
            whole(cycle)


def test_the_steps_of_an_epoch_are_the_batches_unless_it_is_said() -> None:
    """Two steps for every batch of the loader, or one for two (gradients gathered over several)."""
    text, two = schedule("at = steps(4..8, every = 4) rewind = epoch(1)"), schedule("at = steps(12)")
    with pytest.raises(PkcError, match=r"PKC451.*rewinds to epoch 1, but runs after step 4 already"):
        cycles(text, epochs=4, loader=range(4))
    cycles(text, epochs=4, loader=range(4), steps_per_epoch=2)
    with pytest.raises(PkcError, match=r"(?s)PKC451.*training has 8 steps\n.*steps_per_epoch="):
        cycles(two, epochs=4, loader=range(2))
    cycles(two, epochs=4, loader=range(2), steps_per_epoch=4)
    with pytest.raises(PkcError, match=r"PKC458.*steps_per_epoch = 0"):
        cycles(two, steps_per_epoch=0)


def test_another_models_optimizer() -> None:
    net = network()
    with pytest.raises(PkcError, match=r"(?s)PKC460.*no parameter of the model.*model\.parameters\(\)"):
        load_schedule(GRADUAL).cycles(net, torch.optim.SGD(network().parameters(), 0.1), torch.zeros(1, 6), epochs=5)


def test_an_optimizer_of_a_part_will_do() -> None:
    net = network()
    run = load_schedule(GRADUAL).cycles(net, torch.optim.SGD(net[6].parameters(), 0.1), torch.zeros(1, 6), epochs=5)
    for cycle in run:
        whole(cycle)
    assert len(run.visits) == 3


def test_a_schedule_with_nothing_to_do_in_training() -> None:
    with pytest.raises(PkcError, match=r"(?s)PKC450.*'s' runs before training.*pkcompiler\.prune"):
        load_schedule(schedule(""))
    with pytest.raises(PkcError, match="PKC450"):
        load_schedule(schedule("at = start"))


def test_a_schedule_with_errors_and_a_missing_file() -> None:
    with pytest.raises(PkcError, match="PKC1"):
        load_schedule(schedule("at = epochs(5..2)"))
    with pytest.raises(PkcError, match="PKC611"):
        load_schedule("nowhere.pkc")


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 2.5}, {"checkpoint_steps": 0}, {"epochs": True}], ids=str)
def test_numbers_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(PkcError, match="PKC211" if isinstance(options.get("epochs"), float | bool) else "PKC458"):
        cycles(**options)


def test_numbers_of_numpy_are_numbers() -> None:
    run = cycles(epochs=np.int64(6), steps_per_epoch=np.uint8(2), checkpoint_steps=np.int32(3))
    assert (run.epochs, type(run.epochs)) == (6, int)


@pytest.mark.parametrize(("given", "said"), [(torch.Generator(), "is a Generator"), ([0], "holds a int")])
def test_generators_are_several(given: Any, said: str) -> None:
    with pytest.raises(PkcError, match=rf"(?s)PKC458.*generators {said}, expected a list.*generators=\[generator\]"):
        cycles(generators=given)


def test_example_inputs_come_from_the_data_or_are_asked_for() -> None:
    net = network()
    stepper = torch.optim.SGD(net.parameters(), 0.1)
    data: tuple[Tensor, Tensor] = (torch.randn(4, 6), torch.zeros(4).long())
    assert len(load_schedule(GRADUAL).cycles(net, stepper, epochs=5, data=data).pruner.example_inputs) == 1
    with pytest.raises(PkcError, match=r"PKC458.*no example inputs"):
        load_schedule(GRADUAL).cycles(net, stepper, epochs=5)


def test_what_could_only_fail_later_fails_at_once() -> None:
    with pytest.raises(PkcError, match="PKC502"):
        cycles("schedule s { prune snip { density = 50% at = end } }")
    with pytest.raises(PkcError, match="PKC402"):
        cycles(schedule('at = end floor "nothing.*" = 10%'))
    with pytest.raises(PkcError, match="PKC403"):
        cycles(schedule('at = end except = "*.weight"'))


def test_training_that_diverged_is_refused_by_name() -> None:
    run = cycles()
    with pytest.raises(PkcError, match=r"PKC405.*'0\.weight'"):
        for cycle in run:
            for _ in cycle:
                run.trained.model[0].weight.data[0, 0] = float("nan")
                cycle.epoch_end()


def test_layer_collapse_is_told() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.mul_(1e-3)
    run = load_schedule("schedule s { prune magnitude { density = 30% at = epochs(1) } }").cycles(
        net, torch.optim.SGD(net.parameters(), 0.1), torch.zeros(1, 4), epochs=2
    )
    with pytest.raises(PkcError, match="PKC410"):
        for cycle in run:
            whole(cycle)


def test_masks_at_the_end_are_as_lower_demands() -> None:
    text = 'schedule s { prune magnitude { density = 50% at = epochs(1) } lower { structure "2.weight" = 2:4 } }'
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    run = load_schedule(text).cycles(net, torch.optim.SGD(net.parameters(), 0.1), torch.zeros(1, 8), epochs=1)
    with pytest.raises(PkcError, match="PKC424"):
        for cycle in run:
            whole(cycle)
