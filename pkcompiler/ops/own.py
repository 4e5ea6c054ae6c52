"""Operators of the user's own: an entry that nothing would ever ask for is refused where it is registered."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from traceback import walk_stack

import torch

import pkcompiler.ops.entries  # noqa: F401  (the shipped entries come first, so that an entry of the user's takes their place)
from pkcompiler.arguments import checked
from pkcompiler.diagnostics import Diagnostic, Span, raise_all
from pkcompiler.ops import table
from pkcompiler.ops.decompose import FIRST, is_composed
from pkcompiler.ops.gates import FACTORIES, IGNORED, LINEAR, NORMS, PASS_THROUGH, SINGULAR, is_pointwise
from pkcompiler.ops.table import Entry
from pkcompiler.usercode import nearest, own_lines, span_of

INSTEAD = (
    "for paths of another kind, put it into an operator of your own (torch.library.custom_op), and give that an entry: "
    "docs/own-operator.md"
)
"""What continues where an operator is read without asking the table."""


@checked
def path_op(*names: str) -> Callable[[Entry], Entry]:
    """Register an entry for one or several overloads, e.g. ``@path_op("mine.mirror.default")``, in the place of a shipped one.

    Raises ``PKC215`` for a name of no operator, and for an operator that is read without asking the table.
    """
    idle = [found for name in names or ("",) if (found := idle_entry(name))]
    raise_all(replace(found, span=_registered(), label="this entry") for found in idle)
    return table.path_op(*names)


def idle_entry(name: str) -> Diagnostic | None:
    """The ``PKC215`` of an entry that would never be asked; None for an operator that asks, or that is not there yet."""
    parts, known = name.split("."), [n for n in operator_names() if n.partition(".")[0] == name.partition(".")[0]]
    if name not in known and (parts[0] == "aten" or len(parts) != 3 or not all(map(str.isidentifier, parts))):
        hint = f"did you mean '{name}.default'?" if len(parts) == 2 else nearest(name, known)
        full = "an entry is for one overload by its full name: aten.linear.default, mine.mirror.default"
        return Diagnostic("PKC215", f"there is no operator '{name}'", notes=(full, *([hint] if hint else [])))
    if name not in known:
        return None
    why = _read_without_asking(name, operator.attrgetter(name)(torch.ops))
    message = f"an entry for '{name}' would never be asked: {why}"
    return None if why is None else Diagnostic("PKC215", message, notes=("leave it out", INSTEAD))


def operator_names() -> Iterator[str]:
    """The overloads that torch knows now, with those of the user's that are defined."""
    for name in torch._C._dispatch_get_all_op_names():
        full = name.replace("::", ".")
        yield full if full.count(".") > 1 else f"{full}.default"


def _read_without_asking(name: str, target: torch._ops.OpOverload) -> str | None:
    """How an operator is read before the table is looked into, or another in its place."""
    if name in PASS_THROUGH | IGNORED:
        return "it changes no value"
    if name in FACTORIES:
        return "it reads nothing but the shape of a tensor"
    if target._schema.is_mutable:
        return "it writes into a tensor, and is read as the operator that returns the result instead"
    if name in FIRST:
        return "it is rewritten, and its entry is for what the rewriting leaves"
    if is_composed(target):
        return "torch writes it as other operators (a view as view, permute, slice, ...) before it is read"
    if name in NORMS | SINGULAR:
        return "it has no slope at 0, and is recorded at the data as a factor of paths"
    tensors = [a for a in (*target._schema.arguments, *target._schema.returns) if "Tensor" in str(a.type)]
    if is_pointwise(target) and name not in LINEAR and len(tensors) == 2:
        return "it acts on each entry alone, and is read as a gate already"
    return None


def _registered() -> Span | None:
    """The line of the user's file that registers an entry."""
    lines = own_lines([(frame.f_code.co_filename, line) for frame, line in walk_stack(None)])
    return span_of(*lines[0]) if lines else None
