"""SynFlow rounds against the published procedure written plainly: same weights, same thread, same run.

    python benchmarks/synflow.py                  # ResNet-20 and VGG-16-BN, 100 rounds; ResNet-50 at 224, 10 rounds
    python benchmarks/synflow.py resnet20 --rounds 20

The plain procedure (Tanaka et al. 2020, arXiv:2006.05467): layers that multiply their weight by a mask in the forward pass,
absolute values of the state dict, one forward and backward pass of ones through the model in evaluation mode, signs restored,
|theta * gradient| of all masked weights concatenated, ``torch.kthvalue`` over all of them, new masks.

Both sides run in float32 and take turns, a round each, so that a change of the machine's speed hits both; times are process time
at one thread. Tracing and lifting are shown apart. Peak memory is measured in a fresh process per side, as the growth of the
resident set over the built model (Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1] / "examples"), str(Path(__file__).parents[1] / "tests")]

CASES = {"resnet20": 100, "vgg16_bn": 100, "resnet50": 10}
COMPRESSION = 10.0


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model in evaluation mode and its all-ones input."""
    torch.manual_seed(0)
    if name == "resnet50":
        from models.zoo import MODELS

        module, (x,) = MODELS["resnet50"]()
        tame(module)
    else:
        from importlib import import_module

        module = import_module(name).model()
        x = torch.zeros(1, 3, 32, 32)
    return module.eval(), torch.ones_like(x)


def tame(module: nn.Module) -> None:
    """Normalisation gains of 0.1, for both sides: with gains of 1 (path mass 10^75) the plain procedure overflows float32 and keeps
    nothing."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, 0.1)


def masked_forward(layer: nn.Conv2d | nn.Linear, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward pass of a layer whose weight is multiplied by its mask."""
    if isinstance(layer, nn.Linear):
        return lambda x: F.linear(x, mask * layer.weight, layer.bias)
    conv = layer
    return lambda x: F.conv2d(x, mask * conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def plain_rounds(module: nn.Module, ones: Tensor, rounds: int) -> Iterator[int]:
    """The published procedure; yields the number of kept weights after every round."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    masks = [torch.ones_like(layer.weight) for layer in layers]
    for layer, mask in zip(layers, masks, strict=True):
        layer.forward = masked_forward(layer, mask)
    total = sum(mask.numel() for mask in masks)
    for k in range(1, rounds + 1):
        density = COMPRESSION ** -(k / rounds)
        with torch.no_grad():
            signs = {}
            for name, value in module.state_dict().items():
                signs[name] = torch.sign(value)
                value.abs_()
        module.zero_grad()
        module(ones).sum().backward()
        with torch.no_grad():
            scores = [(layer.weight.grad * layer.weight).abs_() for layer in layers]
            for name, value in module.state_dict().items():
                value.mul_(signs[name])
            everything = torch.cat([s.flatten() for s in scores])
            drop = int((1 - density) * total)
            if drop:
                threshold = torch.kthvalue(everything, drop).values
                zero, one = torch.tensor([0.0]), torch.tensor([1.0])
                for mask, score in zip(masks, scores, strict=True):
                    mask.copy_(torch.where(score <= threshold, zero, one))
        yield int(sum(mask.sum() for mask in masks))


def our_rounds(module: nn.Module, x: Tensor, rounds: int) -> tuple[Iterator[int], float]:
    """pkcompiler's rounds, and the process seconds of tracing and lifting."""
    from pkcompiler.frontend.capture import capture
    from pkcompiler.lang.plan import plan_of
    from pkcompiler.pruning.rounds import Run

    start = time.process_time()
    captured = capture(module, x, dtype=torch.float32)
    seconds = time.process_time() - start
    plan = plan_of("synflow", target=("compression", COMPRESSION), rounds=rounds, select="kth_le")
    return (state.kept for state in Run(captured, plan, torch.float32).rounds()), seconds


def compare(name: str, rounds: int) -> None:
    module, ones = build(name)
    ours, tracing = our_rounds(module, torch.zeros_like(ones), rounds)
    other, _ = build(name)
    plain = plain_rounds(other, ones, rounds)
    spent = [0.0, 0.0]
    kept = (0, 0)
    for _ in range(rounds):
        results = []
        for i, side in enumerate((ours, plain)):
            start = time.process_time()
            results.append(next(side))
            spent[i] += time.process_time() - start
        kept = (results[0], results[1])
    peaks = [peak_memory(name, side) for side in ("ours", "plain")]
    print(
        f"{name:9} {rounds:4} rounds  ours {spent[0] / rounds * 1e3:8.1f} ms/round  plain {spent[1] / rounds * 1e3:8.1f} ms/round  "
        f"ratio {spent[1] / spent[0]:5.2f}x  kept {kept[0]:,} / {kept[1]:,}  trace+lift {tracing:.2f} s  "
        f"peak over the model {peaks[0]:.0f} / {peaks[1]:.0f} MB",
        flush=True,
    )


def peak_memory(name: str, side: str) -> float:
    """Peak resident megabytes of three rounds over those of the built model, in a process of its own."""
    out = subprocess.run([sys.executable, __file__, name, "--memory", side], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def measure_memory(name: str, side: str) -> None:
    module, ones = build(name)
    with torch.no_grad():
        module(ones)
    if side == "ours":
        rounds, _ = our_rounds(module, torch.zeros_like(ones), 3)
    else:
        rounds = plain_rounds(module, ones, 3)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in rounds:
        pass
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """Kilobytes of the resident set: now (VmRSS), or at its peak since the counter was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--rounds", type=int, help="rounds instead of the default")
    parser.add_argument("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        measure_memory(given.cases[0], given.memory)
        return
    for name in given.cases or CASES:
        compare(name, given.rounds or CASES[name])


if __name__ == "__main__":
    main()
