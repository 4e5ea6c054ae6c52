"""How a path map is spelled: its word, its operands (slots and fixed factors) and its attributes, read off its dataclass.

``dense %x, weight=@fc.weight {transposed = true}`` has the word ``dense``, the operand ``weight`` and the attribute ``transposed``.
A field that names a slot or holds a fixed factor is an operand; every other field is an attribute, left out at its default.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from typing import Literal as Lit

from pkcompiler.ir.maps import Attr, Batch, Conv, Fixed, InvSqrt, Named, PathMap, Reindex, Scale

Record = tuple[tuple[str, object], ...]

MAPS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(PathMap)}
"""The word of every path map."""

REINDEX_PREFIX = "reindex."


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a path map: its name, its annotation, whether it is an operand, and its default (``MISSING`` when it has none)."""

    name: str
    hint: Any
    operand: bool
    slot: bool
    default: object

    @property
    def optional(self) -> bool:
        """Whether the text may leave it out."""
        return self.default is not MISSING or (self.operand and type(None) in get_args(self.hint))


@dataclass(frozen=True, slots=True)
class Spelling:
    """What is printed of a map. An operand: a slot (:class:`Named`), fixed factor, or the pair (weight slot, factor) of scale."""

    word: str
    operands: tuple[tuple[str, Fixed | tuple[str | None, Fixed]], ...]
    attributes: Record


class FormError(ValueError):
    """A spelling that no map has. ``key`` names the operand or attribute at fault, empty when it is the word."""

    def __init__(self, message: str, key: str = "", kind: Lit["word", "operand", "attribute"] = "attribute") -> None:
        super().__init__(message)
        self.key = key
        self.kind = kind


def fields_of(cls: type) -> tuple[Field, ...]:
    """The fields of a path map in order."""
    return _FIELDS[cls]


def _field(name: str, hint: Any, default: object) -> Field:
    slot = name in ("weight", "bias")
    return Field(name, hint, slot or InvSqrt in get_args(hint), slot, default)


def _fields(cls: type) -> tuple[Field, ...]:
    hints = get_type_hints(cls)
    return tuple(_field(f.name, hints[f.name], f.default) for f in fields(cls))


_FIELDS = {cls: _fields(cls) for cls in MAPS.values()}


def spell(map: PathMap) -> Spelling:
    """The spelling of a map; :func:`unspell` is its inverse."""
    if isinstance(map, Reindex):
        return Spelling(REINDEX_PREFIX + map.fn, (), map.args)
    form = fields_of(type(map))
    attributes = tuple((f.name, _value(getattr(map, f.name))) for f in form if not f.operand and not _is_default(map, f))
    return Spelling(type(map).__name__.lower(), _operands(map, form), attributes)


def _operands(map: PathMap, form: tuple[Field, ...]) -> tuple[tuple[str, Fixed | tuple[str | None, Fixed]], ...]:
    if isinstance(map, Scale):
        by: Fixed | tuple[str | None, Fixed] | None = None if map.weight is None else Named(map.weight)
        by = by if map.factor is None else (map.weight, map.factor)
        shift = None if map.bias is None else Named(map.bias)
        given = (("by", by), ("shift", shift), ("center", map.center))
        return tuple((key, value) for key, value in given if value is not None)
    found = [(f.name, getattr(map, f.name), f.slot) for f in form if f.operand]
    return tuple((name, Named(value) if slot else value) for name, value, slot in found if value is not None)


def _is_default(map: object, f: Field) -> bool:
    return repr(getattr(map, f.name)) == repr(f.default)


def _value(value: object) -> object:
    return _record(value) if isinstance(value, Conv) else value


@dataclass(frozen=True, slots=True)
class Nested:
    """The attributes of a convolution by a computed kernel, printed in braces of their own."""

    entries: Record


def _record(conv: Conv) -> Nested:
    slots: Record = (("weight", Named(conv.weight)),) if conv.weight else ()
    slots += () if conv.bias is None else (("bias", Named(conv.bias)),)
    rest: Record = tuple((f.name, getattr(conv, f.name)) for f in fields_of(Conv) if not f.slot and not _is_default(conv, f))
    return Nested(slots + rest)


def unspell(word: str, operands: Mapping[str, Fixed | tuple[str | None, Fixed]], attributes: Mapping[str, object]) -> PathMap:
    """The map that is spelled so.

    :raises FormError: unknown word, unknown or missing operand or attribute, attribute of the wrong kind
    """
    if word.startswith(REINDEX_PREFIX):
        return _unspell_reindex(word, operands, attributes)
    cls = MAPS.get(word)
    if cls is None or cls is Reindex:
        raise FormError(f"unknown operation '{word}'", kind="word")
    given = _scale_operands(operands) if cls is Scale else dict(operands)
    values = _read_operands(cls, word, given) | _read_attributes(cls, word, attributes)
    return cast(PathMap, cls(**values))


def _unspell_reindex(word: str, operands: Mapping[str, object], attributes: Mapping[str, object]) -> PathMap:
    for key in operands:
        raise FormError(f"'{word}' takes no operand '{key}'", key, "operand")
    for key, value in attributes.items():
        if isinstance(value, Nested):
            raise FormError(f"attribute '{key}' of {word} is not a value", key)
    return Reindex(word.removeprefix(REINDEX_PREFIX), cast("tuple[tuple[str, Attr], ...]", tuple(attributes.items())))


def _scale_operands(operands: Mapping[str, Fixed | tuple[str | None, Fixed]]) -> dict[str, Fixed | tuple[str | None, Fixed]]:
    renamed: dict[str, Fixed | tuple[str | None, Fixed]] = {}
    for key, value in operands.items():
        if key not in ("by", "shift", "center"):
            raise FormError(f"'scale' takes no operand '{key}', expected by, shift or center", key, "operand")
        if key == "by" and isinstance(value, tuple):
            weight, renamed["factor"] = value
            if weight is not None:
                renamed["weight"] = Named(weight)
        else:
            renamed[{"by": "weight", "shift": "bias"}.get(key, key)] = value
    return renamed


def _read_operands(cls: type, word: str, given: dict[str, Any]) -> dict[str, object]:
    form = [f for f in fields_of(cls) if f.operand]
    for key in given.keys() - {f.name for f in form}:
        known = " or ".join(f.name for f in form) or "none"
        raise FormError(f"'{word}' takes no operand '{key}', expected {known}", key, "operand")
    values: dict[str, object] = {}
    for f in form:
        value = given.get(f.name)
        if value is None and not f.optional:
            raise FormError(f"'{word}' lacks its operand '{f.name}'", f.name, "operand")
        if isinstance(value, tuple) or (f.slot and value is not None and not isinstance(value, Named)):
            raise FormError(f"operand '{f.name}' of {word} must be a slot such as @{f.name}", f.name, "operand")
        values[f.name] = value.slot if f.slot and isinstance(value, Named) else value
    return values


def _read_attributes(cls: type, word: str, attributes: Mapping[str, object]) -> dict[str, object]:
    form = {f.name: f for f in fields_of(cls) if not f.operand}
    for key in attributes:
        if key not in form:
            raise FormError(f"'{word}' has no attribute '{key}', expected {', '.join(form) or 'none'}", key)
    for f in form.values():
        if f.name not in attributes and not f.optional:
            raise FormError(f"'{word}' lacks its attribute '{f.name}' ({describe(f.hint)})", f.name)
    return {key: _read(word, form[key], value) for key, value in attributes.items()}


def _read(word: str, f: Field, value: object) -> object:
    if isinstance(value, Nested) and Conv in get_args(f.hint):
        return _nested_conv(dict(value.entries))
    value = _as_float(value, f.hint)
    if not conforms(value, f.hint):
        raise FormError(f"attribute '{f.name}' of {word} must be {describe(f.hint)}", f.name)
    return value


def _nested_conv(entries: dict[str, object]) -> Conv:
    slots = {key: entries.pop(key) for key in ("weight", "bias") if key in entries}
    if not all(isinstance(slot, Named) for slot in slots.values()):
        raise FormError("weight and bias of a convolution must be slots", "conv")
    values = _read_attributes(Conv, "conv", entries)
    names = {key: slot.slot for key, slot in slots.items() if isinstance(slot, Named)}
    return Conv(**cast(Any, {"weight": "", "bias": None} | names | values))


def _as_float(value: object, hint: Any) -> object:
    if hint is float and type(value) is int:
        return float(value)
    if get_args(hint)[:1] == (float,) and isinstance(value, tuple):
        return tuple(float(v) if type(v) is int else v for v in value)
    return value


def conforms(value: object, hint: Any) -> bool:
    """Whether ``value`` is what the annotation ``hint`` of a path map's field says."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(conforms(value, arm) for arm in get_args(hint))
    if origin is Lit:
        return any(type(value) is type(arm) and value == arm for arm in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(conforms(v, get_args(hint)[0]) for v in value)
    return type(value) is hint


_PROSE = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a word",
    type(None): "none",
    Named: "a slot",
    Conv: "{...}",
}
_PLURAL = {int: "integers", float: "numbers"}


def describe(hint: Any) -> str:
    """An annotation in words, for messages."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arm) for arm in get_args(hint))
    if origin is Lit:
        return " or ".join(str(arm) for arm in get_args(hint))
    if origin is tuple:
        return f"a list of {_PLURAL[get_args(hint)[0]]}"
    return _PROSE.get(hint, str(hint))


def is_dim(value: object) -> bool:
    """Whether ``value`` is a dimension: an integer or a multiple of the batch."""
    return type(value) is int or isinstance(value, Batch)
