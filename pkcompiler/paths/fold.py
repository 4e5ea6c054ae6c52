"""BatchNorm folded into the convolution (or linear map) before it: the same path functional, fewer operations.

(x W) gamma f + beta = x (W gamma f) + beta with f the fixed factor 1/sqrt(var + eps), for every edge transform, since t is
multiplicative and fixed factors enter by their power. Derivatives by W follow by one multiplication per channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from pkcompiler.ir.graphs import only_reader
from pkcompiler.ir.maps import Conv, Dense, Scale
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.ir.weights import side
from pkcompiler.paths.sweep import Sweep

SHIFT = " shift"
"""The edge of a folded bias is called ``<weight> shift`` (no parameter's name holds a space)."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A graph without its folded scales: by weight name, the scale that went into it and the bias that it had."""

    graph: PathGraph
    scales: Mapping[str, tuple[Scale, str | None]]


def fold(graph: PathGraph, wanted: frozenset[str], constants: str) -> Folded:
    """Fold every scale whose own parameters are not in ``wanted`` (nobody asks for their derivatives).

    A scale folds when it is the only reader of a convolution or linear map, whose weight is used once, and when no centre is
    left to subtract (``constants`` off). What computed weights are made of folds into nothing.
    """
    reader = only_reader(graph)
    owners = Counter(use.slot for op in graph.ops for use in uses(op.map))
    computed = {part for slot in graph.computed for part in (slot.name, *slot.of)}
    wanted = wanted | computed
    scales: dict[str, tuple[Scale, str | None]] = {}
    ops: list[Op] = []
    folded: set[str] = set()
    for op in graph.ops:
        made = reader.get(op.name)
        if made and _folds(op.map, made.map, owners, wanted, constants) and not {use.slot for use in uses(op.map)} & computed:
            assert isinstance(op.map, Conv | Dense) and isinstance(made.map, Scale)
            scales[op.map.weight] = (made.map, op.map.bias)
            shifted = made.map.bias is not None or op.map.bias is not None
            ops.append(replace(op, map=replace(op.map, bias=op.map.weight + SHIFT if shifted else None), result=made.result))
            folded.add(made.name)
        elif op.name not in folded:
            ops.append(op)
    return Folded(replace(graph, ops=tuple(ops)), scales)


def _folds(map: object, scale: object, owners: Mapping[str, int], wanted: frozenset[str], constants: str) -> bool:
    if not isinstance(map, Conv | Dense) or not isinstance(scale, Scale) or side(map).turned or owners[map.weight] != 1:
        return False
    if scale.center is not None and constants != "off":
        return False
    rank = len(map.stride) if isinstance(map, Conv) else 0
    fits = len(scale.shape) == rank + 1 and all(n == 1 for n in scale.shape[1:])
    return fits and not {scale.weight, scale.bias, map.bias} & wanted


def columns(sweep: Sweep, folded: Folded, base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The factor of every folded weight, shaped to multiply it, and the folded biases by edge name.

    ``base``: t(theta) * mask of the unfolded graph's parameters.
    """
    factors: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    for weight, (scale, bias) in folded.scales.items():
        column = base[weight].new_ones(base[weight].shape[0])
        if scale.factor is not None:
            column = column * sweep.fixed(scale.factor).reshape(-1)
        if scale.weight is not None:
            column = column * base[scale.weight].reshape(-1)
        factors[weight] = column.reshape(-1, *([1] * (base[weight].dim() - 1)))
        terms = [] if bias is None else [base[bias] * column]
        terms += [] if scale.bias is None else [base[scale.bias].reshape(-1)]
        if terms:
            shifts[weight + SHIFT] = sum(terms[1:], terms[0])
    return factors, shifts
