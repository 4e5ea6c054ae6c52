"""Whether paths add incoherently, so that a sweep of second moments gives E[Tr Theta] (docs/theory.md, section 4).

E[v_p v_q] = 0 for different paths p, q as long as the sign of a random weight can be flipped that only one of them crosses an
odd number of times. Decided by one walk forward and one back over the graph, with the parity of every value (and of every
derivative) in the weights of each operation:

- forward, a sum of values (a residual) adds second moments if some weight's sign flips one of them and leaves the other;
- backward, the derivative at a value that several operations read adds up likewise;
- entries of one value are never summed by fixed factors (an average pool, a mean): entries that differ only in position share
  all their weights. So derivatives at different entries stay uncorrelated from the output down, and a weight that many positions
  share adds their parts incoherently;
- what enters a gate is normal with zero mean in the limit of wide layers, or symmetric at any width, and the gate homogeneous;
- derivatives are taken as independent of the values (exact in that limit, and for chains of homogeneous gates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from pkcompiler.ir import maps
from pkcompiler.ir.maps import Literal
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.ir.uses import uses
from pkcompiler.ir.walk import back, forward
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.reindex import apply_reindex, by_unit, concrete, resample_matrix
from pkcompiler.predict.expected import Phi
from pkcompiler.predict.initial import Law

INPUT = ""
"""The group of the inputs' own signs."""

REFUSED: dict[type, str] = {
    maps.Window: "takes maxima, whose moments are not those of one entry",
    maps.Normalise: "normalises by its own data",
    maps.Softmax: "is a softmax",
    maps.Product: "multiplies two activations",
    maps.Frozen: "depends on the data otherwise than through paths",
    maps.Embed: "reads rows of an embedding",
    maps.Source: "enters as a value that is no input",
}


@dataclass(frozen=True, slots=True)
class Parity:
    """What a flip of signs does. ``odd``: groups of weights that flip the value; ``mixed``: those that do neither that nor nothing.

    ``normal``: whether entries are normal with zero mean in the limit of wide layers.
    """

    odd: frozenset[str]
    mixed: frozenset[str] = frozenset()
    normal: bool = False

    def opposes(self, other: Parity) -> bool:
        """Whether some group flips exactly one of the two: then their product has zero mean."""
        return bool((self.odd - other.odd - other.mixed) | (other.odd - self.odd - self.mixed))


@dataclass(slots=True)
class Verdict:
    """``reasons``: why second moments do not add, by operation (empty: they do).

    ``wide``: whether that takes wide layers; a chain of homogeneous gates does not. ``narrowness``: over the gates that need normal
    inputs, the sum of 1 / (weights that meet in a unit).
    """

    reasons: list[str] = field(default_factory=list)
    wide: bool = False
    narrowness: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether second moments add."""
        return not self.reasons


def coherence(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    laws: Mapping[str, Law] | None,
    functions: Mapping[str, Phi],
    centred: bool,
    masks: Mapping[str, Tensor] | None = None,
) -> Verdict:
    """Whether the squared sweep over expected gates gives the mean trace. ``centred``: the inputs have zero mean.

    ``laws`` of the parameters; None to judge by the structure alone, before any law is learned.
    """
    return _Flips(graph, tensors, laws, functions, masks).run(centred)


class _Flips:
    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        laws: Mapping[str, Law] | None,
        functions: Mapping[str, Phi],
        masks: Mapping[str, Tensor] | None,
    ) -> None:
        self.graph, self.tensors, self.laws, self.functions, self.masks = graph, tensors, laws, functions, masks or {}
        self.verdict = Verdict()
        self.fan_in: dict[str, int] = {}

    def refuse(self, op: Op, why: str) -> None:
        self.verdict.reasons.append(f"'{op.name}' {why}")

    def run(self, centred: bool) -> Verdict:
        self.tied()
        start = Parity(frozenset([INPUT]), normal=True) if centred else Parity(frozenset(), frozenset([INPUT]))
        forward(self.graph, lambda _: start, self.forward)
        for _ in back(self.graph, Parity(frozenset()), self.added, _derived):
            pass
        return self.verdict

    def tied(self) -> None:
        """Weights used twice: paths through one use are correlated with paths through the other."""
        seen: dict[str, str] = {}
        for op in self.graph.ops:
            for use in uses(op.map):
                if use.slot in seen and self.graph.slot(use.slot).role == "parameter":
                    self.refuse(op, f"shares '{use.slot}' with '{seen[use.slot]}'")
                seen[use.slot] = op.name

    # forward --------------------------------------------------------------------------------------------------------------

    def forward(self, op: Op, inputs: list[Parity]) -> Parity:
        self.fan_in[op.name] = self._fan_in(op)
        match op.map:
            case maps.Dense(weight=weight, bias=bias) | maps.Conv(weight=weight, bias=bias):
                return self.affine(op, inputs[0], weight, bias)
            case maps.Scale():
                return self.scale(op, op.map, inputs[0])
            case maps.Constant():
                return inputs[0]
            case maps.Reindex() | maps.Resample():
                if not one_to_one(op, self.graph, self.tensors):
                    self.refuse(op, "adds or repeats entries that share their weights")
                return together(inputs)
            case maps.Gate():
                return self.gate(op, op.map, inputs[0])
            case maps.Merge():
                return self.merge(op, inputs)
            case _:
                self.refuse(op, REFUSED[type(op.map)])
                return together(inputs)

    def affine(self, op: Op, x: Parity, weight: str, bias: str | None) -> Parity:
        if not self.is_centred(weight):
            self.refuse(op, f"has weights '{weight}' that are not drawn independently with zero mean and one variance")
        shifted = self.shift(op, bias)
        others = (x.odd | x.mixed) - {op.name}
        kept = frozenset() if shifted else x.odd
        return Parity(kept | {op.name}, others - kept, normal=True)

    def is_centred(self, slot: str) -> bool:
        return self.laws is None or (slot in self.laws and self.laws[slot].kind == "centred")

    def shift(self, op: Op, bias: str | None) -> bool:
        """Whether something random is added; a constant that is not zero is refused."""
        if bias is None or self.laws is None or self._vanishes(bias):
            return False
        if not self.is_centred(bias):
            self.refuse(op, f"has a bias '{bias}' that is not drawn with zero mean")
        return True

    def _vanishes(self, slot: str) -> bool:
        assert self.laws is not None
        return self.laws[slot].is_zero if slot in self.laws else not bool(self.tensors[slot].any())

    def scale(self, op: Op, map: maps.Scale, x: Parity) -> Parity:
        if map.weight and self.laws is not None and self.laws[map.weight].kind != "constant":
            self.refuse(op, f"has a gain '{map.weight}' that is drawn at random")
        if map.center is not None and not self._is_zero(map.center):
            self.refuse(op, "subtracts a constant")
        if self.shift(op, map.bias):
            return Parity(frozenset(), x.odd | x.mixed, x.normal)
        return x

    def _is_zero(self, fixed: object) -> bool:
        if isinstance(fixed, Literal):
            return fixed.value == 0
        return not bool(self.tensors[fixed.slot].any())  # type: ignore[attr-defined]

    def gate(self, op: Op, map: maps.Gate, x: Parity) -> Parity:
        if not (map.piecewise and x.odd):
            self.verdict.wide = True
            self.verdict.narrowness += 1 / max(1, self.fan_in.get(op.inputs[0], 1))
        if not (x.normal or (map.piecewise and x.odd)):
            self.refuse(op, "is a gate whose input is not normal with zero mean (it follows another gate, or a sum with one)")
        if is_odd(self.functions[op.name]):
            return Parity(x.odd, x.mixed)
        return Parity(frozenset(), x.odd | x.mixed)

    def merge(self, op: Op, inputs: list[Parity]) -> Parity:
        if len({self.shape(name) for name in op.inputs}) > 1:
            self.refuse(op, "adds a value to many positions")
        if not all(a.opposes(b) for a, b in combinations(inputs, 2)):
            self.refuse(op, "adds values that are correlated")
        return together(inputs)

    def shape(self, name: str) -> tuple[object, ...]:
        return next(value.type.shape for value in self.graph.values if value.name == name)

    def _fan_in(self, op: Op) -> int:
        """The weights that meet in a unit (the fewest, under a mask); of other maps that of what they read."""
        match op.map:
            case maps.Dense(weight) | maps.Conv(weight):
                counts = by_unit(op.map, self._kept(weight)).sum(1)
            case _:
                return min((self.fan_in.get(name, 1) for name in op.inputs), default=1)
        live = counts[counts > 0]
        return int(live.double().mean()) if live.numel() else 1

    def _kept(self, slot: str) -> Tensor:
        mask = self.masks.get(slot)
        return torch.ones(self.tensors[slot].shape) if mask is None else mask.to(torch.float32)

    # back -----------------------------------------------------------------------------------------------------------------

    def added(self, name: str, parts: Sequence[Parity]) -> Parity:
        """Derivatives at a value that is read several times add up only if they are uncorrelated."""
        if len(parts) > 1:
            self.verdict.wide = True
            if not all(a.opposes(b) for a, b in combinations(parts, 2)):
                self.verdict.reasons.append(f"'{name}' is read in ways whose derivatives are correlated")
        return together(parts)


def _derived(op: Op, here: Parity) -> list[Parity]:
    """The derivative of an operation at each value that it reads, from that at its result."""
    own = {op.name} if isinstance(op.map, maps.Dense | maps.Conv) else set()
    return [Parity(here.odd | own, here.mixed - own)] * len(op.inputs)


def together(parts: Sequence[Parity]) -> Parity:
    """The parity of a sum, or of entries side by side."""
    if not parts:
        return Parity(frozenset())
    odd = frozenset.intersection(*(p.odd for p in parts))
    every = frozenset.union(*(p.odd | p.mixed for p in parts))
    return Parity(odd, every - odd, all(p.normal for p in parts))


def is_odd(phi: Phi) -> bool:
    """Whether phi(-z) = -phi(z), probed over sixteen decades in float64."""
    z = torch.logspace(-8, 8, 65, dtype=torch.float64)
    with torch.no_grad():
        return bool(torch.allclose(phi(-z), -phi(z), rtol=1e-9, atol=1e-300))


def one_to_one(op: Op, graph: PathGraph, tensors: Mapping[str, Tensor]) -> bool:
    """Whether every entry of a reindexing or resampling comes from one at most, and none goes to two (tried on random numbers)."""
    batch = static_batch(graph)
    shapes = {value.name: value.type.shape for value in graph.values}
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(concrete(shapes[n], batch), generator=generator, dtype=torch.float64) + 1 for n in op.inputs]
    match op.map:
        case maps.Reindex():
            out = apply_reindex(op.map, inputs, batch, tensors)
        case maps.Resample():
            rank = len(op.map.size)
            matrices = [resample_matrix(op.map, axis, n) for axis, n in enumerate(inputs[0].shape[-rank:])]
            return all(int((m != 0).sum(d).max()) <= 1 for m in matrices for d in (0, 1))
        case _:
            raise AssertionError(f"{op.name} is no reindexing")
    found = out[out != 0]
    return bool(torch.isin(found, torch.cat([x.flatten() for x in inputs])).all()) and len(found.unique()) == len(found)
