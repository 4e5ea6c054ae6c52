"""A small training run, the same every time: a network with BatchNorm and dropout, a shuffled loader, a learning-rate schedule.

``python training_runs.py FOLDER CASE MOMENT`` runs one case with a checkpoint in FOLDER and kills itself at a moment:
``epoch:cycle:number``, ``step:cycle:number`` (after the call of the cycle), or ``write:N`` (amid writing the N-th checkpoint).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pkcompiler.training import Cycle, Cycles, Visit, load_schedule

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}
STEPS = 5
"""The steps of an epoch."""

GRADUAL = "schedule gradual { prune magnitude { density = 20% curve = cubic at = epochs(2..4) } }"
BY_STEP = "schedule by-step { prune magnitude { density = 20% at = steps(3..13, every = 5) } }"
REWIND = "schedule rewind { prune magnitude { density = 20% rounds = 2 at = end rewind = epoch(1) } }"
WITHIN = "schedule within { prune magnitude { density = 20% at = steps(8..16, every = 4) rewind = step(3) } }"
RIGL = """schedule rigl {
  prune random { density = 40% scope = erk }
  prune magnitude { density = 40% scope = erk at = epochs(1..4) regrow = abs(grad(loss, theta)) swap = 30% }
}"""
CASES = {"gradual": GRADUAL, "by-step": BY_STEP, "rewind": REWIND, "within": WITHIN, "rigl": RIGL}
EPOCHS = 5


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(40, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@dataclass
class Training:
    """``before_cycle`` is called with a cycle before its epochs, ``after_step`` and ``after_epoch`` after its own calls."""

    text: str
    optimizer: str = "sgd"
    epochs: int = EPOCHS
    midway: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    before_cycle: Callable[[Cycle], None] = lambda cycle: None
    after_step: Callable[[Cycle], None] = lambda cycle: None
    after_epoch: Callable[[Cycle], None] = lambda cycle: None

    def __post_init__(self) -> None:
        random.seed(5)
        np.random.seed(5)
        self.net = network()
        torch.manual_seed(5)
        self.x, self.y = samples()
        self.loader = DataLoader(TensorDataset(self.x, self.y), 8, shuffle=True, generator=torch.Generator().manual_seed(7))
        self.stepper = OPTIMIZERS[self.optimizer](self.net.parameters())
        self.rates = torch.optim.lr_scheduler.CosineAnnealingLR(self.stepper, self.epochs)
        self.trail: list[tuple[int, int, int]] = []
        self.cycles = self.drive()

    def drive(self) -> Cycles:
        return load_schedule(self.text).cycles(
            self.net,
            self.stepper,
            self.x[:1],
            epochs=self.epochs,
            loader=self.loader,
            lr_scheduler=self.rates,
            data=(self.x, self.y),
            **self.options,
        )

    def run(self) -> Training:
        for cycle in self.cycles:
            self.before_cycle(cycle)
            for epoch in cycle:
                self.net.train()
                for x, y in cycle.batches(self.loader) if self.midway else self.loader:
                    self.batch(x, y)
                    cycle.step()
                    self.after_step(cycle)
                self.rates.step()
                self.trail.append((cycle.number, epoch, self.cycles.position.step))
                cycle.epoch_end()
                self.after_epoch(cycle)
        return self

    def batch(self, x: Tensor, y: Tensor) -> None:
        """A step that reads every random state: dropout, numpy's and python's."""
        self.stepper.zero_grad()
        noise = 0.01 * float(np.random.standard_normal()) + 0.01 * random.random()
        F.cross_entropy(self.net(x + noise), y).backward()
        self.stepper.step()

    def end(self) -> dict[str, Any]:
        """Everything that training has left, as a flat mapping of tensors and plain values."""
        masks = {f"mask {n}": m for n, m in self.cycles.masks.items()}
        visits = [repr(v) for v in self.cycles.visits]
        return dict(flat({**self.cycles.trained.record(), "masks": masks, "visits": visits}))

    @property
    def visits(self) -> list[Visit]:
        return self.cycles.visits


def flat(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{place}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from flat(value, f"{place}/{i}")
    else:
        yield place, tree


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal, bit for bit."""
    assert found.keys() == expected.keys()
    wrong = [k for k, v in expected.items() if not (torch.equal(found[k], v) if isinstance(v, Tensor) else found[k] == v)]
    assert wrong == []


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(moment: str) -> dict[str, Callable[[Cycle], None]]:
    kind, *numbers = moment.split(":")
    if kind == "write":
        die_while_writing(int(numbers[0]))
        return {}
    wanted = tuple(int(n) for n in numbers)

    def at(cycle: Cycle) -> None:
        position = cycle._run.position
        if (cycle.number, position.epoch if kind == "epoch" else position.step) == wanted:
            kill()

    return {f"after_{kind}": at}


def die_while_writing(count: int) -> None:
    """Half of a checkpoint lies beside the last one when the process dies."""
    replace, written = os.replace, []

    def halfway(source: Any, target: Any) -> None:
        written.append(target)
        if len(written) == count:
            content = Path(source).read_bytes()
            Path(source).write_bytes(content[: len(content) // 2])
            kill()
        replace(source, target)

    os.replace = halfway


def main(folder: str, case: str, moment: str) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {"checkpoint": Path(folder) / f"{case}.safetensors"}
    if case == "within":
        options["checkpoint_steps"] = 2
    Training(CASES[case], options=options, midway=case == "within", **killer(moment)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
