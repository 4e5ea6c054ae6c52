"""Print a path graph: type at the binder, names from the module path, attributes in braces, floats by ``repr``.

What is printed parses back to an equal graph (:mod:`pkcompiler.ir.parse`) and prints the same again.
"""

from __future__ import annotations

import json
import re

from pkcompiler.ir.maps import Batch, Dim, Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.spelling import Nested, spell
from pkcompiler.ir.types import Op, Origin, PathGraph, Slot, TensorType

_NAME = re.compile(r"[\w.]+")
_WORD = re.compile(r"[^\W\d][\w.]*")
_RESERVED = frozenset({"true", "false", "none", "B", "inf", "nan", "return"})


def print_graph(graph: PathGraph) -> str:
    """The text of a graph, one line per slot and per operation, ending in a newline. An unsound graph prints too."""
    types = {value.name: value.type for value in graph.values}
    inputs = ", ".join(f"%{name(v.name)}: {print_type(v.type)}" for v in graph.inputs)
    results = [print_type(types[output]) if output in types else "?" for output in graph.outputs]
    result = results[0] if len(results) == 1 else f"({', '.join(results)})"
    lines = [f"path.graph @{name(graph.name)}({inputs}) -> {result} {{"]
    lines += [f"  {print_slot(slot)}" for slot in graph.slots]
    lines += [f"  {print_op(op)}" for op in graph.ops]
    lines += [f"  return {', '.join('%' + name(output) for output in graph.outputs)}".rstrip(), "}"]
    return "\n".join(lines) + "\n"


def print_slot(slot: Slot) -> str:
    """``parameter @fc1.weight: f32[3, 4] {prunable = true}``; of a computed weight, what it is made of and how."""
    entries: list[tuple[str, object]] = [("prunable", True)] if slot.prunable else []
    if slot.of or slot.formula:
        entries += [("of", tuple(Named(part) for part in slot.of)), ("formula", slot.formula)]
    return f"{word(slot.role)} @{name(slot.name)}: {print_type(slot.type)}" + (f" {_braces(tuple(entries))}" if entries else "")


def print_op(op: Op) -> str:
    """One operation on one line, its origin as a trailing comment."""
    form = spell(op.map)
    operands = [f"%{name(x)}" for x in op.inputs] + [f"{key}={_operand(value)}" for key, value in form.operands]
    parts = [f"%{name(op.name)}: {print_type(op.result.type)} = {word(form.word)}"]
    parts += [", ".join(operands)] if operands else []
    parts += [_braces(form.attributes)] if form.attributes or not operands else []
    parts += [f"// {print_origin(op.origin)}"] if op.origin != Origin() else []
    return " ".join(parts)


def print_origin(origin: Origin) -> str:
    """``layer1.0.conv1 model.py:12``"""
    source = origin.source if origin.source.isprintable() and origin.source == origin.source.strip() else _quote(origin.source)
    source = _quote(source) if source.startswith('"') and source is origin.source else source
    return f"{name(origin.module)} {source}".rstrip()


def print_type(type: TensorType) -> str:
    """``f32[B, 64]``"""
    return f"{word(type.dtype)}[{', '.join(print_dim(dim) for dim in type.shape)}]"


def print_dim(dim: Dim) -> str:
    """``64``, ``B``, ``4*B``"""
    if not isinstance(dim, Batch):
        return str(dim)
    return "B" if dim.factor == 1 else f"{dim.factor}*B"


def print_fixed(fixed: Fixed) -> str:
    """``rsqrt(@bn1.running_var + 1e-05)``, ``@name``, ``0.125``"""
    match fixed:
        case Literal(value):
            return repr(float(value))
        case Named(slot):
            return f"@{name(slot)}"
        case InvSqrt(slot, eps):
            return f"rsqrt(@{name(slot)} + {float(eps)!r})"


def name(text: str) -> str:
    """A name after ``%`` or ``@``: bare where it consists of letters, digits, ``_`` and ``.``, else quoted with JSON's escapes."""
    return text if _NAME.fullmatch(text) else _quote(text)


def word(text: str) -> str:
    """A word: bare where it reads back as one, else quoted."""
    return text if _WORD.fullmatch(text) and text not in _RESERVED else _quote(text)


def print_value(value: object) -> str:
    """The value of an attribute."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "none"
        case int() | float():
            return repr(value)
        case str():
            return word(value)
        case Batch():
            return print_dim(value)
        case Named(slot):
            return f"@{name(slot)}"
        case tuple():
            return f"[{', '.join(print_value(v) for v in value)}]"
        case Nested(entries):
            return _braces(entries)
    raise TypeError(f"not an attribute: {value!r}")


def _operand(value: Fixed | tuple[str | None, Fixed]) -> str:
    if not isinstance(value, tuple):
        return print_fixed(value)
    weight, factor = value
    return f"({'1' if weight is None else '@' + name(weight)} * {print_fixed(factor)})"


def _braces(entries: tuple[tuple[str, object], ...]) -> str:
    return f"{{{', '.join(f'{word(key)} = {print_value(value)}' for key, value in entries)}}}"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())
