"""All functions of the language, and their rows in the table of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from pkcompiler.lang.functions import (
    after,
    arithmetic,
    chance,
    collapse,
    dynamics,
    gradient,
    kernels,
    noise,
    orders,
    outputs,
    paths,
    second,
)
from pkcompiler.lang.functions.record import Function
from pkcompiler.lang.rows import Word, merged

_THEMES = (paths, gradient, arithmetic, chance, outputs, second, noise, orders, after, kernels, dynamics, collapse)

FUNCTIONS: Mapping[str, Function] = {function.name: function for theme in _THEMES for function in theme.FUNCTIONS}
"""By name, in the order in which the reference lists them."""


def function_rows() -> tuple[Word, ...]:
    """One row a function."""
    return tuple(Word(f.name, "function", (), f.doc, example=f.example) for f in FUNCTIONS.values())


def argument_rows() -> tuple[Word, ...]:
    """One row an argument; functions share one that says the same of all, those of an analysis named first."""
    rows = merged(
        Word(a.name, "argument", (f.name,), a.doc, a.kind, a.default, required=a.required)
        for f in FUNCTIONS.values()
        for a in f.arguments
    )
    return tuple(replace(row, of=tuple(sorted(row.of, key=lambda name: not FUNCTIONS[name].analysis))) for row in rows)


def value_rows() -> tuple[Word, ...]:
    """The words that arguments may be."""
    arguments = dict.fromkeys(chain.from_iterable(f.arguments for f in FUNCTIONS.values()))
    return tuple(Word(v.name, "value", (a.name,), v.doc, due=v.due) for a in arguments for v in a.values)
