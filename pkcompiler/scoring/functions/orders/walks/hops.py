"""What a hop across each kind of operation does; without a weight, every entry that leads on is equally likely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pkcompiler.diagnostics import fail
from pkcompiler.ir.maps import Conv, Dense, Embed, Product, Reindex, Resample, Window
from pkcompiler.ir.types import Op
from pkcompiler.paths.reindex import apply_reindex, resample_matrix
from pkcompiler.scoring.functions.orders.walks.draw import Bits, Floats, Groups, Ints, Random, choose
from pkcompiler.scoring.functions.orders.walks.live import Live
from pkcompiler.scoring.functions.orders.walks.products import Contraction, Elementwise, Factor
from pkcompiler.scoring.functions.orders.walks.weighted import Weighted, combined, slid


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Walkers ``rows`` (of those that were given) go to ``entries`` of the operation's result (``position`` -1) or of one of its
    inputs, visiting ``ids`` of ``slot``. ``beside``: the walk needs this factor too and goes on from it to an input."""

    rows: Ints
    position: int
    entries: Ints
    slot: str = ""
    ids: Ints | None = None
    beside: bool = False


class Hop(Protocol):
    """The hops across one operation."""

    def forward(self, position: int, entries: Ints, random: Random) -> list[Move]:
        """From entries of one input to the result."""

    def backward(self, entries: Ints, random: Random) -> list[Move]:
        """From entries of the result to the inputs."""


def _all(entries: Ints) -> Ints:
    return np.arange(entries.size)


@dataclass(frozen=True, slots=True, eq=False)
class Same:
    """Entry to equal entry: an activation, a normalisation, a sum of inputs of one shape. ``fed``: of every input."""

    fed: tuple[Bits, ...]

    def forward(self, position: int, entries: Ints, random: Random) -> list[Move]:
        """To the equal entry of the result."""
        return [Move(_all(entries), -1, entries)]

    def backward(self, entries: Ints, random: Random) -> list[Move]:
        """To the equal entry of one input, each that feeds it equally likely."""
        if len(self.fed) == 1:
            return [Move(_all(entries), 0, entries)]
        position = choose(np.stack([bits[entries] for bits in self.fed]), random)
        return [Move(rows, i, entries[rows]) for i in range(len(self.fed)) if (rows := np.flatnonzero(position == i)).size]


class Relation:
    """Pairs of entries: of the inputs end to end, and of the result."""

    def __init__(self, sizes: Sequence[int], size: int, ins: Ints, outs: Ints) -> None:
        self.starts = np.cumsum([0, *sizes])
        self.ahead = Groups(ins, outs, int(self.starts[-1]))
        self.back = Groups(outs, ins, size)

    def forward(self, position: int, entries: Ints, random: Random) -> list[Move]:
        """To one of the entries of the result that the pairs name, all equally likely."""
        return [Move(_all(entries), -1, self.ahead.draw(self.starts[position] + entries, random))]

    def backward(self, entries: Ints, random: Random) -> list[Move]:
        """To one of the entries of the inputs that the pairs name, all equally likely."""
        joint = self.back.draw(entries, random)
        position = np.searchsorted(self.starts, joint, side="right") - 1
        found = [(i, np.flatnonzero(position == i)) for i in range(len(self.starts) - 1)]
        return [Move(rows, i, joint[rows] - self.starts[i]) for i, rows in found if rows.size]


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """Along weights."""

    weighted: Weighted

    def forward(self, position: int, entries: Ints, random: Random) -> list[Move]:
        """To an entry of the result, over a weight that is visited; see :class:`Weighted`."""
        to, ids = self.weighted.hop(entries, True, random)
        return [Move(_all(entries), -1, to, self.weighted.slot, ids)]

    def backward(self, entries: Ints, random: Random) -> list[Move]:
        """To an entry of the input, over a weight that is visited; see :class:`Weighted`."""
        to, ids = self.weighted.hop(entries, False, random)
        return [Move(_all(entries), 0, to, self.weighted.slot, ids)]


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """Across a product of activations: one factor is crossed, and what the other needs is walked beside it."""

    product: Elementwise | Contraction

    def forward(self, position: int, entries: Ints, random: Random) -> list[Move]:
        """To an entry of the product from the factor at ``position``, with a walk beside it from what the other factor needs."""
        to, other = self.product.forward(position, entries, random)
        return [self._main(-1, _all(entries), to, 1 - position, other, random), *self._beside(_all(entries), 1 - position, other)]

    def backward(self, entries: Ints, random: Random) -> list[Move]:
        """To an entry of one factor, each that is fed equally likely, with a walk beside it from what the other needs."""
        pairs = self.product.backward(entries, random)
        factors = self.product.factors
        options = np.stack([factors[i].fed[pairs[i]] for i in (0, 1)])
        taken = choose(options, random)
        moves = []
        for i in (0, 1):
            rows = np.flatnonzero(taken == i)
            if rows.size:
                moves += [
                    self._main(i, rows, pairs[i][rows], 1 - i, pairs[1 - i][rows], random),
                    *self._beside(rows, 1 - i, pairs[1 - i][rows]),
                ]
        return moves

    def _main(self, position: int, rows: Ints, entries: Ints, other: int, others: Ints, random: Random) -> Move:
        factor = self.product.factors[other]
        if factor.stored is None:
            return Move(rows, position, entries)
        return Move(rows, position, entries, factor.stored.slot, factor.visited(others, random))

    def _beside(self, rows: Ints, position: int, entries: Ints) -> list[Move]:
        factor = self.product.factors[position]
        needed = np.flatnonzero(~factor.free[entries] & factor.fed[entries])
        return [Move(rows[needed], position, entries[needed], beside=True)] if needed.size else []


# from operations --------------------------------------------------------------------------------------------------------


def hops_of(
    i: int, op: Op, found: Live, weights: Mapping[str, Floats], shapes: Mapping[str, Sequence[int]], *, slots: Any, whole: bool
) -> Hop:
    """The hops across operation number ``i``. ``weights``: flat, by parameter; ``whole``: whole kernels are visited."""
    match op.map:
        case Dense(slot) | Conv(slot) | Embed(slot):
            inside = (found.shapes[op.inputs[0]], found.fed[op.inputs[0]])
            outside = (found.shapes[op.name], found.ends[op.name])
            return Along(Weighted(op.map, slot, weights[slot], shapes[slot], inside, outside, kernels=whole))
        case Product():
            return _paired(op, op.map, found, weights)
        case Reindex() | Resample() | Window():
            return _relation(i, op, found, slots)
    if all(found.shapes[n] == found.shapes[op.name] for n in op.inputs):
        return Same(tuple(found.fed[n] for n in op.inputs))
    return _relation(i, op, found, slots)


def _paired(op: Op, map: Product, found: Live, weights: Mapping[str, Floats]) -> Hop:
    if map.kind == "conv":
        name = op.origin.module or op.name
        raise fail(
            "PKC561",
            f"walks cannot cross %{op.name} (in {name}): it convolves by a kernel that is computed from parameters",
            "store the kernel itself as the parameter (e.g. remove_parametrizations), or use another pass",
        )
    factors = tuple(
        Factor(found.shapes[n], found.fed[n], found.free[n], found.stored.get(n), _of_factor(found, n, weights)) for n in op.inputs
    )
    kind = Elementwise if map.kind == "mul" else Contraction
    return Paired(kind(factors, found.shapes[op.name], found.ends[op.name]))


def _of_factor(found: Live, name: str, weights: Mapping[str, Floats]) -> Floats | None:
    """The weights that each entry of a factor that is a parameter is the sum of."""
    stored = found.stored.get(name)
    if stored is None:
        return None
    return np.where(stored.index >= 0, weights[stored.slot][stored.index], 0.0)


def _relation(i: int, op: Op, found: Live, slots: Any) -> Relation:
    """The pairs that join an input's live entry to a live entry of the result."""
    sizes = [math.prod(found.shapes[n]) for n in op.inputs]
    shape = found.shapes[op.name]
    ins, outs = _pairs(op, [found.shapes[n] for n in op.inputs], shape, found.batch, slots)
    usable = np.concatenate([found.fed[n] & found.uses[i, p] for p, n in enumerate(op.inputs)])
    good = usable[ins] & found.ends[op.name][outs]
    return Relation(sizes, math.prod(shape), ins[good], outs[good])


def _pairs(op: Op, inputs: Sequence[tuple[int, ...]], shape: tuple[int, ...], batch: int, slots: Any) -> tuple[Ints, Ints]:
    """Flat entries of the inputs end to end, and of the result, that an operation without weights joins."""
    x = inputs[0]
    match op.map:
        case Reindex("sum"):
            args: dict[str, Any] = dict(op.map.args)
            dims = {d % len(x) for d in args["dims"]} if args["dims"] else set(range(len(x)))
            return _reduced(x, dims)
        case Reindex("cumsum"):
            dim = dict(op.map.args)["dim"]
            assert isinstance(dim, int)
            index = np.moveaxis(np.arange(math.prod(x)).reshape(x), dim, -1)
            first, last = np.nonzero(np.tri(x[dim], dtype=bool).T)
            return index[..., first].reshape(-1), index[..., last].reshape(-1)
        case Reindex():
            starts = np.cumsum([0, *(math.prod(s) for s in inputs)])
            numbered = [
                torch.arange(int(start) + 1, int(end) + 1, dtype=torch.float64).reshape(s)
                for start, end, s in zip(starts, starts[1:], inputs, strict=False)
            ]
            source = apply_reindex(op.map, numbered, batch, slots).numpy().reshape(-1).astype(np.int64) - 1
            outs = np.flatnonzero(source >= 0)
            return source[outs], outs
        case Window(kernel=(), dims=dims):
            return _reduced(x, {d % len(x) for d in dims} or set(range(len(x))))
        case Window(kernel, stride, padding, dilation):
            rank = len(kernel)
            far, near = shape[-rank:], x[-rank:]
            along = [slid(n, m, k, s, p, d) for n, m, k, s, p, d in zip(far, near, kernel, stride, padding, dilation, strict=True)]
            return _spread(combined(along, near), math.prod(x[:-rank]), math.prod(near), math.prod(far))
        case Resample(size=size):
            rank = len(size)
            far, near = shape[-rank:], x[-rank:]
            along = [_read(resample_matrix(op.map, axis, n).numpy()) for axis, n in enumerate(near)]
            return _spread(combined(along, near), math.prod(x[:-rank]), math.prod(near), math.prod(far))
        case _:
            return _broadcast(inputs, shape)


def _reduced(shape: tuple[int, ...], dims: set[int]) -> tuple[Ints, Ints]:
    """A sum or a maximum over whole dimensions."""
    left = tuple(1 if d in dims else n for d, n in enumerate(shape))
    outs = np.broadcast_to(np.arange(math.prod(left)).reshape(left), shape)
    return np.arange(math.prod(shape)), outs.reshape(-1)


def _read(matrix: Floats) -> Ints:
    """The columns that each row of a matrix reads, [rows, most], -1 beyond them."""
    used = [np.flatnonzero(row) for row in matrix]
    found = np.full((len(matrix), max((u.size for u in used), default=0)), -1, dtype=np.int64)
    for row, columns in zip(found, used, strict=True):
        row[: columns.size] = columns
    return found


def _spread(table: Ints, leads: int, near: int, far: int) -> tuple[Ints, Ints]:
    """A table of places [far, taps] at every leading index."""
    rows, taps = np.nonzero(table >= 0)
    lead = np.arange(leads)[:, None]
    return (lead * near + table[rows, taps]).reshape(-1), (lead * far + rows).reshape(-1)


def _broadcast(inputs: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> tuple[Ints, Ints]:
    starts = np.cumsum([0, *(math.prod(s) for s in inputs)])
    ins = [
        start + np.broadcast_to(np.arange(math.prod(s)).reshape(s), shape).reshape(-1)
        for start, s in zip(starts, inputs, strict=False)
    ]
    return np.concatenate(ins), np.tile(np.arange(math.prod(shape)), len(inputs))
