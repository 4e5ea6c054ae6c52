"""What a checkpoint holds, checked against the run that is to go on with it: a right hash says only that it is what was written.

Everything is looked at before anything is taken. What only its owner can judge (a scheduler's state, an optimizer's) is tried where
that changes nothing; where its ``load_state_dict`` fails, that is :class:`~.state.NotTaken`.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pkcompiler.arguments import fits, words
from pkcompiler.pruning.state import Round
from pkcompiler.training.driven import Driven
from pkcompiler.training.position import Position, Reading
from pkcompiler.training.recipe import is_setting
from pkcompiler.training.run_state import Trained
from pkcompiler.training.visit import Visit

KEYS = ("recipe", "number", "back", "finished", "position", "round", "masks", "initial", "visits", "snapshots", "state")
WORDS = 624
"""Of a Mersenne Twister, Python's and numpy's."""


def problem(tree: Mapping[str, Any], run: Driven) -> str:
    """The first thing in a checkpoint that this run cannot have written; '' where there is none."""
    return next(_problems(tree, run), "")


def _problems(tree: Mapping[str, Any], run: Driven) -> Iterator[str]:
    yield from _keys(tree, KEYS, "it")
    moments = [*run.agenda.rewinds]
    if not _whole(tree["number"], 1) or not isinstance(tree["finished"], bool) or not _is_moment(tree["back"], [None, *moments]):
        yield f"cycle {_shown(tree['number'])}, finished {_shown(tree['finished'])}, back {_shown(tree['back'])} is no place in it"
    yield from _position(tree["position"], run, "position")
    yield from _masks(tree["masks"], run, "masks")
    yield from _masks(tree["initial"], run, "initial")
    yield from _rounds(tree, run)
    yield from _state(tree["state"], run.trained, "state")
    if not isinstance(tree["snapshots"], list):
        yield f"snapshots is {_shown(tree['snapshots'])}, expected a list"
    for i, entry in enumerate(tree["snapshots"]):
        if not isinstance(entry, list) or len(entry) != 2 or not _is_moment(entry[0], moments):
            yield f"snapshots[{i}] is {_shown(entry)}, expected a moment to go back to and its state"
        yield from _keys(entry[1], ("state", "position"), f"snapshots[{i}]")
        yield from _position(entry[1]["position"], run, f"snapshots[{i}].position")
        yield from _state(entry[1]["state"], run.trained, f"snapshots[{i}].state")


def _rounds(tree: Mapping[str, Any], run: Driven) -> Iterator[str]:
    """The visits are those of the schedule, in its order, and the last round is that of the last visit."""
    visits, last, due = tree["visits"], tree["round"], run.agenda.appointments
    if not isinstance(visits, list) or len(visits) > len(due) or (tree["finished"] and len(visits) < len(due)):
        yield f"visits is {_shown(visits)}, expected a list of at most {len(due)} rounds, all of them at the end"
    for i, (visit, round_) in enumerate(zip(visits, due, strict=False)):
        yield from _made(visit, Visit, f"visits[{i}]")
        stage = run.agenda.stages[round_.stage]
        expected = (stage.pass_name, round_.round, stage.rounds or 1)
        if (visit["stage"], visit["round"], visit["rounds"]) != expected:
            yield f"visits[{i}] is round {visit['round']} of '{_shown(visit['stage'])}', expected {round_.round} of '{expected[0]}'"
        if not 0 <= visit["kept"] <= visit["total"] or not visit["total"] or min(visit["cycle"], visit["epoch"], visit["step"]) < 0:
            yield f"visits[{i}] keeps {visit['kept']} of {visit['total']}, in a cycle {visit['cycle']}"
    if (last is None) != (not visits):
        yield f"round is {_shown(last)} after {len(visits)} rounds"
    if last is not None:
        yield from _made({**last, "masks": tree["masks"]} if isinstance(last, dict) else last, Round, "round")
        if (last["stage"], last["round"]) != (due[len(visits) - 1].stage, due[len(visits) - 1].round):
            yield f"round is {last['round']} of stage {last['stage']}, not the last of visits"
        if wrong := run.pruner.misfit(Round(**{**last, "masks": dict(tree["masks"])})):
            yield f"round: {wrong}"


def _position(found: Any, run: Driven, place: str) -> Iterator[str]:
    yield from _keys(found, [f.name for f in fields(Position)], place)
    if not _whole(found["epoch"], 0) or found["epoch"] > run.epochs or not _whole(found["step"], 0):
        yield f"{place} is epoch {_shown(found['epoch'])}, step {_shown(found['step'])} of {run.epochs} epochs"
    if found["midway"] is None:
        return
    yield from _keys(found["midway"], ("readings",), f"{place}.midway")
    readings = found["midway"]["readings"]
    if not isinstance(readings, list):
        yield f"{place}.midway.readings is {_shown(readings)}, expected a list"
    for i, reading in enumerate(readings):
        where = f"{place}.midway.readings[{i}]"
        yield from _keys(reading, [f.name for f in fields(Reading)], where)
        if not _whole(reading["batches"], 0) or not isinstance(reading["ended"], bool):
            yield f"{where} read {_shown(reading['batches'])} batches, ended {_shown(reading['ended'])}"
        yield from _random(reading["before"], run.trained, f"{where}.before")


def _masks(found: Any, run: Driven, place: str) -> Iterator[str]:
    shapes = {n: p.shape for n, p in run.trained.model.named_parameters(remove_duplicate=False)}
    if not isinstance(found, dict):
        yield f"{place} is {_shown(found)}, expected masks by name"
    for name, mask in found.items():
        if name not in shapes or not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shapes[name]:
            yield f"{place} has {_shown(mask)} for {_shown(name)}, expected a boolean mask of a parameter's shape"


# what training changes -------------------------------------------------------------------------------------------------------


def _state(found: Any, trained: Trained, place: str) -> Iterator[str]:
    """Parameters, buffers and random states are as those of the model; the optimizer's and others' as theirs."""
    yield from _keys(found, ("parameters", "buffers", "extra", "optimizer", "others", "random"), place)
    yield from _tensors(found["parameters"], dict(trained.model.named_parameters()), f"{place}.parameters")
    yield from _tensors(found["buffers"], dict(trained.model.named_buffers()), f"{place}.buffers")
    yield from _keys(found["extra"], [*trained.with_extra_state()], f"{place}.extra")
    yield from _optimizer(found["optimizer"], trained.optimizer, f"{place}.optimizer")
    yield from _keys(found["others"], [*trained.others], f"{place}.others")
    for name, other in trained.others.items():
        yield from _other(found["others"][name], other, f"{place}.others.{name}")
    yield from _random(found["random"], trained, f"{place}.random")


def _tensors(found: Any, own: Mapping[str, Tensor], place: str) -> Iterator[str]:
    yield from _keys(found, [*own], place)
    for name, tensor in own.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            yield f"{place}.{name} is {_shown(value)}, the model's is {_shown(tensor)}"


def _optimizer(found: Any, optimizer: Optimizer, place: str) -> Iterator[str]:
    """Its settings are numbers where the run's are, and a step that begins at its state can be made."""
    own = optimizer.state_dict()
    yield from _keys(found, [*own], place)
    groups = found["param_groups"]
    if not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups) or len(groups) != len(own["param_groups"]):
        yield f"{place}.param_groups is {_shown(groups)}, expected {len(own['param_groups'])} mappings"
    for i, (group, mine) in enumerate(zip(groups, own["param_groups"], strict=True)):
        if lacks := [key for key in mine if key not in group]:
            yield f"{place}.param_groups[{i}] lacks {_shown(lacks[0])}"
        yield from _alike({key: group[key] for key in mine}, mine, f"{place}.param_groups[{i}]")
    if [g["params"] for g in found["param_groups"]] != [g["params"] for g in own["param_groups"]]:
        yield f"{place}.param_groups are of other parameters"
    held = [i for group in own["param_groups"] for i in group["params"]]
    if not isinstance(found["state"], dict) or any(key not in held or type(key) is not int for key in found["state"]):
        yield f"{place}.state is {_shown(found['state'])}, expected states of the parameters by number"
    if reason := _fails(optimizer, found):
        yield f"{place}: a step from its state ends in {reason}"


def _fails(optimizer: Optimizer, state: Mapping[str, Any]) -> str:
    """How a step of the optimizer ends that begins at a state, on a twin without data; '' where it is done, or nothing is known."""
    try:
        _twin(optimizer).step()
    except Exception:  # one that needs a closure, or values
        return ""
    try:
        twin = _twin(optimizer)
        twin.load_state_dict(copy.deepcopy(dict(state)))
        twin.step()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _twin(optimizer: Optimizer) -> Optimizer:
    """An optimizer with the same settings and no state, of parameters and gradients that hold no values."""
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [_without_values(p) for p in group["params"]]} for group in optimizer.param_groups]
    return twin


def _without_values(parameter: Tensor) -> nn.Parameter:
    own = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    own.grad = torch.empty_like(own)
    return own


def _other(found: Any, other: Any, place: str) -> Iterator[str]:
    """A scheduler's state names what its own does; what is torch's holds values of the same kinds, settings alike."""
    rates, torchs = isinstance(other, LRScheduler), type(other).__module__.partition(".")[0] == "torch"
    if isinstance(other, nn.Module) or not (rates or torchs):
        return
    own = other.state_dict()
    if not isinstance(found, dict):
        yield f"{place} is {_shown(found)}, expected a mapping"
    if missing := [key for key in own if key not in found]:
        yield f"{place} lacks {_shown(missing[0])}"
    if rates and (wrong := [key for key in found if key not in own and (not isinstance(key, str) or hasattr(other, key))]):
        yield f"{place} has {_shown(wrong[0])}, which is none of its states"
    if torchs:
        yield from _alike(found, own, place, settings=rates)


def _alike(found: Any, own: Any, place: str, *, settings: bool = False) -> Iterator[str]:
    """A value of the kind of the run's own: of one length, with the same keys, numbers for numbers.

    ``settings``: those of learning-rate schedulers are the same.
    """
    if own is None:
        return
    if isinstance(own, Mapping):
        yield from _keys(found, [*own], place)
        for key, value in own.items():
            if not (settings and is_setting(str(key))):
                yield from _alike(found[key], value, f"{place}.{key}", settings=settings)
            elif not _equal(found[key], value):
                yield f"{place}.{key} is {_shown(found[key])}, the run's is {_shown(value)}"
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            yield f"{place} is {_shown(found)}, expected {len(own)} values"
        for i, value in enumerate(own):
            yield from _alike(found[i], value, f"{place}[{i}]", settings=settings)
    elif isinstance(own, Tensor):
        if not isinstance(found, Tensor) or found.shape != own.shape or found.dtype != own.dtype:
            yield f"{place} is {_shown(found)}, the run's is {_shown(own)}"
    elif not fits(found, float if type(own) in (int, float) else type(own)) or (
        place.endswith("last_epoch") and found < min(own, 0)
    ):
        yield f"{place} is {_shown(found)}, expected {words(float if type(own) in (int, float) else type(own))}"


def _equal(found: Any, own: Any) -> bool:
    """Whether a setting is the same; what is not plain (a tensor) is compared by its kind alone."""
    if isinstance(own, Tensor) or isinstance(found, Tensor):
        return type(found) is type(own) and found.shape == own.shape
    return bool(type(found) is type(own) and found == own)


# random states -----------------------------------------------------------------------------------------------------------------


def _random(found: Any, trained: Trained, place: str) -> Iterator[str]:
    """States that generators take; they are given to others, which nobody draws from."""
    yield from _keys(found, ("python", "numpy", "torch", "cuda", "mps", "generators"), place)
    try:
        version, values, gauss = found["python"]
        random.Random().setstate((version, tuple(values), gauss))
        name, keys, position, has_gauss, cached = found["numpy"]
        if not _whole(position, 0) or position > WORDS or keys.shape != (WORDS,):
            yield f"{place}.numpy stands at {_shown(position)} of {WORDS}"
        np.random.RandomState().set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.Generator().set_state(found["torch"])
        for generator, state in zip(trained.generators, found["generators"], strict=True):
            torch.Generator(generator.device).set_state(state)
        if not all(isinstance(state, Tensor) and state.dtype == torch.uint8 for state in found["cuda"]):
            yield f"{place}.cuda is {_shown(found['cuda'])}"
        for device, state in enumerate(found["cuda"][: torch.cuda.device_count()]):
            torch.Generator(f"cuda:{device}").set_state(state)
        if found["mps"] is not None and torch.backends.mps.is_available():
            torch.Generator("mps").set_state(found["mps"])
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, LookupError) as error:
        yield f"{place} is no state of the generators: {error}"


# plain values ------------------------------------------------------------------------------------------------------------------


def _keys(found: Any, names: Sequence[Any], place: str) -> Iterator[str]:
    if not isinstance(found, Mapping):
        yield f"{place} is {_shown(found)}, expected a mapping"
    if lacks := [name for name in names if name not in found]:
        yield f"{place} lacks {_shown(lacks[0])}"
    if more := [name for name in found if name not in names]:
        yield f"{place} has {_shown(more[0])}, which does not belong there"


def _made(found: Any, kind: type, place: str) -> Iterator[str]:
    """A mapping has the fields of a dataclass, of their types."""
    hints = get_type_hints(kind)
    yield from _keys(found, [f.name for f in fields(kind)], place)
    for name, hint in hints.items():
        if not fits(found[name], hint):
            yield f"{place}.{name} is {_shown(found[name])}, expected {words(hint)}"


def _whole(value: Any, least: int) -> bool:
    return fits(value, int) and value >= least


def _is_moment(value: Any, moments: Sequence[Any]) -> bool:
    return value is None if not isinstance(value, tuple) else any(value == m and type(value[1]) is int for m in moments if m)


def _shown(value: Any) -> str:
    """A value in at most a line; of a tensor its type and shape."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
