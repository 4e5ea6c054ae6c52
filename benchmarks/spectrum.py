"""The ten leading eigenpairs of the Path Kernel, in multiples of one forward and backward pass of the plain model.

    python benchmarks/spectrum.py                  # ResNet-20 and VGG-16-BN (32 x 32), ResNet-50 (224 x 224)
    python benchmarks/spectrum.py resnet20 --dtype float32

Times are process time at one thread, without tracing; the plain pass (float32, batch 1, summed output) is the mean of repeated
passes right before and after, in the same process. Memory is the growth of the peak resident set over the built model, in a fresh
process per side (Linux); the eigenvectors themselves are part of it, and shown apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from synflow import build, resident
from torch import Tensor, nn

CASES = ("resnet20", "vgg16_bn", "resnet50")
PAIRS = 10


def plain(module: nn.Module, x: Tensor) -> None:
    """One forward and backward pass."""
    module.zero_grad()
    module(x).sum().backward()


def plain_seconds(module: nn.Module, x: Tensor) -> float:
    plain(module, x)
    repeats = 5
    start = time.process_time()
    for _ in range(repeats):
        plain(module, x)
    return (time.process_time() - start) / repeats


def measure(name: str, dtype: torch.dtype) -> None:
    from pkcompiler.kernel.path_kernel import path_kernel

    module, x = build(name)
    before = plain_seconds(module, x)
    kernel = path_kernel(module, x, dtype=dtype)
    start = time.process_time()
    pairs = kernel.eigenpairs(PAIRS)
    spent = time.process_time() - start
    unit = (before + plain_seconds(module, x)) / 2
    start = time.process_time()
    kernel.matvec(torch.ones(kernel.size, dtype=dtype))
    product = time.process_time() - start
    peaks = [peak_memory(name, side, dtype) for side in ("ours", "plain")]
    vectors = pairs.vectors.numel() * pairs.vectors.element_size() / 2**20
    print(
        f"{name:9} {str(dtype).removeprefix('torch.'):8} plain pass {unit * 1e3:7.1f} ms  product {product / unit:5.1f}x  "
        f"{PAIRS} pairs {spent / unit:6.0f}x in {pairs.products} products  worst residual {float(pairs.residuals.max()):.1e}  "
        f"peak {peaks[0]:.0f} / {peaks[1]:.0f} MB = {peaks[0] / peaks[1]:.1f}x (vectors {vectors:.0f} MB)",
        flush=True,
    )


def peak_memory(name: str, side: str, dtype: torch.dtype) -> float:
    """Peak resident megabytes over those of the built model, in a process of its own."""
    command = [sys.executable, __file__, name, "--memory", side, "--dtype", str(dtype).removeprefix("torch.")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def measure_memory(name: str, side: str, dtype: torch.dtype) -> None:
    from pkcompiler.kernel.path_kernel import path_kernel

    module, x = build(name)
    with torch.no_grad():
        module(x)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    if side == "ours":
        path_kernel(module, x, dtype=dtype).eigenpairs(PAIRS)
    else:
        plain(module, x)
        plain(module, x)
    print((resident("VmHWM") - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, given.dtype)
    if given.memory:
        measure_memory(given.cases[0], given.memory, dtype)
        return
    for name in given.cases or CASES:
        measure(name, dtype)


if __name__ == "__main__":
    main()
