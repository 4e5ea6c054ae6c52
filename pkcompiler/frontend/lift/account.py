"""After the walk: which operations live, which parameters may be pruned, and that no use of a parameter was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from pkcompiler.diagnostics import raise_all
from pkcompiler.frontend.lift.builder import Builder
from pkcompiler.frontend.lift.classify import Classes, is_floating
from pkcompiler.frontend.lift.unplaced import lost_use
from pkcompiler.ir.types import Op, Slot
from pkcompiler.ir.walk import reached
from pkcompiler.ir.weights import holders, inner_factors, projections


def live(ops: Sequence[Op], result: str) -> tuple[Op, ...]:
    """The operations that ``result`` depends on, in order."""
    needed = {result}
    kept = []
    for op in reversed(ops):
        if op.name in needed:
            kept.append(op)
            needed.update(op.inputs)
    return tuple(kept[::-1])


def with_prunable(slots: Sequence[Slot], ops: Sequence[Op]) -> tuple[Slot, ...]:
    """Prunable: weights of linear maps, convolutions and projections (two or more dimensions), both factors of a product of
    weights, never a table of embeddings; of a computed weight the parameters that hold its entries."""
    chosen = {*projections(ops), *inner_factors(ops)}
    chosen |= {part for s in slots if s.name in chosen and s.role == "computed" for part in holders(s, slots)}
    return tuple(replace(s, prunable=s.role == "parameter" and len(s.type.shape) >= 2 and s.name in chosen) for s in slots)


def account(builder: Builder, classes: Classes) -> None:
    """Every use of every parameter is a path map's, or leads to something observed; raises ``PKC202`` for all that are neither."""
    program = builder.program
    lost = []
    for node in program.module.graph.find_nodes(op="placeholder"):
        slot = program.parameters.get(node.name) if is_floating(node) else None
        for user in node.users if slot else ():
            if (slot, user) not in builder.read and not _leads_to_observed(user, classes):
                lost.append(lost_use(str(slot), user))
    raise_all(lost)


def _leads_to_observed(node: fx.Node, classes: Classes) -> bool:
    return any(classes.kinds.get(n) == "observed" for n in reached([node], lambda n: n.users))


def observed_only(builder: Builder, reached: set[str]) -> tuple[str, ...]:
    """The parameters that something reads, but no path crosses."""
    program = builder.program
    nodes = program.module.graph.find_nodes(op="placeholder")
    used = {program.parameters[n.name] for n in nodes if n.name in program.parameters and n.users and is_floating(n)}
    return tuple(sorted(used - reached))
