"""A schedule with every setting filled in: command line > stage > pass > default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import DataSpec, Pass, Schedule, Stage
from pkcompiler.lang.library import find_pass, find_schedule, print_schedule

CURVES = ("exponential", "linear", "cubic")
SCOPES = ("global", "layer", "uniform", "erk")
RULES = ("exact", "kth_le")


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved schedule: no setting is open. ``text`` is self-contained (the passes are in it)."""

    schedule: Schedule
    passes: tuple[Pass, ...]  # one per stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.schedule.stages

    @property
    def seed(self) -> int:
        return self.schedule.seed or 0

    @property
    def text(self) -> str:
        return print_schedule(self.schedule, with_passes=True)

    @property
    def needs_data(self) -> bool:
        return any(p.needs_data for p in self.passes)


def plan_of(
    pass_: str | Pass | None = None,
    *,
    schedule: str | Schedule | None = None,
    target: tuple[str, float] | None = None,
    rounds: int | None = None,
    curve: str | None = None,
    scope: str | None = None,
    select: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seed: int | None = None,
    data: DataSpec | None = None,
) -> Plan:
    """The plan of a pass and a target, or of a schedule (whose settings these arguments override).

    ``target``: (``density`` | ``sparsity`` | ``compression``, value). Raises ``PKC404`` for settings that make no sense.
    """
    if (pass_ is None) == (schedule is None):
        raise fail("PKC404", "give either a pass or a schedule", 'prune(model, x, "synflow-l2", density=0.1)')
    if schedule is not None and target is not None:
        raise fail("PKC404", "a schedule names its own targets", "leave out the density, or give a pass instead of the schedule")
    _check(rounds, curve, scope, select)
    rule = select.replace("-", "_") if select else None
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
            rounds=rounds or stage.rounds or p.rounds,
            curve=curve or stage.curve or p.curve,
            scope=scope or stage.scope or p.scope,
            select=rule or stage.select or "exact",
            include=(*stage.include, *include),
            exclude=(*stage.exclude, *exclude),
        )
        for stage, p in zip(given.stages, passes, strict=True)
    )
    for stage in stages:
        if stage.floors and stage.select == "kth_le":
            raise fail(
                "PKC404",
                f"a floor and select = kth_le exclude each other in the stage '{stage.pass_name}'",
                "the published rule knows no floors: write select = exact",
            )
    chosen_seed = seed if seed is not None else given.seed if given.seed is not None else 0
    named = tuple(dict.fromkeys((s.pass_name, p) for s, p in zip(stages, passes, strict=True)))
    full = replace(given, seed=chosen_seed, data=data or given.data, stages=stages, passes=named)
    return Plan(replace(full, text=print_schedule(full)), passes)


def require_data(plan: Plan) -> None:
    """Raise ``PKC502`` where a pass reads data and the plan names none."""
    reader = next((p.name for p in plan.passes if p.needs_data), None)
    if reader is not None and plan.schedule.data is None:
        raise fail("PKC502", f"the pass '{reader}' reads data, and none was given", "give data, e.g. --data digits")


def density_of(word: str, value: float) -> float:
    """The density that a target means. Raises ``PKC404`` outside (0, 1]."""
    density = {"density": value, "sparsity": round(1 - value, 15)}.get(word, 1 / value if value else 0.0)
    if not 0 < density <= 1:
        raise fail("PKC404", f"{word} = {value:g} keeps a fraction of {density:g}", "expected a density above 0 and at most 1")
    return density


def _single(pass_: str | Pass, target: tuple[str, float] | None) -> Schedule:
    found = pass_ if isinstance(pass_, Pass) else find_pass(pass_)
    if target is None:
        raise fail("PKC404", "no target is given", "give one, e.g. density=0.1")
    name = pass_ if isinstance(pass_, str) and "{" not in pass_ else found.name
    stage = Stage(name, density_of(*target), target)
    return Schedule(found.name, None, None, (stage,), "", ((name, found),))


def _check(rounds: int | None, curve: str | None, scope: str | None, select: str | None) -> None:
    if rounds is not None and rounds < 1:
        raise fail("PKC404", f"rounds = {rounds}", "expected at least 1")
    choices = (("curve", curve, CURVES), ("scope", scope, SCOPES), ("select", select and select.replace("-", "_"), RULES))
    for word, value, allowed in choices:
        if value is not None and value not in allowed:
            raise fail("PKC404", f"{word} = {value!r}", f"expected one of {', '.join(allowed)}")
