"""One cell, in a worker process: prune, measure, train, write its file. The user's code runs here and nowhere else."""

from __future__ import annotations

import inspect
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler import usercode
from pkcompiler.analyses.run import analyse_capture
from pkcompiler.data import LoadedData, load_data
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.driver.open import Opened, captured_on, find_device, objective_of, open_model
from pkcompiler.driver.prune import job
from pkcompiler.driver.study.code_files import source_files, source_hashes
from pkcompiler.driver.study.grid import FORMAT, SAMPLES, Cell, made
from pkcompiler.driver.study.store import Record, write_cell
from pkcompiler.files import sha256_of, unwritable
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.spec import set_seed
from pkcompiler.lowering.apply import apply_masks
from pkcompiler.paths.topology import topology
from pkcompiler.pruning.collapse import Collapsed
from pkcompiler.selection.candidates import candidates
from pkcompiler.usermodules import fresh
from pkcompiler.userstreams import lent

WATCH = 1.0
"""Seconds between two looks at whether the process that started a worker is still there."""

Train = Callable[[nn.Module, int, str], object]


def start_worker(parent: int) -> None:
    """What a worker process does first: leave interrupts to the process that started it, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def digest(cell: Cell) -> str | None:
    """The hash of the samples that a cell reads; None where they cannot be had, which :func:`~.examine.examine` reports."""
    with apart(), suppress(PkcError):
        data = data_of(cell)
        return None if data is None else data.sha256
    return None


def run_cell(cell: Cell, folder: Path, threads: int) -> Record:
    """Do a cell and write its file, whatever happens in it; what is wrong with a cell is in its record.

    Raises ``PKC620`` where the file cannot be written.
    """
    torch.set_num_threads(threads)
    record: Record = {"format": FORMAT, "key": cell.key, "status": "done", "model": cell.model_name, "method": cell.method}
    record |= {"compression": cell.compression, "seed": cell.seed}
    seconds: dict[str, float] = {}
    try:
        with apart() as files:
            _attempt(cell, record, seconds)
        record["imported"] = _further(cell, files, folder)
        _unchanged(cell, files)
    except Exception as error:
        record.pop("results", None)
        record |= {"status": "failed", **_failure(error)}
    record |= {"seconds": seconds, "threads": threads, "inputs": dict(cell.inputs)}
    try:
        write_cell(folder, cell.file, record)
    except OSError as error:
        raise unwritable(folder / cell.file, error) from None
    return record


@contextmanager
def apart() -> Iterator[dict[Path, str]]:
    """The user's code runs inside as in a process of its own: its modules and torch's defaults do not reach what comes next, and
    what it prints goes to stderr.

    Yields the files that it imported with their sha256, filled at the end.
    """
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with fresh() as files, lent():
            yield files
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def _attempt(cell: Cell, record: Record, seconds: dict[str, float]) -> None:
    try:
        _work(cell, record, seconds)
    except Collapsed as error:
        record |= {"status": "collapsed", "message": error.diagnostics[0].message}
    except Exception as error:
        record |= {"status": "failed", **_failure(error)}


def _failure(error: Exception) -> Record:
    """Code and message of what a cell failed with, and the traceback as text."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, PkcError):
        first = error.diagnostics[0]
        return {"code": first.code, "message": first.message, "help": list(first.notes), "traceback": trace}
    return {"code": None, "message": f"{type(error).__name__}: {error}", "help": [], "traceback": trace}


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """What was pruned (or not): the model with its masks, and what analyses read."""

    module: nn.Module
    masks: Mapping[str, Tensor]
    captured: Capture
    data: LoadedData | None
    loss: Any
    initialise: Any


def _work(cell: Cell, record: Record, seconds: dict[str, float]) -> None:
    started = time.monotonic()
    network = _pruned(cell, record)
    seconds["prune"] = round(time.monotonic() - started, 3)
    started = time.monotonic()
    record["analyses"] = {a.name: _measured(cell, network, a) for a in cell.analyses}
    seconds["measure"] = round(time.monotonic() - started, 3)
    started = time.monotonic()
    if network.masks:
        apply_masks(network.module, dict(network.masks))
    set_seed(cell.seed)
    record["results"] = trained(cell, network.module)
    seconds["train"] = round(time.monotonic() - started, 3)


def _further(cell: Cell, files: Mapping[Path, str], folder: Path) -> dict[str, str]:
    """The files that were imported by ways that reading the code does not show; paths relative to the cell's file."""
    specs = (cell.model, cell.train, *((cell.data_source,) if made(cell) and cell.data_source else ()))
    known = {file for spec in specs for file in source_files(spec)}
    return {Path(os.path.relpath(file, folder)).as_posix(): files[file] for file in sorted(files) if file not in known}


def _unchanged(cell: Cell, files: Mapping[Path, str]) -> None:
    """Raise ``PKC482`` where the code is no longer that of the cell's key, or that which was imported."""
    changed = [file.name for file, before in files.items() if file.is_file() and sha256_of(file) != before]
    for entry, spec in (("model sources", cell.model), ("train sources", cell.train)):
        before, now = cell.inputs[entry], source_hashes(spec)
        changed += [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        note = "run the study again: the new code has cells of its own"
        raise fail("PKC482", f"'{changed[0]}' changed while the study ran", note)


def opened_of(cell: Cell) -> Opened:
    """The cell's model, built with its seed."""
    return open_model(cell.model, seed=cell.seed)


def data_of(cell: Cell) -> LoadedData | None:
    """What the cell reads, drawn with its seed, which is that of a factory's random numbers, too."""
    if cell.data is None:
        return None
    set_seed(cell.seed)
    return load_data(replace(cell.data, source=cell.data_source or cell.data.source), cell.seed)


def _same_samples(cell: Cell, data: LoadedData | None) -> None:
    """Raise ``PKC482`` where the samples are not those of the cell's key."""
    expected = (cell.inputs["data"] or {}).get(SAMPLES)
    if data is not None and expected not in (None, data.sha256):
        notes = "run the study again: other samples have cells of their own", "a factory must make the same samples every time"
        raise fail("PKC482", f"the samples of '{data.name}' changed while the study ran", *notes)


def _pruned(cell: Cell, record: Record) -> _Network:
    """The network under the masks of its plan; puts what is kept into the record."""
    opened = opened_of(cell)
    data = None if cell.plan is not None and cell.plan.needs_data else data_of(cell)
    loss, _ = objective_of(opened, None)
    if cell.plan is None:
        _same_samples(cell, data)
        captured = captured_on(opened, find_device(cell.device), torch.float64)
        masks: Mapping[str, Tensor] = {}
        sizes = candidates(captured.graph).sizes
        kept = total = sum(sizes.values())
    else:
        set_seed(cell.seed)
        task = job(opened, cell.plan, data_source=cell.data_source, device=cell.device)
        data = data or task.data
        _same_samples(cell, data)
        captured, last = task.run.captured, None
        for state in task.run.rounds():
            last = state
        assert last is not None
        masks, kept, total = last.masks, last.kept, last.total
        sizes = task.run.candidates(task.run.plan.stages[-1]).sizes
    effective = topology(captured.graph, captured.tensors, masks).effective
    on_paths = sum(int(effective[name].sum()) for name in sizes)
    record["kept"] = {"weights": kept, "of": total, "on_paths": on_paths}
    return _Network(opened.module, masks, captured, data, loss, opened.initialise)


def _measured(cell: Cell, network: _Network, analysis: Any) -> dict[str, Any]:
    """The lines of an analysis as JSON, by their texts."""
    data = network.data if analysis.needs_data else None
    report = analyse_capture(
        network.captured,
        analysis,
        data=None if data is None else data.on(cell.device),
        masks=network.masks or None,
        loss=network.loss,
        batch=data.batch if data else None,
        seed=cell.seed,
        initialise=network.initialise,
        name=cell.model_name,
    )
    return {row.label: row.to_json()["value"] for row in report.rows}


def load_train(spec: str) -> tuple[Train, Path | None, Path]:
    """The function that trains, its file, and the folder that is importable meanwhile. Raises ``PKC24x``, ``PKC477``."""
    parsed = usercode.parse_spec(spec, "train function")
    python = usercode.import_spec(parsed)
    name = parsed.name or "train"
    train = getattr(python, name, None)
    if not callable(train):
        known = [key for key, value in vars(python).items() if inspect.isfunction(value)]
        hint = usercode.nearest(name, known) or "define train(model, seed, device) there"
        raise fail("PKC477", f"{Path(parsed.place).name} has no function '{name}'", hint)
    try:
        inspect.signature(train).bind(None, 0, "cpu")
    except TypeError as error:
        message = f"{name} of {Path(parsed.place).name} cannot be called as {name}(model, seed, device): {error}"
        raise fail("PKC477", message, "give it these three parameters, all others with defaults") from None
    except ValueError:
        pass
    return train, usercode.source_of(python), parsed.folder


def trained(cell: Cell, module: nn.Module) -> dict[str, float | None]:
    """The numbers that train returns; None for one that is not finite. Raises ``PKC243`` for what it raises, ``PKC477``."""
    train, source, folder = load_train(cell.train)
    found = usercode.call(lambda: train(module, cell.seed, cell.device), {}, source, folder, "train(model, seed, device)")
    if not isinstance(found, Mapping) or not found or not all(isinstance(key, str) for key in found):
        shown = type(found).__name__ + (", empty or with keys that are no texts" if isinstance(found, Mapping) else "")
        raise fail(
            "PKC477",
            f"what train returned is no dict of numbers, but of type {shown}",
            "return a dict of numbers: return {'accuracy': accuracy}",
        )
    return {key: _number(key, value) for key, value in found.items()}


def _number(key: str, value: object) -> float | None:
    try:
        number = float(value.item()) if isinstance(value, Tensor) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise fail("PKC477", f"'{key}' of train is a {type(value).__name__}, not a number", "return plain numbers") from None
    return number if math.isfinite(number) else None
