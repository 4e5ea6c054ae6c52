"""The cells of a study: what each is, and the key that everything which determines it hashes to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.driver.study.code_files import placed, source_hashes
from pkcompiler.files import barred, sha256_of
from pkcompiler.lang.ast import Analysis, DataSpec, Pass, Schedule, Study
from pkcompiler.lang.plan import Plan, plan_of, require_data
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.lang.syntax.print_schedule import data_expr
from pkcompiler.usercode import parse_spec
from pkcompiler.version import __version__

FORMAT = 1
DENSE = "dense"
"""What the network that is not pruned is called: one cell for every model and seed, whatever the passes."""
SAMPLES = "samples sha256"
"""The entry of a cell's data that holds the hash of what a factory makes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One network: pruned (or dense: ``plan`` is None), measured, trained.

    ``compression``: the one asked for, None for a schedule. ``inputs``: all that determines the result; ``key``: its sha256.
    ``model``, ``train`` and ``data_source``: where these lie now.
    """

    name: str
    model_name: str
    method: str
    compression: float | None
    seed: int
    plan: Plan | None
    model: str
    train: str
    data: DataSpec | None
    data_source: str | None
    analyses: tuple[Analysis, ...]
    device: str
    inputs: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The SHA-256 of ``inputs`` as JSON with sorted keys, in hexadecimal."""
        text = json.dumps(self.inputs, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return sha256(text.encode()).hexdigest()

    @property
    def file(self) -> str:
        """The name of its file: readable, and the key."""
        return f"{self.name}-{self.key[:16]}.json"


@dataclass(frozen=True, slots=True)
class _Method:
    """A pass at a target, a schedule, or nothing (dense); ``plan`` takes a seed."""

    name: str
    target: str
    compression: float | None
    pass_name: str | None = None
    schedule: Schedule | None = None
    amount: tuple[str, float] | None = None


def cells_of(study: Study, folder: Path, device: str = "cpu") -> tuple[Cell, ...]:
    """All cells, one seed after the other, so that what is finished of an interrupted study is whole for some seeds.

    ``folder``: where the study's file lies. Raises PkcError with everything wrong: ``PKC240``, ``PKC480``, ``PKC502``.
    """
    raise_all(_during_training(study))
    models = _names([parse_spec(spec).stem for spec in study.models], list(study.models))
    train = placed(study.train, folder, "train function")
    shared = {"format": FORMAT, "pkcompiler": __version__, "torch": str(torch.__version__), "device": device, "dtype": "float64"}
    shared |= {"train": parse_spec(study.train).name, "train sources": source_hashes(train)}
    shared |= {"analyses": [a.text + "".join(p.text for _, p in a.passes) for _, a in study.analyses]}
    methods = tuple(_methods(study))
    cells: list[Cell] = []
    hashes = {spec: source_hashes(placed(spec, folder)) for spec in study.models}
    for seed in study.seeds:
        for name, spec in zip(models, study.models, strict=True):
            own = {**shared, "model": parse_spec(spec).name, "model sources": hashes[spec], "seed": seed}
            cells += [
                _cell(study, folder, m, seed, model_name=name, spec=spec, train=train, device=device, own=own) for m in methods
            ]
    return tuple(cells)


def _cell(
    study: Study,
    folder: Path,
    method: _Method,
    seed: int,
    *,
    model_name: str,
    spec: str,
    train: str,
    device: str,
    own: Mapping[str, Any],
) -> Cell:
    plan = _plan(study, method, seed)
    data = plan.schedule.data if plan is not None and plan.schedule.data is not None else study.data
    measured = any(a.needs_data for _, a in study.analyses)
    reads = measured or (plan is not None and plan.needs_data)
    where = data_place(data, folder) if data is not None and reads else None
    inputs = {**own, "plan": None if plan is None else plan.text, "data": data_facts(data, where) if data and where else None}
    parts = [model_name, method.name, method.target, f"s{seed}"]
    return Cell(
        name="-".join(_plain(p) for p in parts if p),
        model_name=model_name,
        method=method.name,
        compression=method.compression,
        seed=seed,
        plan=plan,
        model=placed(spec, folder),
        train=train,
        data=data if reads else None,
        data_source=where,
        analyses=tuple(a for _, a in study.analyses),
        device=device,
        inputs=inputs,
    )


def _methods(study: Study) -> Iterator[_Method]:
    """The dense network once where a target asks for it, then every pass at every other target, then every schedule."""
    amounts = [(target, _compression(target)) for target in study.targets]
    if any(compression == 1 for _, compression in amounts):
        yield _Method(DENSE, "", 1.0)
    declared: list[tuple[str, Pass | Schedule]] = [*study.passes, *study.schedules]
    names = _names([d.name for _, d in declared], [label for label, _ in declared])
    for name, (label, found) in zip(names, declared, strict=True):
        if isinstance(found, Schedule):
            yield _Method(name, "", None, schedule=found)
            continue
        for target, compression in amounts:
            if compression != 1:
                yield _Method(name, f"{compression:.12g}x", compression, label, amount=target)


def _plan(study: Study, method: _Method, seed: int) -> Plan | None:
    if method.schedule is not None:
        plan = plan_of(schedule=method.schedule, seed=seed, data=method.schedule.data or study.data)
    elif method.pass_name is not None:
        pass_ = dict(study.passes)[method.pass_name]
        plan = plan_of(pass_, target=method.amount, rounds=study.rounds, seed=seed, data=study.data)
    else:
        return None
    require_data(plan)
    if plan.needs_data:
        return plan
    return Plan(replace(plan.schedule, data=None), plan.passes)


def _compression(target: tuple[str, float]) -> float:
    word, value = target
    if word == "compression":
        return value
    density = value if word == "density" else round(1 - value, 15)
    return float(f"{1 / density:.12g}")


def _names(short: list[str], long: list[str]) -> list[str]:
    """The short names, the long ones where two share a short one."""
    return [name if short.count(name) == 1 and name != DENSE else full for name, full in zip(short, long, strict=True)]


def _plain(text: str) -> str:
    """A part of a file's name."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text).strip("-.")[:60]


def _during_training(study: Study) -> Iterator[Diagnostic]:
    """Stages that a study cannot run, for it prunes before it trains."""
    for label, schedule in study.schedules:
        for stage in schedule.stages:
            if (stage.at is not None and stage.at.kind != "start") or stage.rewind is not None:
                message = f"the stage '{stage.pass_name}' of '{label}' runs in the course of training"
                note = "drive it from your own loop (docs/training.md), or leave it out of the study"
                yield Diagnostic("PKC480", message, stage.span, "a study prunes before it trains", (note,))


def data_place(data: DataSpec, folder: Path) -> str:
    """Where the data of a study lie: files relative to its folder."""
    place, colon, name = data.source.partition(":")
    if not place.endswith((".npz", ".py")) or Path(place).is_absolute():
        return data.source
    return str((folder / place).absolute()) + colon + name  # a link keeps its own name, which says what it is


def data_facts(data: DataSpec, where: str) -> dict[str, Any]:
    """What determines the data: the spec, and the bytes of a file; of a factory, :func:`with_samples`. Raises ``PKC662``."""
    facts: dict[str, Any] = {"spec": print_expr(data_expr(data))}
    if where.endswith(".npz"):
        if (fault := barred(where)) is not None:
            raise fail("PKC662", fault, "give a file that can be read", span=data.span)
        if not os.path.isfile(where):
            raise fail("PKC662", f"there is no file '{where}'", "paths of a study are relative to its file", span=data.span)
        facts["sha256"] = sha256_of(Path(where))
    return facts


def made(cell: Cell) -> tuple[str, str, int] | None:
    """What tells the samples of a factory apart: where it lies, the options, and the seed; None where a cell reads none of it."""
    if cell.data is None or cell.data_source is None or ":" not in cell.data_source:
        return None
    return cell.data_source, print_expr(data_expr(cell.data)), cell.seed


def with_samples(cell: Cell, digests: Mapping[tuple[str, str, int], str | None]) -> Cell:
    """The cell with the hash of the samples that its factory makes in its key, whatever files or code they come from."""
    kind = made(cell)
    if kind is None:
        return cell
    return replace(cell, inputs={**cell.inputs, "data": {**cell.inputs["data"], SAMPLES: digests[kind]}})
