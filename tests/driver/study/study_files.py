"""A small study in a folder of its own, and an executor that runs its cells in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from pkcompiler.driver.study import Studied, run_study
from pkcompiler.lang.ast import Study
from pkcompiler.lang.library import find_study

MODEL = """
import torch
from torch import nn

WIDTH = 6


def model():
    return nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))


def example_inputs():
    return torch.rand(1, 4)
"""

TRAIN = """
import torch
from pathlib import Path
from helper import STEPS


def train(model, seed, device):
    if Path(__file__).with_name("broken").exists() and seed == 1:
        raise ValueError("no batch today")
    x = torch.rand(32, 4, generator=torch.Generator().manual_seed(seed))
    y = x.argmax(1).clamp(max=2)
    noise = torch.rand(1).item()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    accuracy = (model(x).argmax(1) == y).float().mean()
    return {"accuracy": accuracy, "noise": noise, "nothing": float("nan")}
"""

STUDY = """
study small {
  model       = "net.py"
  passes      = synflow, magnitude
  compression = 1, 2, 40
  seeds       = 0..1
  rounds      = 3
  train       = "fit.py:train"
  analyses    = kernel
}
analysis kernel {
  source = "here"
  let R = paths(edge = theta^2, constants = on)
  report "Tr Pi" = trace(gram(R))
  report "top" = eigenvalues(gram(R), 2)
  report "kept" = mask
}
"""
CELLS = 2 * (1 + 2 * 2)
"""Seeds times the dense network and two passes at two other targets."""


class Here(Executor):
    """Runs what is submitted at once; ``calls`` counts cells."""

    def __init__(self) -> None:
        self.calls = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += fn.__name__ == "run_cell"
        future.set_result(fn(*args, **kwargs))
        return future


def files(folder: Path, study: str = STUDY) -> Study:
    """The files of a study; returns the study."""
    (folder / "net.py").write_text(MODEL)
    (folder / "fit.py").write_text(TRAIN)
    (folder / "helper.py").write_text("STEPS = 5\n")
    (folder / "small.pkc").write_text(study)
    return find_study(str(folder / "small.pkc"))


def run(folder: Path, study: Study, **options: Any) -> tuple[Studied, int]:
    """The study run in this process, and how many cells that took."""
    here = Here()
    return run_study(study, folder / "out", folder=folder, threads=1, executor=here, **options), here.calls
