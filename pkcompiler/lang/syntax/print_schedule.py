"""Schedules to text. What is printed parses back to an equal schedule."""

from __future__ import annotations

from pkcompiler.lang.ast import (
    At,
    Block,
    Call,
    DataSpec,
    Expr,
    Item,
    Labelled,
    Name,
    Number,
    Range,
    Ratio,
    Schedule,
    Setting,
    Stage,
    Text,
)
from pkcompiler.lang.check.curves import curve_expr
from pkcompiler.lang.syntax.format import print_item
from pkcompiler.lang.words import find


def schedule_block(schedule: Schedule, names: dict[str, str] | None = None) -> str:
    """The canonical text of the schedule alone. ``names``: what to call each ``Stage.pass_name`` instead."""
    items: list[Item] = []
    if schedule.seed is not None:
        items.append(_setting("seed", Number(schedule.seed)))
    if schedule.data is not None:
        items.append(_setting("data", data_expr(schedule.data)))
    items += [_stage(stage, (names or {}).get(stage.pass_name, stage.pass_name)) for stage in schedule.stages]
    if schedule.lower:
        demands = tuple(Labelled(Name("structure"), Text(glob), (structure_expr(s),)) for glob, s in schedule.lower)
        items.append(Block(Name("lower"), None, demands))
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
    if word == "size":
        return _bytes(value)
    percent = float(f"{value * 100:.12g}")
    if percent / 100 != value:
        return Number(value)
    return Number(int(percent) if percent == int(percent) else percent, "%")


def _bytes(value: float) -> Number:
    """The largest unit in which the amount has at most six digits after its point; else plain bytes."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        amount = round(value / factor, 6)
        if amount >= 1 and amount * factor == value:
            return Number(int(amount) if amount == int(amount) else amount, unit)
    return Number(int(value))


def structure_expr(structure: str) -> Expr:
    """``2:4``, ``block(16, 16)``, ``channel``."""
    kept, colon, of = structure.partition(":")
    if colon:
        return Ratio(int(kept), int(of))
    name, bracket, sizes = structure.rstrip(")").partition("(")
    return Call(name, tuple(Number(int(s)) for s in sizes.split(",")), ()) if bracket else Name(name)


def at_expr(at: At) -> Expr:
    """``end``, ``epochs(2..20)``, ``steps(1000..20000, every = 100)``."""
    if not at.visits:
        return Name(at.kind)
    when = Number(at.first) if at.first == at.last else Range(Number(at.first), Number(at.last))
    return Call(at.kind, (when,), (("every", Number(at.every)),) if at.every > 1 and at.first < at.last else ())


def _stage(stage: Stage, name: str) -> Block:
    items: list[Item] = [_setting(stage.target[0], number_of(stage.target))]
    if stage.rounds is not None and not (stage.at and stage.at.visits):
        items.append(_setting("rounds", Number(stage.rounds)))
    if stage.curve is not None:
        items.append(_setting("curve", curve_expr(stage.curve)))
    for word, value in (("scope", stage.scope), ("select", stage.select)):
        if value is not None:
            items.append(_setting(word, Name(value)))
    if stage.structure != "unstructured":
        items.append(_setting("structure", structure_expr(stage.structure)))
    items += _in_training(stage)
    if stage.include:
        items.append(_setting("include", *map(_glob, stage.include)))
    if stage.exclude:
        items.append(_setting("except", *map(_glob, stage.exclude)))
    items += [Labelled(Name("floor"), Text(glob), (number_of(("floor", part)),)) for glob, part in stage.floors]
    items += [Labelled(Name("require"), Name(what), (Number(int(least)),)) for what, least in stage.requires]
    label = Text(name) if not name.replace("-", "_").isidentifier() else Name(name)
    return Block(Name("prune"), label, tuple(items))


def _in_training(stage: Stage) -> list[Item]:
    items: list[Item] = []
    if stage.at is not None:
        items.append(_setting("at", at_expr(stage.at)))
    if stage.rewind is not None:
        items.append(_setting("rewind", Call(stage.rewind[0], (Number(stage.rewind[1]),), ())))
    if stage.regrow is not None:
        items.append(_setting("regrow", stage.regrow.score))
    if stage.swap is not None:
        items.append(_setting("swap", number_of(("swap", stage.swap))))
    return items


def _glob(glob: str) -> Expr:
    return Name(glob[1:]) if glob.startswith("@") else Text(glob)


def _setting(name: str, *values: Expr) -> Setting:
    return Setting(Name(name), values)
