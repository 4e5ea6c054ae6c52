"""Attacks on what a run reads back of itself: checkpoints of training, states of rounds, cells of studies, all with right hashes.

What is read is refused by a code, or taken up by the same run, which then comes to its end (a hash is no signature: other numbers
of the right kind are as good as any). A state of rounds and a cell that do not fit are done again, with the same result.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.attack.artifacts import ODD
from benchmarks.attack.kills import FIT, STUDY, study
from benchmarks.attack.processes import TWO, command, contents, home, run
from benchmarks.attack.tally import Tally
from pkcompiler.artifact.resume import state_digest
from pkcompiler.diagnostics import PkcError
from pkcompiler.pruning.recipe import recipe_hash
from pkcompiler.training import load_schedule
from pkcompiler.training.tree import from_bytes, to_bytes

LONG = "y" * 5000
KEYS: tuple[Any, ...] = (LONG, "", "\x1b[2J", "step", 0, None, ("epochs", 1), 1.5)
CONTROLS = "\x1b\x9b\x07\x9d"
MOST = 4000
"""The characters of an error: a name of 5,000 is not told whole."""

SCHEDULES = (
    "schedule s { prune magnitude { density = 30% rounds = 2 at = end rewind = epoch(1) } }",
    """schedule s {
  prune random { density = 60% scope = erk }
  prune magnitude { density = 60% scope = erk at = epochs(1..2) regrow = abs(grad(loss, theta)) swap = 30% }
}""",
    "schedule s { prune magnitude { density = 30% at = steps(4..6, every = 2) rewind = step(1) } }",
)
OPTIMIZERS: tuple[Callable[[Any], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.Adam(p, 0.01),
    lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
)
RATES: tuple[Callable[[torch.optim.Optimizer], Any], ...] = (
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 3),
    lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.MultiStepLR(o, [2])], [1]
    ),
)
CASES = len(SCHEDULES) * len(OPTIMIZERS) * len(RATES)


def train(case: int, path: Path, *, resume: bool, leave: int | None = None) -> None:
    """Three epochs of two steps under one of the cases, with a checkpoint; ``leave``: after so many steps."""
    torch.manual_seed(case)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    loader = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    kinds, rest = case % len(SCHEDULES), case // len(SCHEDULES)
    stepper = OPTIMIZERS[rest % len(OPTIMIZERS)](net.parameters())
    rates = RATES[rest // len(OPTIMIZERS) % len(RATES)](stepper)
    given: dict[str, Any] = {"checkpoint_steps": 1} if "steps" in SCHEDULES[kinds] else {}
    cycles = load_schedule(SCHEDULES[kinds]).cycles(
        net, stepper, x[:1], epochs=3, loader=loader, lr_scheduler=rates, data=(x, y), checkpoint=path, resume=resume, **given
    )
    steps = 0
    for cycle in cycles:
        for _ in cycle:
            for a, b in cycle.batches(loader):
                stepper.zero_grad()
                nn.functional.cross_entropy(net(a), b).backward()
                stepper.step()
                cycle.step()
                steps += 1
                if steps == leave:
                    return
            rates.step()
            cycle.epoch_end()
    for visit in cycles.visits:
        str(visit)


def checkpoint(case: int, random: Random, path: Path) -> bytes:
    """The file of a run that was left somewhere, or has ended."""
    path.unlink(missing_ok=True)
    train(case, path, resume=False, leave=random.choice((1, 3, 5, 7, None)))
    return path.read_bytes()


# changes -------------------------------------------------------------------------------------------------------------------


def places(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists, tuples and mappings."""
    inner = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in inner:
        yield (*place, key)
        yield from places(value, (*place, key))


def few(data: Any, random: Random) -> tuple[Any, ...]:
    """A place; all branches of a level are as likely, however much hangs on them."""
    place: tuple[Any, ...] = ()
    while isinstance(data, Mapping | list | tuple) and len(data) and (not place or random.random() < 0.85):
        keys = list(data) if isinstance(data, Mapping) else range(len(data))
        key = random.choice(list(keys))
        place, data = (*place, key), data[key]
    return place


def changed(data: Any, place: tuple[Any, ...], random: Random) -> Any:
    """The same tree with one place changed: another value, gone, or under another key, or one more beside it."""
    key, *rest = place
    if rest:
        inner = changed(data[key], tuple(rest), random)
        if isinstance(data, Mapping):
            return {**data, key: inner}
        return type(data)(inner if i == key else value for i, value in enumerate(data))
    what = random.choice(("value", "value", "value", "gone", "key", "more"))
    if isinstance(data, list | tuple):
        new = {"gone": [], "more": [data[key]] * 2}.get(what, [other(data[key], random)])
        return type(data)((*data[:key], *new, *data[key + 1 :]))
    kept = {k: v for k, v in data.items() if k != key}
    if what == "gone":
        return kept
    if what == "key":
        return {**kept, random.choice(KEYS): data[key]}
    return {**data, random.choice(KEYS) if what == "more" else key: other(data[key], random)}


def other(value: Any, random: Random) -> Any:
    """A value of another kind, or of this kind and wrong."""
    if isinstance(value, Tensor) and random.random() < 0.7:
        return other_tensor(value, random)
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((float("nan"), float("inf"), -float("inf"), 0, -1, value + 1, -value, 10**400, value + 0.5))
    return random.choice((*ODD, torch.ones(3), torch.zeros(0), torch.tensor(float("nan")), b"x", (1,), {1}, {("a", 1): 2}))


def other_tensor(value: Tensor, random: Random) -> Tensor:
    kinds = (torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)
    ways: tuple[Callable[[], Tensor], ...] = (
        lambda: value.to(random.choice(kinds)),
        lambda: value.unsqueeze(0),
        lambda: value.reshape(-1)[: value.numel() // 2],
        lambda: value.t() if value.dim() == 2 else value.reshape(-1, 1),
        lambda: torch.full_like(value.float(), float("nan")),
        lambda: torch.full_like(value, 1),
        lambda: torch.zeros_like(value),
        lambda: value.new_zeros((0, *value.shape)),
    )
    return random.choice(ways)()


# checkpoints of training -----------------------------------------------------------------------------------------------------


def trainings(count: int, seed: int) -> Tally:
    """``count`` checkpoints with one place changed, under the right hash: refused, or gone on with to the end."""
    tally, random = Tally("training: changed under right hashes"), Random(seed)
    with home() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, whole = folder / "run.safetensors", b""
        for i in range(count):
            if i % 5 == 0:
                case = (i // 5) % CASES
                whole = checkpoint(case, random, path)
            tree = from_bytes(whole)
            place = few(tree, random)
            tree = changed(tree, place, random)
            path.write_bytes(to_bytes(tree))
            how = ".".join(str(key)[:30] for key in place)
            _count(tally, how, lambda case=case: train(case, path, resume=True))  # type: ignore[misc]
    return tally


def _count(tally: Tally, how: str, work: Callable[[], object]) -> None:
    tally.tried += 1
    try:
        work()
    except PkcError as error:
        said = str(error)
        if len(said) > MOST or any(c in said for c in CONTROLS):
            tally.add("silent", f"{how}: {said[:200]!r}")
        else:
            tally.add("refused")
    except Exception as error:
        tally.add("tracebacks", f"{how}: {type(error).__name__}: {str(error)[:200]} {_where(error)}")
    else:
        tally.add("right")


def _where(error: BaseException) -> str:
    """The last line of the package that an error came through."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        found = f"{Path(name).name}:{trace.tb_lineno}" if "pkcompiler" in name or "attack" in name else found
        trace = trace.tb_next
    return found


# states of rounds --------------------------------------------------------------------------------------------------------------


def states(count: int, seed: int) -> Tally:
    """``count`` unfinished runs whose files were changed: the same masks at the end, those of a state that fits, or a code."""
    tally, random = Tally("rounds: changed under right hashes"), Random(seed)
    with home() as folder:
        assert (first := run(command(*TWO, "-o", "out"))).code == 0, first.err
        (folder / "out").rename(folder / "whole")
        run(stopped(5))
        left = contents(folder / "out.partial")
        assert "state.safetensors" in left, sorted(left)
        for _ in range(count):
            shutil.rmtree(folder / "out", ignore_errors=True)
            shutil.rmtree(folder / "out.partial", ignore_errors=True)
            (folder / "out.partial").mkdir()
            for name, content in left.items():
                (folder / "out.partial" / name).write_bytes(content)
            how = of_state(folder / "out.partial", random)
            done = run(command(*TWO, "-o", "out"))
            tally.tried += 1
            kind = "silent" if any(c in done.err for c in CONTROLS) or len(done.err) > MOST else done.kind
            tally.add(kind, f"{how}: {done.err[-400:]}")
    return tally


def stopped(after: int) -> Callable[[], object]:
    """The command, killed after so many checkpoints."""

    def work() -> None:
        from pkcompiler.artifact.resume import Work

        whole, written = Work.checkpoint, []

        def counted(*args: Any, **named: Any) -> None:
            whole(*args, **named)
            written.append(1)
            if len(written) == after:
                os._exit(9)

        Work.checkpoint = counted  # type: ignore[method-assign]
        command(*TWO, "-o", "out")()

    return work


FACTS = ("", "x", "None", "nan", "inf", "-1", "0", "1", "99", "1e400", "9" * 5000, "1.5", "2x3", LONG, "\x1b[2J", "True", "-1x2")


def of_state(folder: Path, random: Random) -> str:
    """Change a state, hash included; rarely what lies beside it."""
    if random.random() < 0.15:
        name = random.choice(("command", "collapse", "recipe.json", "lock"))
        (folder / name).write_bytes(random.choice((b"", b"\xff\xfe", LONG.encode(), b"\x1b]0;owned\x07", b"{}", b"[]", b"\0")))
        return name
    path = folder / "state.safetensors"
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts, packed = header["__metadata__"], load(content)
    if random.random() < 0.5:
        key = random.choice(sorted(facts))
        how = f"fact {key}"
        facts[key] = random.choice(FACTS)
        if random.random() < 0.2:
            del facts[key]
        elif random.random() < 0.2:
            facts[random.choice((LONG, "", "shape other"))] = facts.pop(key)
    else:
        key = random.choice(sorted(packed))
        how = f"tensor {key}"
        packed[key] = other_tensor(packed[key], random)
        if random.random() < 0.2:
            del packed[key]
        elif random.random() < 0.3:
            new = random.choice((LONG, "other", "begun 0.weight", "left 0.weight", "left other"))
            facts[f"shape {new}"] = facts[f"shape {key}"]
            packed[new] = packed.pop(key)
    facts.pop("sha256", None)
    packed = {name: tensor.contiguous() for name, tensor in packed.items()}
    path.write_bytes(save(packed, {**facts, "sha256": state_digest(packed, facts)}))
    return how


# cells of studies ----------------------------------------------------------------------------------------------------------------


def cells(count: int, seed: int) -> Tally:
    """``count`` finished studies of which one cell was changed: it is taken or done again, and a table is written; or a code."""
    tally, random = Tally("study: cells changed under right hashes"), Random(seed)
    with home() as folder:
        (folder / "small.pkc").write_text(STUDY)
        (folder / "fit.py").write_text(FIT)
        assert (first := run(study)).code == 0, first.err
        names = {path: path.read_bytes() for path in sorted((folder / "out" / "cells").iterdir())}
        for _ in range(count):
            for path, content in names.items():
                path.write_bytes(content)
            path = random.choice(list(names))
            record = json.loads(path.read_bytes())
            place = few(record, random)
            record = json.loads(json.dumps(changed_json(record, place, random)))
            record.pop("sha256", None)
            path.write_text(json.dumps({**record, "sha256": recipe_hash(record)}))
            done = run(study)
            tally.tried += 1
            kind = "silent" if any(c in done.err for c in CONTROLS) or len(done.err) > MOST else done.kind
            tally.add(kind, f"{'.'.join(map(str, place))}: {done.err[-400:]}")
    return tally


def changed_json(data: Any, place: tuple[Any, ...], random: Random) -> Any:
    """As :func:`changed`, with what JSON can say."""
    while True:
        new = changed(data, place, random)
        try:
            json.dumps(new)
            return new
        except TypeError:
            continue


def attacks(count: int, seed: int) -> Iterator[Tally]:
    """Twice ``count`` checkpoints of training, ``count`` states and as many cells."""
    yield trainings(2 * count, seed)
    yield states(count, seed)
    yield cells(count, seed)
