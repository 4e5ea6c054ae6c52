"""A path graph as data for other programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from pkcompiler.ir.maps import Batch, Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.spelling import Nested, spell
from pkcompiler.ir.text import print_dim
from pkcompiler.ir.types import Op, PathGraph, Slot, TensorType

SCHEMA = 1


def to_json(graph: PathGraph) -> dict[str, Any]:
    """The graph as dictionaries, lists, strings and numbers.

    Dimensions are integers or the text ``B``, ``4*B``; a slot is ``{"slot": name}``; numbers that JSON lacks are strings, ``inf``,
    ``-inf``, ``nan``. Attributes at their default are left out, as in the printed text.
    """
    return {
        "schema": SCHEMA,
        "name": graph.name,
        "inputs": [{"name": v.name, "type": _type(v.type)} for v in graph.inputs],
        "slots": [_slot(s) for s in graph.slots],
        "ops": [_op(op) for op in graph.ops],
        "outputs": list(graph.outputs),
    }


def _slot(slot: Slot) -> dict[str, Any]:
    found = {"name": slot.name, "type": _type(slot.type), "role": slot.role, "prunable": slot.prunable}
    return found | ({"of": list(slot.of), "formula": slot.formula} if slot.role == "computed" else {})


def _type(type: TensorType) -> dict[str, Any]:
    return {"dtype": type.dtype, "shape": [_value(dim) for dim in type.shape]}


def _op(op: Op) -> dict[str, Any]:
    form = spell(op.map)
    return {
        "name": op.name,
        "type": _type(op.result.type),
        "map": form.word,
        "inputs": list(op.inputs),
        "operands": {key: _operand(value) for key, value in form.operands},
        "attributes": {key: _value(value) for key, value in form.attributes},
        "origin": asdict(op.origin),
    }


def _operand(value: Fixed | tuple[str | None, Fixed]) -> Any:
    match value:
        case Literal(number):
            return _value(number)
        case Named(slot):
            return {"slot": slot}
        case InvSqrt(slot, eps):
            return {"rsqrt": {"slot": slot}, "eps": _value(eps)}
        case (weight, factor):
            return {"weight": None if weight is None else {"slot": weight}, "factor": _operand(factor)}


def _value(value: object) -> Any:
    match value:
        case Named(slot):
            return {"slot": slot}
        case Batch():
            return print_dim(value)
        case tuple():
            return [_value(v) for v in value]
        case Nested(entries):
            return {key: _value(v) for key, v in entries}
        case float() if not math.isfinite(value):
            return repr(value)
    return value
