"""What the model's own run shows: slopes of gates, winners of windows, deviations, softmax outputs, frozen factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.export import Program
from pkcompiler.frontend.lift.lifted import Lifted, Record
from pkcompiler.frontend.observed import ProgramRun, run_inputs
from pkcompiler.ir.maps import Frozen, Gate, Normalise, Window
from pkcompiler.ir.types import Op
from pkcompiler.paths.reindex import window_winners
from pkcompiler.paths.semiring import Settings


class _Observing(ProgramRun):
    """Observes each operation as soon as what its record names is there, and lets go of that: slopes cost less in the cache."""

    def __init__(self, program: Program, ops: Mapping[str, Op], records: Mapping[str, Record]) -> None:
        super().__init__(program)
        self.ops, self.records = ops, records
        self.missing = {name: set(r.nodes) for name, r in records.items()}
        self.readers: dict[str, list[str]] = {}
        for name, nodes in self.missing.items():
            for node in nodes:
                self.readers.setdefault(node, []).append(name)
        self.kept: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.readers:
            self.kept[n.name] = value
            for name in self.readers[n.name]:
                self.missing[name].remove(n.name)
                if not self.missing[name]:
                    self._observe(name)
        return value

    def _observe(self, name: str) -> None:
        record = self.records[name]
        self.seen[name] = observation(self.ops.get(name), record, self.kept)
        for node in record.nodes:
            if all(reader in self.seen for reader in self.readers.get(node, ())):
                self.kept.pop(node, None)


def observe(
    program: Program, lifted: Lifted, flat: Sequence[Any], tensors: Mapping[str, Tensor], chosen: Settings
) -> tuple[dict[str, Tensor], Tensor]:
    """Run the program at ``flat`` with the given parameters and buffers; the observations by operation name, and the output.

    Only what a functional with the settings ``chosen`` reads is recorded; the value of a factor of a product under its own name.
    """
    ops = {op.name: op for op in lifted.graph.ops}
    records = {name: r for name, r in lifted.records.items() if r.node and is_read(r, ops.get(name), chosen)}
    run = _Observing(program, ops, records)
    with torch.no_grad():
        (output,) = run.run(*run_inputs(program, flat, tensors))
    return run.seen, output


def is_read(record: Record, op: Op | None, chosen: Settings) -> bool:
    """Whether a sweep reads what is recorded (of an operation, or of a factor of a product)."""
    if op is None:
        return chosen.gates != "open" and chosen.products != "pairs"
    match op.map:
        case Normalise() | Frozen(kind="norm"):
            return chosen.norms == "data"
        case Window():
            return chosen.pools == "data"
    return chosen.gates != "open"


def observation(op: Op | None, record: Record, kept: Mapping[str, Any]) -> Tensor:
    """One observation, from the values that the program's own nodes had."""
    map = None if op is None else op.map
    match map:
        case Gate(zero=zero):
            return slopes(kept[record.source], kept[record.node], zero, record.slope)
        case Window():
            return window_winners(map, _window_input(record, kept))
        case Normalise():
            return inverse_deviation(map, kept[record.source])
        case _:
            value: Tensor = kept[record.node]
            return value


def _window_input(record: Record, kept: Mapping[str, Any]) -> Tensor:
    """What a window looks at: its source, or both operands of a maximum (a minimum: their negatives)."""
    source: Tensor = kept[record.source]
    if not record.other:
        return source
    both = torch.stack(torch.broadcast_tensors(source, kept[record.other]))
    return both if record.sign == 1 else -both


def slopes(z: Tensor, y: Tensor, zero: float, at_zero: float) -> Tensor:
    """(phi(z) - phi(0)) / z, and phi'(0) where z = 0 (docs/theory.md, section 1)."""
    return ((y - zero) if zero else y).div(z).masked_fill_(z == 0, at_zero)


def inverse_deviation(map: Normalise, z: Tensor) -> Tensor:
    """1 / sqrt(var + eps) (rms: 1 / sqrt(mean of squares + eps)), shaped to multiply the input (a group: [batch, groups, 1])."""
    if map.kind == "group":
        grouped = z.reshape(z.shape[0], map.groups, -1)
        return (grouped.var(-1, unbiased=False, keepdim=True) + map.eps).rsqrt()
    axes = list(range(-len(map.shape), 0))
    if map.kind == "rms":
        return (z.square().mean(axes, keepdim=True) + map.eps).rsqrt()
    return (z.var(axes, unbiased=False, keepdim=True) + map.eps).rsqrt()
