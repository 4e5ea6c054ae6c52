"""What a target counts: weights, multiply-adds at the example input, or bytes of the saved weights (docs/schedules.md).

Each is a whole number: what is there whatever the masks keep, and so much for every entry that they keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pkcompiler.ir.dims import Shape
from pkcompiler.ir.maps import Batch, Conv, Dense, Product
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.weights import windowed
from pkcompiler.sparse_file import SparseSize


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """``costs``: of one kept entry of each candidate; ``sizes``: how many entries each has; ``fixed``: what no mask changes.

    ``exact``: the amount at so many kept entries, where it is more than the sum of costs (the header of a file).
    """

    word: str  # density | flops | size
    costs: Mapping[str, int]
    sizes: Mapping[str, int]
    fixed: int = 0
    exact: Callable[[Mapping[str, int]], int] | None = field(default=None, compare=False)

    @property
    def unit(self) -> str:
        """What is counted, in a message."""
        return {"density": "weights", "flops": "multiply-adds", "size": "bytes"}[self.word]

    def remedy(self, least: int) -> str:
        """The target, as it is written, that allows so much."""
        return f"size = {least}" if self.word == "size" else f"{self.word} = {math.ceil(10_000 * least / self.whole) / 10_000:g}"

    def at(self, kept: Mapping[str, int]) -> int:
        """The amount where so many entries of each candidate are kept; of those that are not named, all."""
        whole = {n: kept.get(n, size) for n, size in self.sizes.items()}
        if self.exact is not None:
            return self.exact(whole)
        return self.fixed + sum(self.costs[n] * count for n, count in whole.items())

    @property
    def whole(self) -> int:
        """The amount of the dense network."""
        return self.at({})

    def budget(self, part: float) -> int:
        """The largest amount at ``part`` of the whole: of weights the nearest number, of anything else none above."""
        return round(part * self.whole) if self.word == "density" else math.floor(part * self.whole * (1 + 1e-12))


def weights(sizes: Mapping[str, int]) -> Quantity:
    """Every entry counts one."""
    return Quantity("density", dict.fromkeys(sizes, 1), sizes)


def flops(graph: PathGraph, sizes: Mapping[str, int]) -> Quantity:
    """Multiply-adds of one run at one sample (on copies of it, where the model takes no other number of rows): dense layers,
    convolutions, and products of activations. An entry of a convolution counts once per output position (transposed: per input
    position), padding included.
    """
    shapes = {v.name: _numbers(v.type.shape) for v in graph.values}
    costs = dict.fromkeys(sizes, 0)
    fixed = 0
    for op in graph.ops:
        match op.map:
            case Dense(weight) | Conv(weight):
                uses = _uses(op, shapes)
                if weight in costs:
                    costs[weight] += uses
                else:
                    fixed += uses * math.prod(_numbers(graph.slot(weight).type.shape))
            case Product("matmul"):
                fixed += math.prod(shapes[op.name]) * shapes[op.inputs[0]][-1]
            case Product("conv"):
                fixed += math.prod(shapes[op.name]) * math.prod(shapes[op.inputs[1]][1:])
    return Quantity("flops", costs, sizes, fixed)


def _numbers(shape: Shape) -> tuple[int, ...]:
    """A shape at a batch of one."""
    return tuple(d.factor if isinstance(d, Batch) else d for d in shape)


def _uses(op: Op, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many times an operation multiplies by each entry of its weight, for one sample."""
    if isinstance(op.map, Dense):
        return math.prod(shapes[op.name][:-1])
    assert isinstance(op.map, Conv)
    shape, _ = windowed(op.map, shapes[op.inputs[0]], shapes[op.name])
    spatial = len(op.map.stride)
    return math.prod(shape[: len(shape) - spatial - 1]) * math.prod(shape[len(shape) - spatial :])


def size(state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Quantity:
    """Bytes of the sparse file of a ``state_dict`` (:mod:`~pkcompiler.sparse_file`), its header included."""
    costs = {n: state[n].element_size() for n in sizes}
    return Quantity("size", costs, sizes, 0, SparseSize(state, sizes))
