"""``kill -9`` at random instants: the same command ends with the same masks and tables, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.attack.processes import ONE, TWO, Done, begin, command, contents, end, home, killed, run
from benchmarks.attack.tally import Tally
from pkcompiler.cli import main

STUDY = """\
study small {
  model = "net.py"
  passes = magnitude, random
  compression = 2
  seeds = 0..1
  train = "fit.py:train"
}
"""
FIT = "def train(model, seed, device):\n    return {'size': float(sum(p.abs().sum().item() for p in model.parameters()))}\n"


class Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def study() -> None:
    """As ``pkc study small.pkc -o out`` does, but that no worker is started."""
    from pkcompiler.diagnostics import PkcError
    from pkcompiler.driver.study import run_study
    from pkcompiler.lang.library import find_study

    try:
        run_study(find_study("small.pkc"), Path("out"), jobs=1, threads=1, executor=Here())
    except PkcError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def attacks(count: int, seed: int) -> Iterator[Tally]:
    """``count`` kills of a pass, of a schedule of two stages, of a replacement, and of a study."""
    yield _killed("kill -9: one pass", command(*ONE, "-o", "out"), count, seed, "masks.safetensors")
    yield two_stages(count, seed)
    force, one = command(*TWO, "--force", "-o", "out"), command(*ONE, "-o", "out")
    yield _killed("kill -9: --force", force, count, seed, "masks.safetensors", one)
    yield of_study(count, seed)
    yield of_workers(max(1, count // 2), seed)
    yield together(max(1, count // 10), seed)


def two_stages(count: int, seed: int) -> Tally:
    return _killed("kill -9: two stages", command(*TWO, "-o", "out"), count, seed, "masks.safetensors")


def of_study(count: int, seed: int) -> Tally:
    return _killed("kill -9: study", study, count, seed, "results.csv")


def workers() -> None:
    """The same with two worker processes."""
    main(["study", "small.pkc", "-o", "out", "--jobs", "2", "--threads", "1"])


def of_workers(count: int, seed: int) -> Tally:
    """A worker process of a study is killed: it says so (``PKC479``) or comes to its end, and leaves no process behind."""
    tally, random = Tally("kill -9: a worker of a study"), Random(seed)
    with home() as folder:
        (folder / "small.pkc").write_text(STUDY)
        (folder / "fit.py").write_text(FIT)
        started = time.monotonic()
        assert (first := run(workers)).code == 0, first.err
        seconds, expected = time.monotonic() - started, (folder / "out" / "results.csv").read_bytes()
        for _ in range(count):
            shutil.rmtree(folder / "out", ignore_errors=True)
            _one_worker_killed(tally, folder, random, seconds, expected)
    return tally


def _one_worker_killed(tally: Tally, folder: Path, random: Random, seconds: float, expected: bytes) -> None:
    child, said = begin(workers)
    until, seen = time.monotonic() + random.random() * seconds, set[int]()
    while time.monotonic() < until:
        seen |= below(child)
        time.sleep(0.05)
    victims = sorted(below(child))
    for victim in victims and [random.choice(victims)]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    done = end(child, said)
    tally.tried += 1
    again = run(workers)
    if done.kind == "tracebacks" or (done.code and "PKC479" not in done.err):
        tally.add("tracebacks", done.err[-300:])
    elif alive := _still_there(seen | {*victims}):
        tally.add("lost", f"left at work: {alive}")
    elif again.code or (folder / "out" / "results.csv").read_bytes() != expected:
        tally.add("silent", f"the same command does not end as it should: {again.err[-300:]}")
    else:
        tally.add(done.kind)


def below(process: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
                parents |= {} if state == "Z" else {int(entry.name): int(parent)}
    found, more = set[int](), {process}
    while more:
        more = {own for own, parent in parents.items() if parent in more} - found
        found |= more
    return found


def _still_there(processes: set[int], patience: float = 20.0) -> list[int]:
    """Those that have not ended after a while."""
    until = time.monotonic() + patience
    while (alive := [p for p in processes if Path(f"/proc/{p}").exists()]) and time.monotonic() < until:
        time.sleep(0.2)
    return alive


def _killed(
    name: str, work: Callable[[], object], count: int, seed: int, result: str, before: Callable[[], object] | None = None
) -> Tally:
    """Up to three kills, then the same command to its end. ``before``: what makes the artifact that is replaced."""
    tally, random = Tally(name), Random(seed)
    with home() as folder:
        (folder / "small.pkc").write_text(STUDY)
        (folder / "fit.py").write_text(FIT)
        given = set(contents(folder))
        started = time.monotonic()
        assert (first := run(work)).code == 0, first.err
        seconds, expected = time.monotonic() - started, (folder / "out" / result).read_bytes()
        names = set(contents(folder))
        while tally.tried < count:
            for path in folder.iterdir():
                if path.name not in given:
                    shutil.rmtree(path, ignore_errors=True)
            if before is not None:
                run(before)
            _attack(tally, work, random, count, seconds, folder, result, expected, names, before is not None)
    return tally


def _attack(
    tally: Tally,
    work: Callable[[], object],
    random: Random,
    count: int,
    seconds: float,
    folder: Path,
    result: str,
    expected: bytes,
    names: set[str],
    replaces: bool,
) -> None:
    for _ in range(min(random.randint(1, 3), count - tally.tried)):
        tally.tried += 1
        done = killed(work, random.random() * seconds * 1.1)
        if done.kind == "tracebacks":
            tally.add("tracebacks", done.err[-300:])
        elif replaces and not _an_artifact_is_left(folder):
            tally.add("lost", "neither the old nor the new artifact is whole")
        else:
            tally.add("right")
    done = run(work)
    if done.kind == "tracebacks" or done.code:
        tally.add("tracebacks", done.err[-300:])
    elif (folder / "out" / result).read_bytes() != expected:
        tally.add("silent", f"another {result}")
    elif set(contents(folder)) != names:
        tally.add("silent", f"left behind or gone: {sorted(set(contents(folder)) ^ names)[:4]}")


def _an_artifact_is_left(folder: Path) -> bool:
    from pkcompiler import load
    from pkcompiler.diagnostics import PkcError

    for place in ("out", "out.partial", "out.partial/older"):
        try:
            load(folder / place)
            return True
        except PkcError:
            continue
    return False


def together(count: int, seed: int) -> Tally:
    """Three processes at once in one folder: each does its work, or says that another is at work."""
    tally, random = Tally("three processes in one folder"), Random(seed)
    with home() as folder:
        run(command(*TWO, "-o", "alone"))
        expected = (folder / "alone" / "masks.safetensors").read_bytes()
        for _ in range(count):
            shutil.rmtree(folder / "out", ignore_errors=True)
            children = []
            for _ in range(3):
                children.append(begin(command(*TWO, "-o", "out")))
                time.sleep(random.random() * 0.2)
            for done in [end(*child) for child in children]:
                _count(tally, done)
            if (folder / "out" / "masks.safetensors").read_bytes() != expected:
                tally.add("silent", "other masks")
            if left := sorted(
                p.name for p in folder.iterdir() if p.name not in ("alone", "out", "net.py", "two.pkc", "__pycache__")
            ):
                tally.add("lost", f"left behind: {left}")
    return tally


def _count(tally: Tally, done: Done) -> None:
    tally.tried += 1
    refused = done.kind == "refused" and "PKC623" in done.err
    tally.add("right" if done.kind == "right" else "refused" if refused else "tracebacks", done.err[-300:])
