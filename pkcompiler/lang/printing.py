"""Schedules to text. What is printed parses back to an equal schedule."""

from __future__ import annotations

from pkcompiler.lang.ast import Block, Call, DataSpec, Expr, Item, Labelled, Name, Number, Schedule, Setting, Stage, Text
from pkcompiler.lang.format import print_item
from pkcompiler.lang.words import find


def schedule_block(schedule: Schedule, names: dict[str, str] | None = None) -> str:
    """The canonical text of the schedule alone. ``names``: what to call each ``Stage.pass_name`` instead."""
    items: list[Item] = []
    if schedule.seed is not None:
        items.append(_setting("seed", Number(schedule.seed)))
    if schedule.data is not None:
        items.append(_setting("data", data_expr(schedule.data)))
    items += [_stage(stage, (names or {}).get(stage.pass_name, stage.pass_name)) for stage in schedule.stages]
    return print_item(Block(Name("schedule"), Name(schedule.name), tuple(items)))


def data_expr(data: DataSpec) -> Expr:
    """``digits(per_class = 10)``, ``"file.npz"``, ``dataset("file.npz", batch = 64)``."""
    named = find(data.source, "value", "data") is not None
    options = tuple((key, Text(value) if isinstance(value, str) else Number(value)) for key, value in data.options)
    if not options:
        return Name(data.source) if named else Text(data.source)
    return Call(data.source, (), options) if named else Call("dataset", (Text(data.source),), options)


def number_of(target: tuple[str, float]) -> Number:
    """``("sparsity", 0.98)`` to ``98%``, where that reads back as the same number; else the plain number."""
    word, value = target
    if word == "compression":
        return Number(int(value) if value == int(value) else value, "x")
    percent = float(f"{value * 100:.12g}")
    if percent / 100 != value:
        return Number(value)
    return Number(int(percent) if percent == int(percent) else percent, "%")


def _stage(stage: Stage, name: str) -> Block:
    items: list[Item] = [_setting(stage.target[0], number_of(stage.target))]
    if stage.rounds is not None:
        items.append(_setting("rounds", Number(stage.rounds)))
    for word, value in (("curve", stage.curve), ("scope", stage.scope), ("select", stage.select)):
        if value is not None:
            items.append(_setting(word, Name(value)))
    if stage.include:
        items.append(_setting("include", *map(_glob, stage.include)))
    if stage.exclude:
        items.append(_setting("except", *map(_glob, stage.exclude)))
    items += [Labelled(Name("floor"), Text(glob), (number_of(("floor", part)),)) for glob, part in stage.floors]
    label = Text(name) if not name.replace("-", "_").isidentifier() else Name(name)
    return Block(Name("prune"), label, tuple(items))


def _glob(glob: str) -> Expr:
    return Name(glob[1:]) if glob.startswith("@") else Text(glob)


def _setting(name: str, *values: Expr) -> Setting:
    return Setting(Name(name), values)
