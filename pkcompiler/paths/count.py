"""The number of paths as an exact integer of any size: the sweep modulo several primes, and the Chinese remainder theorem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from sympy.ntheory import prevprime
from sympy.ntheory.modular import crt
from torch import Tensor

from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Window
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.walk import forward
from pkcompiler.paths.limits import Limits
from pkcompiler.paths.reindex import window_gather, window_max, window_winners
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep

MOST_SWEEPS = 1000
"""One sweep gives 20 to 45 bits of a count."""


@dataclass(frozen=True, slots=True)
class Modular:
    """Remainders by one prime; ``settle`` is exact because every sum before it stays below 2**53 (``limits``)."""

    prime: float

    def settle(self, value: Scaled) -> Scaled:
        """The remainder by ``prime``, of exponent 0."""
        return Scaled(torch.remainder(value.tensor, self.prime))

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        """Raises ``AssertionError``: remainders have no order."""
        raise AssertionError("remainders have no order: windows are decided by all primes together")


def count_paths(
    graph: PathGraph, tensors: Mapping[str, Tensor], chosen: Settings, masks: Mapping[str, Tensor] | None, batch: int = 1
) -> int | None:
    """The exact number of paths from all sources to all outputs under a mask; biases and values are sources.

    ``batch``: 1, or the batch size that a static graph has baked in. With ``pools=max`` each window passes its largest count.
    None where the count could take more than ``MOST_SWEEPS`` sweeps: each product of activations doubles its number of digits.
    """
    limits = Limits.of(graph, chosen, masks, batch)
    if limits.total > MOST_SWEEPS * (limits.bits - 1):
        return None
    primes = primes_for(limits.total, limits.bits)
    together = chosen.pools == "max" and bool(maps_of(graph, Window))
    groups = [primes] if together else [[p] for p in primes]
    residues = [r for group in groups for r in _remainders(graph, tensors, chosen, masks, batch, group)]
    return int(crt(primes, residues)[0])


def primes_for(bits: int, size: int) -> list[int]:
    """The largest primes below 2**size whose product exceeds 2**bits."""
    found: list[int] = []
    have, candidate = 0.0, 2**size
    while have < bits:
        candidate = int(prevprime(candidate))
        found.append(candidate)
        have += math.log2(candidate)
    return found


def _remainders(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    chosen: Settings,
    masks: Mapping[str, Tensor] | None,
    batch: int,
    primes: Sequence[int],
) -> list[int]:
    """The count modulo each prime: the sweeps of all primes in step, so that windows can compare them."""
    sweeps = [Sweep(graph, tensors, chosen, batch=batch, arithmetic=Modular(float(p)), device="cpu") for p in primes]
    edges = sweeps[0].with_computed(sweeps[0].edges(masks))
    sources = unit_sources(graph, batch, torch.float64)

    def step(op: Op, inputs: list[list[Scaled]]) -> list[Scaled]:
        if isinstance(op.map, Window) and chosen.pools == "max":
            return _largest(op.map, [v.tensor for v in inputs[0]], primes)
        return [s.arithmetic.settle(s.apply(op, [x[k] for x in inputs], edges)) for k, s in enumerate(sweeps)]

    with torch.no_grad():
        results = forward(graph, lambda value: [Scaled(sources.pop(value.name))] * len(primes), step)[0]
    return [sum(int(x) for x in v.tensor.flatten().tolist()) % p for v, p in zip(results, primes, strict=True)]


def _largest(map: Window, remainders: Sequence[Tensor], primes: Sequence[int]) -> list[Scaled]:
    """The largest entry of every window, compared exactly: mixed-radix digits, most significant first, as ranks."""
    ranks = torch.zeros_like(remainders[0])
    for digit in mixed_radix(remainders, primes):
        pairs = torch.stack([ranks.flatten(), digit.flatten()], 1)
        ranks = torch.unique(pairs, dim=0, return_inverse=True)[1].reshape(ranks.shape).to(ranks.dtype)
    shape = window_max(map, ranks).shape
    winners = window_winners(map, ranks)
    return [Scaled(window_gather(map, x, winners).reshape(shape)) for x in remainders]


def mixed_radix(remainders: Sequence[Tensor], primes: Sequence[int]) -> list[Tensor]:
    """Garner's digits of the integers with these remainders, most significant first (exact in 64-bit integers)."""
    parts = [r.to(torch.int64) for r in remainders]
    digits: list[Tensor] = []
    for i, p in enumerate(primes):
        value = parts[i]
        for j in range(i):
            value = _times(torch.remainder(value - digits[j], p), pow(primes[j], -1, p), p)
        digits.append(value)
    return [d.to(torch.float64) for d in reversed(digits)]


def _times(x: Tensor, factor: int, p: int) -> Tensor:
    """x * factor mod p with 0 <= x < p < 2**53, the factor taken in pieces so that nothing passes 2**63."""
    width = 61 - p.bit_length()
    result = torch.zeros_like(x)
    for start in reversed(range(0, p.bit_length(), width)):
        piece = (factor >> start) & ((1 << width) - 1)
        result = torch.remainder((result << width) + x * piece, p)
    return result
