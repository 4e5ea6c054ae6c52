"""Commands in processes that are forked from a warm one (torch is imported once), and may be killed or starved of disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
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
    import pkcompiler.pipeline
    from pkcompiler.pruning import resume

    torch.set_num_threads(1)
    resume.CHECKPOINT_EVERY = 0.0
    _ = pkcompiler.prune(torch.nn.Linear(2, 2), torch.ones(1, 2), "synflow", density=0.5).report


def command(*arguments: str) -> Callable[[], object]:
    return lambda: main([*arguments])


def begin(work: Callable[[], object], limit: int | None = None) -> tuple[int, Path]:
    """A child that does some work; ``limit``: no file that it writes may be longer, in bytes. Its id, and where its output goes."""
    said = Path(tempfile.mkdtemp(prefix="pkc-said-"))
    streams = {number: os.open(said / name, os.O_WRONLY | os.O_CREAT) for number, name in ((1, "out"), (2, "err"))}
    child = os.fork()
    for number, stream in streams.items():
        if not child:
            os.dup2(stream, number)
        os.close(stream)
    if child:
        return child, said
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


def end(child: int, said: Path) -> Done:
    """What became of a child."""
    status = os.waitpid(child, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    out, err = ((said / name).read_text(errors="replace") for name in ("out", "err"))
    shutil.rmtree(said)
    return Done(code, out, err)


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
