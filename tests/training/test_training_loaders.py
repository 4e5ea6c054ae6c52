"""Several loops over batches in one epoch: every batch is trained once, whatever is recorded within, and wherever it is gone on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pkcompiler.diagnostics import PkcError
from pkcompiler.training import Cycle, load_schedule
from tests.training.training_runs import Training, assert_same

GRADUAL = "schedule gradual { prune magnitude { density = 40% at = epochs(1..2) } }"
EPOCHS = 3
Batches = Iterator[tuple[Tensor, Tensor]]


class Left(Exception):
    """The loop is left, as if the process had died there."""


class Loaders(Training):
    """Two shuffled loaders, of 4 and of 2 batches. ``batches`` is the loop of one epoch; the one who leaves counts steps."""

    def __init__(self, text: str, batches: Callable[[Loaders, Cycle], Batches], leave: int = 0, **options: Any) -> None:
        self.batches, self.leave, self.seen = batches, leave, []
        super().__init__(text, epochs=EPOCHS, options=options)

    def drive(self) -> Any:
        def loader(first: int, last: int, size: int) -> DataLoader[Any]:
            generator = torch.Generator().manual_seed(first)
            return DataLoader(TensorDataset(self.x[first:last], self.y[first:last]), size, shuffle=True, generator=generator)

        self.a, self.b = loader(0, 28, 7), loader(28, 40, 6)
        return load_schedule(self.text).cycles(
            self.net,
            self.stepper,
            self.x[:1],
            epochs=EPOCHS,
            loader=self.a,
            generators=[self.b.generator],
            lr_scheduler=self.rates,
            **self.options,
        )

    def run(self) -> Loaders:
        for cycle in self.cycles:
            for _ in cycle:
                self.net.train()
                for x, y in self.batches(self, cycle):
                    self.batch(x, y)
                    cycle.step()
                    self.seen.append(x)
                    if len(self.seen) == self.leave:
                        raise Left
                cycle.epoch_end()
        return self


def in_turn(run: Loaders, cycle: Cycle) -> Batches:
    """A learning rate for each: what stands between the loops is run again where the second one is gone on with."""
    yield from cycle.batches(run.a)
    run.rates.step()
    yield from cycle.batches(run.b)


def side_by_side(run: Loaders, cycle: Cycle) -> Batches:
    for (x, y), (more, also) in zip(cycle.batches(run.a), cycle.batches(run.b), strict=False):
        yield torch.cat([x, more]), torch.cat([y, also])


def left_early(run: Loaders, cycle: Cycle) -> Batches:
    """What the body counts itself would begin at zero again: it asks how many steps have ended."""
    for batch in cycle.batches(run.a):
        if run.cycles.position.step % 4 == 2:
            break
        yield batch
    yield from cycle.batches(run.b)


def round_and_round(run: Loaders, cycle: Cycle) -> Batches:
    """The short loader is begun again whenever it has ended."""
    short = cycle.batches(run.b)
    for x, y in cycle.batches(run.a):
        more = next(short, None)
        if more is None:
            short = cycle.batches(run.b)
            more = next(short)
        yield torch.cat([x, more[0]]), torch.cat([y, more[1]])


LOOPS = {f.__name__: (f, steps) for f, steps in ((in_turn, 6), (side_by_side, 2), (left_early, 4), (round_and_round, 4))}


@pytest.mark.parametrize("loop", LOOPS)
def test_checkpoints_within_epochs_change_nothing(loop: str, tmp_path: Path) -> None:
    batches, steps = LOOPS[loop]
    expected = Loaders(GRADUAL, batches).run()
    assert len(expected.seen) == EPOCHS * steps
    run = Loaders(GRADUAL, batches, checkpoint=tmp_path / "run.safetensors", checkpoint_steps=2).run()
    assert all(torch.equal(a, b) for a, b in zip(run.seen, expected.seen, strict=True))
    assert_same(run.end(), expected.end())


@pytest.mark.parametrize("loop", LOOPS)
def test_left_within_any_loop_and_resumed(loop: str, tmp_path: Path) -> None:
    batches, steps = LOOPS[loop]
    expected = Loaders(GRADUAL, batches).run()
    for at in {steps + 1, 2 * steps - 1, 2 * steps}:
        options: dict[str, Any] = {"checkpoint": tmp_path / f"{at}.safetensors", "checkpoint_steps": 1}
        with pytest.raises(Left):
            Loaders(GRADUAL, batches, leave=at, **options).run()
        run = Loaders(GRADUAL, batches, resume=True, **options).run()
        assert all(torch.equal(a, b) for a, b in zip(run.seen, expected.seen[at:], strict=True))
        assert_same(run.end(), expected.end())


@pytest.mark.parametrize("loop", LOOPS)
def test_rewinding_into_any_loop(loop: str) -> None:
    """The second cycle reads, from the step that it goes back to, what the first one read."""
    batches, steps = LOOPS[loop]
    for back in range(1, steps + 1):
        text = f"schedule s {{ prune magnitude {{ density = 50% at = end rewind = step({back}) }} }}"
        first, again = Loaders(text, batches), EPOCHS * steps - back
        seen = first.run().seen
        assert len(seen) == EPOCHS * steps + again
        assert all(torch.equal(a, b) for a, b in zip(seen[-again:], seen[back : EPOCHS * steps], strict=True))
        assert first.rates.last_epoch == (EPOCHS if loop == "in_turn" else 0)


def test_a_round_that_goes_back_ends_all_loops_of_its_epoch() -> None:
    run = Loaders("schedule s { prune magnitude { density = 50% at = steps(8) rewind = step(3) } }", in_turn).run()
    assert len(run.seen) == 8 + EPOCHS * 6 - 3


def test_a_second_loader_that_is_shorter_than_what_was_read_before() -> None:
    run = Loaders("schedule s { prune magnitude { density = 50% at = end rewind = step(6) } }", in_turn)
    with pytest.raises(PkcError, match=r"PKC452.*the loader has 1 batches, 2 were read before"):
        for cycle in run.cycles:
            for _ in cycle:
                for loader in (run.a, run.b if cycle.number == 1 else list(run.b)[:1]):
                    for x, y in cycle.batches(loader):
                        run.batch(x, y)
                        cycle.step()
                cycle.epoch_end()


@pytest.mark.parametrize("steps", [True, False], ids=["step", "epoch_end"])
def test_batches_that_are_not_read_again_through_the_cycle(steps: bool) -> None:
    run = Loaders("schedule s { prune magnitude { density = 50% at = end rewind = step(9) } }", in_turn)
    call = "step" if steps else "epoch_end"
    with pytest.raises(PkcError, match=rf"(?s)PKC453.*cycle\.{call}\(\) in epoch 2, of which 3 batches were read.*cycle\.batches"):
        for cycle in run.cycles:
            for _ in cycle:
                for x, y in in_turn(run, cycle) if cycle.number == 1 else [*run.a] * steps:
                    run.batch(x, y)
                    cycle.step()
                cycle.epoch_end()


def test_a_step_after_the_loop_has_ended_is_no_place_to_go_back_to(tmp_path: Path) -> None:
    """Read ahead, or one step more after the last batch: no checkpoint is written there, and none goes back there."""

    def ahead(run: Loaders, cycle: Cycle) -> Batches:
        yield from list(cycle.batches(run.a))

    path = tmp_path / "run.safetensors"
    with pytest.raises(Left):
        Loaders(GRADUAL, ahead, leave=7, checkpoint=path, checkpoint_steps=1).run()
    resumed = Loaders(GRADUAL, ahead, checkpoint=path, checkpoint_steps=1, resume=True)
    assert resumed.cycles.position.step == 4
    assert_same(resumed.run().end(), Loaders(GRADUAL, ahead).run().end())
    with pytest.raises(PkcError, match=r"PKC453.*step 3 is within an epoch, outside of a loop over batches"):
        Loaders("schedule s { prune magnitude { density = 50% at = end rewind = step(3) } }", ahead).run()
