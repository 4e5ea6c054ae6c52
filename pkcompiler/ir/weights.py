"""Facts of the parameters of a graph: what each is, where its outputs and inputs lie, its fan-in, which are pruned by default."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from pkcompiler.ir.computed import aligned
from pkcompiler.ir.maps import Constant, Conv, Dense, Embed, Named, Normalise, Product, Reindex, Scale, Source
from pkcompiler.ir.types import Op, PathGraph, Slot

T = TypeVar("T")
Joining = Dense | Conv | Embed
"""The maps whose weight joins units: it has outputs and inputs."""
Kind = Literal["dense", "conv", "embed", "scale", "value", "gain", "bias"]
ORDER: tuple[Kind, ...] = ("dense", "conv", "embed", "scale", "value", "gain", "bias")
"""A parameter that is several of these is the first of them."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The dimensions of a weight's outputs and inputs; what is left is its kernel."""

    outputs: int = 0
    inputs: int = 1

    @property
    def turned(self) -> bool:
        """Whether the inputs come first."""
        return self.outputs == 1

    def ordered(self, first: T, second: T) -> tuple[T, T]:
        """What belongs to the outputs and to the inputs, of the first two dimensions'; and back."""
        return (second, first) if self.turned else (first, second)


def side(map: Joining) -> Sides:
    """How an operation's weight lies: [out, in, ...], or [in, out, ...] of tables, transposed convolutions and GPT-2's Conv1D. In
    groups the inputs (transposed: the outputs) are those of one group."""
    return Sides(1, 0) if isinstance(map, Embed) or map.transposed else Sides()


def sides_of(graph: PathGraph) -> dict[str, Sides]:
    """Of every weight that a dense layer or a convolution multiplies by, in the layout of its first use."""
    found: dict[str, Sides] = {}
    for _, map in joinings(graph.ops):
        if not isinstance(map, Embed):
            found.setdefault(map.weight, side(map))
    return found


def groups(map: Joining) -> int:
    """How many groups of channels a layer keeps apart. Dimension 0 of its weight is that of all, dimension 1 of one group."""
    return map.groups if isinstance(map, Conv) else 1


def bias_of(map: Joining) -> str | None:
    """What is added to every unit."""
    return None if isinstance(map, Embed) else map.bias


def units_of(map: Joining, shape: Sequence[int]) -> int:
    """How many output units (channels) a weight of this shape has."""
    return side(map).ordered(shape[0], shape[1] * groups(map))[0]


def windowed(map: Conv, inside: T, outside: T) -> tuple[T, T]:
    """Of a convolution's input and output: what each position of has a window, and what the windows lie in; and back."""
    return (inside, outside) if map.transposed else (outside, inside)


def joinings(ops: Iterable[Op]) -> Iterator[tuple[Op, Joining]]:
    """The operations that join units by a weight."""
    for op in ops:
        if isinstance(op.map, Dense | Conv | Embed):
            yield op, op.map


def fan_in(shape: Sequence[int]) -> int:
    """The fan-in of the named initialisations, by torch's convention (``torch.nn.init._calculate_fan_in_and_fan_out``): the entries
    of one row of dimension 0, whatever the layer that reads the weight. ``ConvTranspose2d(2, 5, 3)``, stored [2, 5, 3, 3], has 45.
    """
    return max(1, math.prod(shape[1:]))


def kinds_of(graph: PathGraph) -> dict[str, Kind]:
    """What every stored tensor is; one that several operations read is the first in ``ORDER``."""
    found: dict[str, Kind] = {}
    for slot, kind, _ in reads_of(graph.ops):
        if slot not in found or ORDER.index(kind) < ORDER.index(found[slot]):
            found[slot] = kind
    return found


def reads_of(ops: Iterable[Op]) -> Iterator[tuple[str, Kind, Op]]:
    """Every read of a weight, gain, bias or value: its slot, as what it is read, and who reads it. The weight of a scale with a
    fixed factor is a norm's gain."""
    for op in ops:
        pairs: list[tuple[str | None, Kind]] = []
        match op.map:
            case Dense(weight, bias):
                pairs = [(weight, "dense"), (bias, "bias")]
            case Conv(weight, bias):
                pairs = [(weight, "conv"), (bias, "bias")]
            case Embed(weight):
                pairs = [(weight, "embed")]
            case Scale(weight, bias, factor=factor):
                pairs = [(weight, "scale" if factor is None else "gain"), (bias, "bias")]
            case Normalise(weight=weight, bias=bias):
                pairs = [(weight, "gain"), (bias, "bias")]
            case Source(Named(slot)):
                pairs = [(slot, "value")]
        yield from ((slot, kind, op) for slot, kind in pairs if slot is not None)


def carried(ops: Iterable[Op]) -> dict[str, str]:
    """The values that are one stored tensor: moved about, summed over some of its dimensions, or times fixed factors."""
    made: dict[str, str] = {}
    for op in ops:
        match op.map:
            case Source(Named(slot)):
                made[op.name] = slot
            case Reindex() | Constant() if len(op.inputs) == 1 and op.inputs[0] in made:
                made[op.name] = made[op.inputs[0]]
    return made


def multiplied(ops: Sequence[Op], kinds: frozenset[str] = frozenset({"mul", "matmul", "conv"})) -> frozenset[str]:
    """The stored tensors that dense layers, convolutions and embeddings multiply by, and those that are a factor of a product."""
    made = carried(ops)
    found = {map.weight for _, map in joinings(ops)}
    for op in ops:
        if isinstance(op.map, Product) and op.map.kind in kinds:
            found |= {made[name] for name in op.inputs if name in made}
    return frozenset(found)


def projections(ops: Sequence[Op]) -> frozenset[str]:
    """The weights of linear maps, convolutions and attention projections; no table of embeddings (docs/theory.md, section 7)."""
    return multiplied(ops, frozenset({"matmul", "conv"})) - _tables(ops)


def inner_factors(ops: Sequence[Op]) -> frozenset[str]:
    """The stored tensors that a dense layer takes for its input: B of (B A) x, where A is the weight of that layer."""
    made = carried(ops)
    return frozenset(made[name] for op in ops if isinstance(op.map, Dense) for name in op.inputs if name in made) - _tables(ops)


def _tables(ops: Iterable[Op]) -> set[str]:
    return {op.map.weight for op in ops if isinstance(op.map, Embed)}


def holders(computed: Slot, slots: Iterable[Slot]) -> tuple[str, ...]:
    """The parameters with an entry for every entry of a computed weight: those that are a factor of it, else all of its size."""
    stored = [computed, *(s for s in slots if s.role == "parameter")]
    sizes = {s.name: math.prod(n for n in s.type.shape if isinstance(n, int)) for s in stored}
    own = [name for name in computed.of if sizes.get(name) == sizes[computed.name]]
    factors = aligned(computed)
    return tuple(name for name in own if name in factors) or tuple(own)


def stored_weights(graph: PathGraph) -> dict[str, str]:
    """Of every parameter itself, and of every computed weight the one parameter of its shape that holds its entries, if any."""
    shapes = {s.name: s.type.shape for s in graph.slots}
    found = {s.name: s.name for s in graph.parameters}
    for slot in graph.computed:
        same = [name for name in holders(slot, graph.slots) if shapes[name] == slot.type.shape]
        if len(same) == 1:
            found[slot.name] = same[0]
    return found
