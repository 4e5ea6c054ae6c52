"""What a mask buys: parameters, multiply-adds and seconds of the compact network, beside the dense one.

    python benchmarks/compact.py                               # VGG-16-BN and ResNet-20 at 32 x 32, MobileNetV2 at 224 x 224
    python benchmarks/compact.py vgg16_bn --streams indexed
    python benchmarks/compact.py vgg16_bn --pass magnitude --density 0.1

Masks come from 100 rounds (or one, of a pass that reads weights alone) at the default density. Three things are timed: a run of
32 samples in evaluation mode, dense and compact; and a step of training (forward, cross-entropy, backward, SGD with momentum)
of the masked network at full size and of the compact one. The sides take turns, at one thread in process time; the median of the
ratios is printed, and the quartiles. MobileNetV2 needs the PyPI package pytorchcv.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pkcompiler as pk

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

Step = Callable[[], None]
SIZES = {"vgg16_bn": 32, "resnet20": 32, "mobilenet_v2": 224}
BATCH, TURNS, WARM = 32, 9, 2


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "mobilenet_v2":
        return import_module("pytorchcv.models.mobilenetv2").mobilenetv2_w1()
    return import_module(name).model()


def inference(network: nn.Module, size: int) -> Step:
    network = network.eval()
    x = torch.randn(BATCH, 3, size, size)

    def run() -> None:
        with torch.no_grad():
            network(x)

    return run


def training(network: nn.Module, size: int) -> Step:
    network = network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    x = torch.randn(BATCH, 3, size, size)
    y = torch.zeros(BATCH, dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def ratio(one: Step, other: Step, turns: int) -> str:
    """How many times longer ``one`` takes than ``other``."""
    found = [(seconds(one), seconds(other)) for _ in range(WARM + turns)][WARM:]
    low, middle, high = statistics.quantiles(a / b for a, b in found)
    return f"{middle:5.2f}x ({low:.2f} to {high:.2f})"


def measure(name: str, density: float, given: argparse.Namespace) -> None:
    size, model = SIZES[name], build(name)
    x = torch.randn(1, 3, size, size)
    pruned = pk.prune(model, x, given.criterion, density=density, rounds=given.rounds)
    small = pk.compact(model, pruned, x, streams=given.streams)
    parts = [left / dense for dense, left in (small.report.parameters, small.report.multiply_adds)]
    print(f"{name:12} {density:6.1%}  parameters {parts[0]:7.2%}  multiply-adds {parts[1]:7.2%}", end="", flush=True)
    if not given.sizes:
        masked = pk.lower(model, pruned)
        print("  inference", ratio(inference(model, size), inference(small.module, size), given.turns), end="", flush=True)
        print("  training", ratio(training(masked, size), training(small.module, size), given.turns), end="")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*SIZES, []], help="default: all")
    parser.add_argument("--pass", dest="criterion", default="synflow")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--density", type=float, action="append", help="default: 0.1, 0.01 and 0.001")
    parser.add_argument("--streams", choices=["union", "indexed"], default="union")
    parser.add_argument("--sizes", action="store_true", help="no times")
    parser.add_argument("--turns", type=int, default=TURNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models or SIZES:
        for density in given.density or (0.1, 0.01, 0.001):
            measure(name, density, given)


if __name__ == "__main__":
    main()
