"""``run_study``: the cells that are left go to worker processes; each writes its own file, and the table is made from the files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pkcompiler.artifact.folder import refuse_ending
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, raise_all
from pkcompiler.driver.study.cell import digest, run_cell, start_worker
from pkcompiler.driver.study.examine import examine
from pkcompiler.driver.study.grid import Cell, cells_of, made, with_samples
from pkcompiler.driver.study.results_table import Row, rows_of, write_tables
from pkcompiler.driver.study.store import CELLS, Record, hold, read_cell
from pkcompiler.files import sweep, unwritable
from pkcompiler.lang.ast import Study

INSTALL = "pip install 'pkcompiler[study]', or: pip install 'joblib>=1.4' 'pyarrow>=17'"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

WAITING = "ExecutorManagerThread"
"""What loky calls its thread."""

Update = Callable[[Cell, Record], None]
"""Called after every cell that this run has done."""


@dataclass(frozen=True, slots=True)
class State:
    """The cells of a study with the records that there are already (None: to be done)."""

    cells: tuple[Cell, ...]
    records: tuple[Record | None, ...]

    def todo(self, retry_failed: bool = False) -> tuple[Cell, ...]:
        """The cells without a record; with ``retry_failed`` those that failed, too."""
        again = ("failed",) if retry_failed else ()
        pairs = zip(self.cells, self.records, strict=True)
        return tuple(cell for cell, record in pairs if record is None or record["status"] in again)

    def count(self, status: str) -> int:
        """The number of records with this status: ``done``, ``collapsed`` or ``failed``."""
        return sum(record is not None and record["status"] == status for record in self.records)


@dataclass(frozen=True, slots=True)
class Studied:
    """What a run of a study ended with. ``rows``: of the table, one for each cell that has a record; ``ran``: cells of this run."""

    out: Path
    state: State
    rows: list[Row]
    ran: int

    @property
    def failures(self) -> list[Record]:
        """The records of cells that failed, of earlier runs too."""
        return [record for record in self.state.records if record is not None and record["status"] == "failed"]


def require_study() -> None:
    """Raise ``PKC476`` where a package of the extra is not installed."""
    missing = [name for name in ("joblib", "pyarrow") if find_spec(name) is None]
    if missing:
        raise fail(
            "PKC476", f"a study needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed", INSTALL
        )


def cores() -> int:
    """The cores that this process may use."""
    import joblib

    return max(1, int(joblib.cpu_count()))


def state_of_study(study: Study, folder: Path, out: Path, device: str = "cpu", executor: Executor | None = None) -> State:
    """The cells, and what lies in ``out`` of them. Nothing is written. Factories of data are called, in a worker process."""
    refuse_ending(out)
    return _state(_drawn(cells_of(study, folder, device), executor), out)


def _drawn(cells: tuple[Cell, ...], executor: Executor | None) -> tuple[Cell, ...]:
    """The cells with the hashes of the samples that factories make for them."""
    kinds = {kind: cell for cell in cells if (kind := made(cell)) is not None}
    if not kinds:
        return cells
    with _pool(1, 1, executor) as pool:
        digests = {kind: pool.submit(digest, cell).result() for kind, cell in kinds.items()}
    return tuple(with_samples(cell, digests) for cell in cells)


def _state(cells: tuple[Cell, ...], out: Path) -> State:
    return State(cells, tuple(read_cell(out / CELLS, cell.file, cell.key) for cell in cells))


def run_study(
    study: Study,
    out: Path,
    *,
    folder: Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    retry_failed: bool = False,
    update: Update | None = None,
    executor: Executor | None = None,
    cells: tuple[Cell, ...] | None = None,
) -> Studied:
    """Do the cells of a study that are not done, and write ``results.csv`` and ``results.parquet`` into ``out``.

    ``folder``: where the study's file lies, to which its paths are relative (default: the working directory). ``jobs``: worker
    processes (default: one for each core); ``threads``: of each (default: cores / jobs). ``executor``: where cells run instead.
    ``cells``: those of :func:`state_of_study`, where it was asked already.
    Failed cells are in the result, not raised. On an interrupt the workers end, and what is finished is kept and in the table.

    Raises PkcError: ``PKC476`` without the extra, ``PKC479`` where a worker died, ``PKC481`` and ``PKC620`` for the folder,
    ``PKC623`` where another process is at work there, and all that is wrong with the models, the data and train.
    """
    require_study()
    refuse_ending(out)
    where = folder or Path()
    parallel = jobs or cores()
    each = threads or max(1, cores() // parallel)
    with _held(out) as cells_folder:
        state = state_of_study(study, where, out, device, executor) if cells is None else _state(cells, out)
        todo = state.todo(retry_failed)
        try:
            if todo:
                _run(todo, cells_folder, parallel, each, update, executor)
        except BaseException:
            with suppress(PkcError):
                _tabled(state.cells, out)
            raise
        state, rows = _tabled(state.cells, out)
    return Studied(out, state, rows, len(todo))


@contextmanager
def _held(out: Path) -> Iterator[Path]:
    """The folder of cells, for this process alone."""
    try:
        lock = hold(out)
    except OSError as error:
        raise unwritable(out, error) from None
    with lock:
        sweep(out / CELLS)
        yield out / CELLS


def _tabled(cells: tuple[Cell, ...], out: Path) -> tuple[State, list[Row]]:
    """What there is now, and the table of it, written. Raises ``PKC620``."""
    state = _state(cells, out)
    rows = rows_of([record for record in state.records if record is not None])
    try:
        if rows:
            write_tables(out, rows)
    except OSError as error:
        raise unwritable(out, error) from None
    return state, rows


def _run(todo: Sequence[Cell], folder: Path, jobs: int, threads: int, update: Update | None, executor: Executor | None) -> None:
    with _pool(jobs, threads, executor) as pool:
        raise_all(_examined(pool, todo))
        futures: dict[Future[Record], Cell] = {pool.submit(run_cell, cell, folder, threads): cell for cell in todo}
        for future in as_completed(futures):
            record = future.result()
            if update is not None:
                update(futures[future], record)


def check_study(state: State, retry_failed: bool = False) -> None:
    """Raise all that is wrong with the models, the data, train and the targets of what is to be done; nothing is run."""
    todo = state.todo(retry_failed)
    if todo:
        with _pool(1, 1, None) as pool:
            raise_all(_examined(pool, todo))


def _examined(pool: Executor, todo: Sequence[Cell]) -> tuple[Diagnostic, ...]:
    """What a look at the code, the data and the targets finds."""
    return pool.submit(examine, tuple(todo)).result()


@contextmanager
def _pool(jobs: int, threads: int, executor: Executor | None) -> Iterator[Executor]:
    """The executor that is given, or fresh worker processes. Raises ``PKC479`` where one of them dies."""
    try:
        with nullcontext(executor) if executor is not None else _workers(jobs, threads) as pool:
            yield pool
    except BrokenProcessPool as error:
        note = f"the same command goes on; with fewer --jobs ({max(1, jobs // 2)}) it needs less memory"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise fail("PKC479", f"a worker process died: {reason}", note) from error


@contextmanager
def _workers(jobs: int, threads: int) -> Iterator[Executor]:
    """Fresh worker processes, ended without waiting where something is raised."""
    from joblib.externals.loky import ProcessPoolExecutor

    settings = dict.fromkeys(THREADS, str(threads))
    pool = ProcessPoolExecutor(max_workers=jobs, env=settings, initializer=start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        with suppress(Exception), _unheard_threads():
            pool.shutdown(wait=True, kill_workers=True)
        raise
    pool.shutdown(wait=True)


@contextmanager
def _unheard_threads() -> Iterator[None]:
    """While workers are killed, loky's thread that waits for them may meet results that nobody waits for, and die of it."""
    before = threading.excepthook
    threading.excepthook = lambda args: None if args.thread and args.thread.name == WAITING else before(args)
    try:
        yield
    finally:
        threading.excepthook = before
