"""Checks plain data by a JSON schema, in the words that our own schemas use. The schema is the one place that says what holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
WORDS = frozenset({"$ref", "additionalProperties", "const", "items", "maxLength", "maximum", "minimum", "pattern", "properties"})
WORDS |= {"propertyNames", "required", "type"}
SAID = frozenset({"$schema", "$defs", "description", "title"})
"""Words of a schema that demand nothing."""
SHOWN = 60


@cache
def schema_of(name: str) -> Mapping[str, Any]:
    """A schema of this package, such as ``artifact/manifest.schema.json``."""
    found: Mapping[str, Any] = json.loads((files("pkcompiler") / name).read_text(encoding="utf-8"))
    return found


def problem(value: Any, name: str) -> str:
    """The first thing in which data differ from the schema in a file; '' where there is none."""
    schema = schema_of(name)
    return next(_problems(value, schema, schema, ""), "")


def _problems(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from _problems(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, place)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(TYPES[kind](value) for kind in types):
        yield f"{place or 'it'} is {_shown(value)}, expected {' or '.join(types)}"
        return
    yield from _bounds(value, schema, place)
    if isinstance(value, dict):
        yield from _members(value, schema, root, place)
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from _problems(item, schema["items"], root, f"{place}[{i}]")


def _bounds(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    if "const" in schema and value != schema["const"]:
        yield f"{place} is {_shown(value)}, expected {schema['const']!r}"
    if "minimum" in schema and TYPES["number"](value) and value < schema["minimum"]:
        yield f"{place} is {_shown(value)}, expected at least {schema['minimum']}"
    if "maximum" in schema and TYPES["number"](value) and value > schema["maximum"]:
        yield f"{place} is {_shown(value)}, expected at most {schema['maximum']}"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        yield f"{place} has {len(value):,} characters, expected at most {schema['maxLength']}"
    pattern = schema.get("pattern", "")
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):  # Python's $ overlooks a last newline
        yield f"{place} is {_shown(value)}, expected text of the form {pattern}"


def _members(value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], place: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{f'{place} lacks' if place else 'it lacks'} '{key}'"
    known = schema.get("properties", {})
    for key, member in value.items():
        shown = f"{place}.{key[:SHOWN]}" if place else f"'{key[:SHOWN]}'"
        if "propertyNames" in schema:
            yield from _problems(key, schema["propertyNames"], root, f"the name in {place or 'it'}")
        if key in known:
            yield from _problems(member, known[key], root, shown)
        elif isinstance(more := schema.get("additionalProperties"), dict):
            yield from _problems(member, more, root, shown)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
