"""A schedule with every setting filled in: command line > stage > pass > default."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.lang.ast import Call, DataSpec, Pass, Schedule, Stage
from pkcompiler.lang.check.stage import ON_A_MODEL, conflicts
from pkcompiler.lang.functions.seen import BY_LAYER, uncomparable
from pkcompiler.lang.library import as_typed, find_pass, find_schedule, print_schedule
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.lang.syntax.print_schedule import at_expr
from pkcompiler.lang.words import rows

SWAP = 0.3
"""The part of the kept weights that a stage with ``regrow`` swaps, where it does not say."""

SCOPES = ("global", "layer", "uniform", "erk")
RULES = ("exact", "kth_le")


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved schedule: no setting is open. ``text`` is self-contained (the passes are in it)."""

    schedule: Schedule
    passes: tuple[Pass, ...]  # one per stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the schedule, in order."""
        return self.schedule.stages

    @property
    def seed(self) -> int:
        """The schedule's seed; 0 where it names none."""
        return self.schedule.seed or 0

    @property
    def text(self) -> str:
        """The schedule as a ``.pkc`` file, with the passes that it names."""
        return print_schedule(self.schedule, with_passes=True)

    def with_stages(self, stages: tuple[Stage, ...]) -> Plan:
        """The same schedule with other settings of its stages."""
        return replace(self, schedule=replace(self.schedule, stages=stages))

    @property
    def products(self) -> dict[str, str]:
        """How the passes that sum over paths read products of activations, by the name of the pass."""
        return {
            pass_.name: str(node.words["products"])
            for pass_ in self.passes
            for node in pass_.typed.walk()
            if "products" in node.words
        }

    @property
    def needs_data(self) -> bool:
        """Whether a pass, or what a stage regrows by, reads data."""
        return bool(self.reader)

    @property
    def reader(self) -> str:
        """The first pass that reads data, or stage that regrows by what does, in words; '' where none does."""
        for pass_, stage in zip(self.passes, self.stages, strict=True):
            if pass_.needs_data:
                return f"the pass '{pass_.name}'"
            if stage.regrow is not None and stage.regrow.needs_data:
                return f"regrow of the stage '{pass_.name}'"
        return ""


def patterns(given: str | Iterable[str], setting: str) -> list[str]:
    """Globs of parameters, or the words (``bias``, ``norm`` ...) that ``include`` and ``except`` know, as a stage holds them."""
    known = {row.name for row in rows("value", setting)}
    return [f"@{text}" if text in known else text for text in ([given] if isinstance(given, str) else given)]


def plan_of(
    pass_: str | Path | Pass | None = None,
    *,
    schedule: str | Path | Schedule | None = None,
    target: tuple[str, float] | None = None,
    rounds: int | None = None,
    curve: str | None = None,
    scope: str | None = None,
    select: str | None = None,
    structure: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    seed: int | None = None,
    data: DataSpec | None = None,
) -> Plan:
    """The plan of a pass and a target, or of a schedule (whose settings these arguments override).

    ``target``: (``density`` | ``sparsity`` | ``compression`` | ``flops`` | ``size``, value); ``curve``: a named one or the text of
    an expression; ``structure``: canonical text; ``include``, ``exclude``: as :func:`patterns` reads them. Raises ``PKC404`` and
    ``PKC421`` for settings that make no sense (together).
    """
    if (pass_ is None) == (schedule is None):
        raise fail("PKC404", "give either a pass or a schedule", 'prune(model, x, "synflow-l2", density=0.1)')
    if schedule is not None and target is not None:
        raise fail("PKC404", "a schedule names its own targets", "leave out the density, or give a pass instead of the schedule")
    _check(rounds, scope, select)
    curve, structure = _read("curve", curve), _read("structure", structure)
    rule = select.replace("-", "_") if select else None
    included, excluded = patterns(include, "include"), patterns(exclude, "except")
    if schedule is not None:
        given = schedule if isinstance(schedule, Schedule) else find_schedule(schedule)
    else:
        assert pass_ is not None
        given = _single(pass_, target)
    known = dict(given.passes)
    passes = tuple(known[s.pass_name] if s.pass_name in known else find_pass(s.pass_name) for s in given.stages)
    stages = tuple(
        replace(
            stage,
            rounds=_rounds(stage, rounds, p),
            curve=curve or stage.curve or p.curve,
            scope=scope or stage.scope or p.scope,
            select=rule or stage.select or "exact",
            structure=structure or stage.structure,
            swap=stage.swap or (SWAP if stage.regrow is not None else None),
            include=(*stage.include, *included),
            exclude=(*stage.exclude, *excluded),
        )
        for stage, p in zip(given.stages, passes, strict=True)
    )
    for stage, p in zip(stages, passes, strict=True):
        _agree(stage)
        alone = uncomparable(node.call for node in p.typed.walk() if isinstance(node.expr, Call))
        if stage.scope == "global" and alone is not None:
            raise fail("PKC570", f"the stage '{stage.pass_name}' has scope = global: {alone.by_layer}", BY_LAYER)
    chosen_seed = seed if seed is not None else given.seed if given.seed is not None else 0
    named = tuple(dict.fromkeys((s.pass_name, p) for s, p in zip(stages, passes, strict=True)))
    full = replace(given, seed=chosen_seed, data=data or given.data, stages=stages, passes=named)
    return Plan(replace(full, text=print_schedule(full)), passes)


def refuse_training(plan: Plan) -> None:
    """Raise ``PKC425`` where a stage does not run before training."""
    late = next((s for s in plan.stages if s.at is not None and s.at.kind != "start"), None)
    if late is None or late.at is None:
        return
    raise fail(
        "PKC425",
        f"the stage '{late.pass_name}' runs at = {print_expr(at_expr(late.at))}, in a training that pkcompiler does not run",
        "drive it from your own loop (docs/training.md): load_schedule(FILE).cycles(model, optimizer, x[:1], epochs=N, ...)",
        *filter(None, [typed_or_called("pkc prune --dry-run shows its rounds", "")]),
    )


def require_data(plan: Plan) -> None:
    """Raise ``PKC502`` where a pass reads data and the plan names none."""
    if plan.reader and plan.schedule.data is None:
        raise no_data(plan.reader)


def no_data(reader: str) -> PkcError:
    """The ``PKC502`` of what reads data, and is given none."""
    return fail(
        "PKC502", f"{reader} reads data, and none was given", typed_or_called("give data: --data digits", "give data=(x, y)")
    )


def density_of(word: str, value: float) -> float:
    """The density that a target means, nan where only a model tells. Raises ``PKC404`` outside (0, 1]."""
    if word in ON_A_MODEL:
        if not 0 < value <= (1 if word == "flops" else math.inf):
            raise fail("PKC404", f"{word} = {value:g}", "expected a part from 0 to 1 of flops, bytes above 0 of size")
        return math.nan
    density = {"density": value, "sparsity": round(1 - value, 15)}.get(word, 1 / value if value else 0.0)
    if not 0 < density <= 1:
        raise fail("PKC404", f"{word} = {value:g} keeps a fraction of {density:g}", "expected a density above 0 and at most 1")
    return density


def _single(pass_: str | Path | Pass, target: tuple[str, float] | None) -> Schedule:
    given = pass_ if isinstance(pass_, Pass) else as_typed(pass_)
    found = given if isinstance(given, Pass) else find_pass(given)
    if target is None:
        raise fail("PKC404", "no target is given", "give one, e.g. density=0.1")
    name = given if isinstance(given, str) and "{" not in given else found.name
    stage = Stage(name, density_of(*target), target)
    return Schedule(found.name, None, None, (stage,), "", ((name, found),))


def _rounds(stage: Stage, rounds: int | None, found: Pass) -> int:
    """The visits in training, else what is given."""
    return len(stage.at.visits) if stage.at and stage.at.visits else rounds or stage.rounds or found.rounds


def _agree(stage: Stage) -> None:
    """Settings of a resolved stage that exclude each other (``PKC404``, ``PKC421``)."""
    if stage.floors and stage.select == "kth_le":
        raise fail(
            "PKC404",
            f"a floor and select = kth_le exclude each other in the stage '{stage.pass_name}'",
            "the published rule knows no floors: write select = exact",
        )
    visits = stage.at is not None and bool(stage.at.visits)
    for _, message, label, note in conflicts(replace(stage, rounds=None) if visits else stage):
        raise fail("PKC421", f"{message} in the stage '{stage.pass_name}': {label}", note)


def _read(word: str, value: str | None) -> str | None:
    """The canonical text of a setting that was given in Python or on the command line, read as the language reads it."""
    if value is None:
        return None
    if not value.strip() or set(value) & set("{}\n\r#"):
        raise _no_setting(word, value)
    try:
        bare, stage = (
            find_schedule(f"schedule s {{ prune magnitude {{ density = 50%\n{line}\n}} }}").stages[0]
            for line in ("", f"{word} = {value}")
        )
    except PkcError as error:
        first = error.diagnostics[0]
        code = "PKC404" if first.code.startswith("PKC0") else first.code
        raise fail(code, f"{first.message}: {first.label}" if first.label else first.message, *first.notes) from None
    own: dict[str, Any] = {word: getattr(stage, word)}
    if stage != replace(bare, **own):
        raise _no_setting(word, value)
    found: str | None = own[word]
    return found


def _no_setting(word: str, value: str) -> PkcError:
    example = {"curve": "cubic, or an expression in k, n, rho", "structure": "2:4, block(16, 16), channel or unstructured"}[word]
    return fail("PKC404", f"{word} = {value!r} is not one {word} alone", f"expected {example}")


def _check(rounds: int | None, scope: str | None, select: str | None) -> None:
    if rounds is not None and rounds < 1:
        raise fail("PKC404", f"rounds = {rounds}", "expected at least 1")
    choices = (("scope", scope, SCOPES), ("select", select and select.replace("-", "_"), RULES))
    for word, value, allowed in choices:
        if value is not None and value not in allowed:
            raise fail("PKC404", f"{word} = {value!r}", f"expected one of {', '.join(allowed)}")
