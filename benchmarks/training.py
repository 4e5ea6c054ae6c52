"""A step of training under masks, in multiples of the same step without: masks held in place, and a lowered network.

    python benchmarks/training.py                  # ResNet-20, batch 128 of 32 x 32; a perceptron, batch 64
    python benchmarks/training.py resnet20 --steps 40

A step is ``zero_grad``, forward, cross-entropy, backward, ``SGD.step`` with momentum and weight decay, in float32 and eagerly.
Half of all weights are masked at random. The three networks start from the same weights and take turns, a step each on one
batch, so that a change of the machine's speed hits all; times are process time at one thread. Of the ratios of all turns the
median is printed, and the quartiles. Pruned weights are looked at in the end.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pkcompiler as pk

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

WARM = 3
CASES: dict[str, tuple[tuple[int, ...], int]] = {"resnet20": ((128, 3, 32, 32), 40), "digits_mlp": ((64, 1, 8, 8), 1000)}
"""The shape of a batch, and how many steps are timed."""


def build(name: str) -> nn.Module:
    from importlib import import_module

    torch.manual_seed(0)
    network: nn.Module = import_module(name).model()
    return network.train()


def halves(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(p.shape) < 0.5 for name, p in network.named_parameters() if p.dim() > 1}


def stepper(network: nn.Module) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> float:
    start = time.process_time()
    step(x, y)
    return time.process_time() - start


def measure(name: str, steps: int) -> None:
    shape, _ = CASES[name]
    network = build(name)
    masks = halves(network)
    networks = {
        "without": network,
        "apply_masks": pk.apply_masks(copy.deepcopy(network), masks),
        "lower": pk.lower(network, masks),
    }
    sides = {side: stepper(each) for side, each in networks.items()}
    turns = []
    for turn in range(WARM + steps):
        x, y = torch.randn(shape), torch.randint(0, 10, shape[:1])
        order = deque(sides)
        order.rotate(turn)
        turns.append({side: seconds(sides[side], x, y) for side in order})
    unit = statistics.median(turn["without"] for turn in turns[WARM:])
    print(f"{name:10} batch {shape[0]}, {len(masks)} masks, {steps} steps: {unit * 1e3:.3g} ms without masks", flush=True)
    for side in ("apply_masks", "lower"):
        low, middle, high = statistics.quantiles(turn[side] / turn["without"] for turn in turns[WARM:])
        held = dict(networks[side].named_parameters())
        zero = all(not held[key].detach()[~mask].any() for key, mask in masks.items())
        print(f"    {side:12} {middle:.3f} times ({low:.3f} to {high:.3f}), pruned weights zero: {zero}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--steps", type=int, help="default: 40, and 1000 of the perceptron")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.cases or CASES:
        measure(name, given.steps or CASES[name][1])


if __name__ == "__main__":
    main()
