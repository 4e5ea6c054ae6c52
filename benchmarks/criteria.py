"""Every pass of the library: time per round and peak memory, in multiples of one forward and backward pass at the same batch.

    python benchmarks/criteria.py                             # all passes on six models: a few hours on one core
    python benchmarks/criteria.py --models resnet20 --passes px,snip --limit 60

A cell is a process of its own at one thread: the model is built and captured, then pruned towards half its weights in float32, in
thirty rounds of which the first few are done. Its memory is the growth of the peak resident set over the captured model in the
first two rounds (Linux), by that of a plain pass in a fresh process. Then rounds and plain passes are timed in turns, in process
time, and the medians compared: until its first plain pass a process asks the system for memory that later passes find. The plain
pass computes the loss of the whole batch, forward and backward. Tracing and lifting are shown apart. A cell that fails or is not
done within ``--limit`` seconds of process time, says why below the tables. For px the last line compares with what it should cost:
two forward passes at the batch without derivatives, and a forward and backward pass at batch 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from synflow import resident
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1] / "examples"), str(Path(__file__).parents[1] / "tests")]

BATCH = {"resnet20": 64, "vgg16_bn": 64, "mobilenet_v2": 8, "resnet50": 8, "vit": 64, "gpt2": 64}
"""Samples: CIFAR size (32) for the first two and the ViT, 224 for the next two, 16 tokens for the GPT-2-style model."""

ROUNDS, COMPRESSION = 30, 2.0
"""The rounds of the plan, and what it prunes to."""

TURNS, MOST, LEAST = 3, 9, 0.2
"""Timings of each, the rounds of one at most, and the process seconds that one takes at least."""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model in evaluation mode and its example input, batch 1."""
    torch.manual_seed(0)
    if name in ("resnet20", "vgg16_bn"):
        from importlib import import_module

        return import_module(name).model().eval(), torch.zeros(1, 3, 32, 32)
    from models.zoo import MODELS

    module, (x,) = MODELS[name]()
    return module, x


def samples(module: nn.Module, x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Normal inputs with classes in turn; of token numbers, the next token is the class at every position."""
    generator = torch.Generator().manual_seed(0)
    if x.is_floating_point():
        classes = module(x).shape[1]
        return torch.randn(batch, *x.shape[1:], generator=generator), torch.arange(batch) % classes
    tokens = torch.randint(0, 200, (batch, x.shape[1] + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, with the classes last."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def plain(module: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and backward pass."""
    module.zero_grad()
    loss(module(x), y).backward()


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def timed(function: Callable[..., object], *args: Any, most: int = 1000) -> float:
    """Process seconds of a call: the mean over as many as take ``LEAST`` seconds, for the clock's steps are milliseconds here
    and there; at most so many.
    """
    start, calls = time.process_time(), 0
    while (spent := time.process_time() - start) < LEAST and calls < most:
        function(*args)
        calls += 1
    return spent / calls


def settled() -> int:
    """Kilobytes resident now, what is free given back first; the peak counts from here."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def plain_cell(name: str, batch: int) -> dict[str, float]:
    """The growth of the peak over the built model in one plain pass."""
    module, x = build(name)
    data = samples(module, x, batch)
    before = settled()
    plain(module, *data)
    return {"megabytes": (resident("VmHWM") - before) / 1024}


def pass_cell(name: str, pass_name: str, batch: int, limit: float) -> dict[str, float]:
    """Seconds of a round and of plain passes, and the growth of the peak over the captured model."""
    from pkcompiler.frontend.capture import capture
    from pkcompiler.lang.plan import plan_of
    from pkcompiler.pruning.rounds import Run
    from pkcompiler.scoring.evidence import Evidence

    module, x = build(name)
    data = samples(module, x, batch)
    start = time.process_time()
    captured = capture(module, x, dtype=torch.float32)
    tracing = time.process_time() - start
    plan = plan_of(pass_name, target=("compression", COMPRESSION), rounds=ROUNDS)
    before = settled()
    rounds = Run(captured, plan, torch.float32, Evidence(data, loss)).rounds()
    start = time.process_time()
    next(rounds)
    if time.process_time() - start < limit / 8:
        next(rounds)  # the first under masks
    peak = (resident("VmHWM") - before) / 1024
    plain(module, *data)
    turns: list[dict[str, float]] = []
    while len(turns) < TURNS and sum(turn["seconds"] for turn in turns) < limit / 4:
        turns.append(
            {
                "seconds": timed(next, rounds, most=MOST),
                "plain": timed(plain, module, *data),
                "forward": timed(forward, module, data[0]),
                "single": timed(plain, module, data[0][:1], data[1][:1]),
            }
        )
    medians = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    return {**medians, "turns": len(turns), "megabytes": peak, "tracing": tracing}


def run_cell(name: str, pass_name: str, batch: int, limit: float) -> dict[str, Any]:
    """A cell in a process of its own; ``{"why": ...}`` where it fails."""
    command = [sys.executable, __file__, "--cell", name, pass_name, "--batch", str(batch), "--limit", str(limit)]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode == -signal.SIGXCPU:
        return {"why": f"not done within {limit:g} s of process time", "shown": "no time"}
    if out.returncode:
        lines = [line for line in out.stderr.strip().splitlines() if line.strip()]
        named = next((line for line in reversed(lines) if "PKC" in line), lines[-1] if lines else f"ended with {out.returncode}")
        return {"why": named.strip()[:300]}
    found: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return found


def table(title: str, key: Callable[[str, dict[str, Any]], float], cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    models = list(dict.fromkeys(m for m, _ in cells))
    passes = list(dict.fromkeys(p for _, p in cells))
    print(f"\n{title}\n\n| pass | {' | '.join(models)} |\n|---|{'---|' * len(models)}")
    for pass_name in passes:
        row = [cells[m, pass_name] for m in models]
        shown = [c.get("shown", "failed") if "why" in c else f"{key(m, c):.2f}" for m, c in zip(models, row, strict=True)]
        print(f"| {pass_name} | {' | '.join(shown)} |")


def report(units: dict[str, dict[str, Any]], cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Both tables, the plain passes that they are multiples of, and why cells failed."""
    table("Time per round, by a plain forward and backward pass", lambda m, c: c["seconds"] / c["plain"], cells)
    table("Peak memory over the model, by that of a plain pass", lambda m, c: c["megabytes"] / units[m]["megabytes"], cells)
    print()
    for name, unit in units.items():
        found = [c for (m, _), c in cells.items() if m == name and "why" not in c]
        if found:
            seconds, tracing = (statistics.median(c[k] for c in found) for k in ("plain", "tracing"))
            print(
                f"{name}: batch {unit['batch']}, plain pass {seconds * 1e3:.0f} ms and {unit['megabytes']:.0f} MB, "
                f"trace and lift {tracing:.1f} s"
            )
    for (name, pass_name), cell in cells.items():
        if "why" in cell:
            print(f"{name}, {pass_name}: {cell['why']}")
        elif cell["turns"] < TURNS:
            print(f"{name}, {pass_name}: timed {cell['turns']} times of {TURNS}")
    ratios = {m: c["seconds"] / (2 * c["forward"] + c["single"]) for (m, p), c in cells.items() if p == "px" and "why" not in c}
    if ratios:
        print(f"px by what it should cost: {', '.join(f'{m} {r:.2f}' for m, r in ratios.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(BATCH), help="names separated by commas; default: all")
    parser.add_argument("--passes", default="", help="names separated by commas; default: the library")
    parser.add_argument("--batch", type=int, help="samples, instead of the model's own number")
    parser.add_argument("--limit", type=float, default=600, help="seconds of process time that a cell may take")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cell:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(given.limit), resource.RLIM_INFINITY))
        name, pass_name = given.cell
        found = plain_cell(name, given.batch) if pass_name == "-" else pass_cell(name, pass_name, given.batch, given.limit)
        print(json.dumps(found))
        return
    from pkcompiler.lang.library import library_names

    passes = given.passes.split(",") if given.passes else library_names()
    units: dict[str, dict[str, Any]] = {}
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for name in given.models.split(","):
        batch = given.batch or BATCH[name]
        units[name] = {**run_cell(name, "-", batch, given.limit), "batch": batch}
        if "why" in units[name]:
            parser.error(f"{name}: {units[name]['why']}")
        for pass_name in passes:
            cells[name, pass_name] = run_cell(name, pass_name, batch, given.limit)
            print(f"{name} {pass_name}: {cells[name, pass_name]}", file=sys.stderr, flush=True)
    report(units, cells)
    if given.json:
        given.json.write_text(json.dumps({"units": units, "cells": [[*k, v] for k, v in cells.items()]}, indent=1))


if __name__ == "__main__":
    main()
