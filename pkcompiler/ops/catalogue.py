"""What is supported, for people: every operator and how it is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pkcompiler.ops import entries
from pkcompiler.ops.decompose import REWRITES
from pkcompiler.ops.gates import FROZEN_LIST, IGNORED, PASS_THROUGH, is_pointwise
from pkcompiler.ops.table import TABLE

__all__ = ["READINGS", "Operator", "entries", "operators"]

READINGS: dict[str, str] = {
    "map": "has an entry: it becomes path maps",
    "rewritten": "is rewritten into operators with entries",
    "gate": "is a gate, alone or with its neighbours, where it reads one tensor",
    "frozen": "is recorded at the data where no other reading fits, and 1 without data",
    "unchanged": "hands its tensor on",
}
"""The ways in which an operator is read."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An ATen overload (``aten.conv2d.default``) and its readings, keys of :data:`READINGS`."""

    name: str
    readings: tuple[str, ...]


def operators() -> tuple[Operator, ...]:
    """Every operator that a lift understands, by name; with those of the plug-ins that are loaded."""
    found: dict[str, list[str]] = {}
    rewritten = (str(target) for target in REWRITES)
    for reading, names in (
        ("map", TABLE),
        ("rewritten", rewritten),
        ("gate", _pointwise()),
        ("frozen", FROZEN_LIST),
        ("unchanged", PASS_THROUGH | IGNORED),
    ):
        for name in names:
            found.setdefault(name, []).append(reading)
    return tuple(Operator(name, tuple(found[name])) for name in sorted(found))


def _pointwise() -> list[str]:
    """The pointwise overloads of ATen, as torch tags them, that return a new tensor."""
    found = []
    for full in torch._C._dispatch_get_all_op_names():
        packet, _, overload = full.removeprefix("aten::").partition(".")
        if not full.startswith("aten::") or packet.endswith("_") or "out" in overload:
            continue
        target = getattr(getattr(torch.ops.aten, packet), overload or "default", None)
        found += [str(target)] if is_pointwise(target) else []
    return found
