"""Commands in processes that are forked from a warm one (torch is imported once), and may be killed or starved of disk."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pkcompiler.cli import main

MODEL = """\
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))

def example_inputs():
    return torch.randn(1, 8)
"""

SCHEDULE = """\
schedule two {
  prune random { density = 60%  rounds = 3  curve = linear }
  prune synflow-l2 { density = 20%  rounds = 6 }
}
"""
ONE = ("prune", "net.py", "--pass", "synflow", "--density", "20%", "--rounds", "6")
TWO = ("prune", "net.py", "--schedule", "two.pkc")


@dataclass(frozen=True, slots=True)
class Done:
    """``code``: the exit code, -9 where it was killed."""

    code: int
    out: str
    err: str

    @property
    def kind(self) -> str:
        if "Traceback" in self.err or "Exception ignored" in self.err:
            return "tracebacks"
        if self.code == 0:
            return "right"
        return (
            "refused" if self.code == 1 and "error[PKC" in self.err else "killed" if self.code == -signal.SIGKILL else "tracebacks"
        )


@contextmanager
def home() -> Iterator[Path]:
    """A folder with a model and a schedule, as the working directory."""
    before, folder = Path.cwd(), Path(tempfile.mkdtemp(prefix="pkc-attack-"))
    (folder / "net.py").write_text(MODEL)
    (folder / "two.pkc").write_text(SCHEDULE)
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def warm() -> None:
    """Import what commands import, and set what a fork needs: one thread, and checkpoints after every round."""
    import torch

    import pkcompiler
    import pkcompiler.cli.prune
    import pkcompiler.cli.summary
    import pkcompiler.driver.prune
    from pkcompiler.artifact import resume

    torch.set_num_threads(1)
    resume.CHECKPOINT_EVERY = 0.0
    _ = pkcompiler.prune(torch.nn.Linear(2, 2), torch.ones(1, 2), "synflow", density=0.5).report
    if (bars := sys.modules.get("tqdm")) is not None:  # its lock is shared by forks: who is killed in it would stop all others
        bars.tqdm.set_lock(threading.RLock())


def command(*arguments: str) -> Callable[[], object]:
    return lambda: main([*arguments])


Said = tuple[int, int]
"""Where the output and the errors of a child are read. They are pipes: a limit on files is none on them."""
ROOM = 1 << 20  # bytes that a pipe holds before anybody reads


def begin(work: Callable[[], object], limit: int | None = None) -> tuple[int, Said]:
    """A child that does some work; ``limit``: no file that it writes may be longer, in bytes. Its id, and its pipes."""
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    for number, (reader, writer) in enumerate(pipes, 1):
        if not child:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, ROOM)
            os.dup2(writer, number)
            os.close(reader)
        os.close(writer)
    if child:
        return child, (pipes[0][0], pipes[1][0])
    code = 70
    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def end(child: int, said: Said) -> Done:
    """What became of a child."""
    texts = []
    for reader in said:
        with open(reader, errors="replace") as stream:
            texts.append(stream.read())
    status = os.waitpid(child, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return Done(code, *texts)


def run(work: Callable[[], object], limit: int | None = None) -> Done:
    return end(*begin(work, limit))


def killed(work: Callable[[], object], after: float) -> Done:
    """The same, killed after so many seconds if it has not ended by then."""
    child, said = begin(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return end(child, said)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what Python compiles."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
