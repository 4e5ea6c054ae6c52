"""``pkc`` run as permissions bind: root reads and writes what it likes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
DROP = 24  # PR_CAPBSET_DROP
OVERRIDING = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended; ``odd``: an exception that is no exit."""

    exit_code: int
    stdout: str
    stderr: str
    odd: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A process that runs one command after another. ``bound``: whether permissions bind it, too."""

    commands: IO[str]
    results: IO[str]
    bound: bool

    def pkc(self, folder: Path, *arguments: str) -> Done:
        self.commands.write(json.dumps([str(folder), *arguments]) + "\n")
        self.commands.flush()
        return Done(**json.loads(self.results.readline()))


@contextmanager
def bound() -> Iterator[Bound]:
    """The process, which ends with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "tests.unprivileged"]
    with subprocess.Popen(line, stdin=-1, stdout=-1, text=True, cwd=ROOT, env=environment, preexec_fn=_drop) as process:
        assert process.stdin is not None and process.stdout is not None
        yield Bound(process.stdin, process.stdout, json.loads(process.stdout.readline()))
        process.stdin.close()


def _drop() -> None:
    """Root is as others are from the next program on, where Linux lets it."""
    if os.geteuid() == 0 and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for capability in OVERRIDING:
            libc.prctl(DROP, capability, 0, 0, 0)


def _is_bound() -> bool:
    """Whether a file that nobody may read cannot be read."""
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return not os.access(file.name, os.R_OK)


def _serve() -> None:
    """Run the commands that come, with stdout as stderr: whatever they write is no result."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    results.write(json.dumps(_is_bound()) + "\n")
    results.flush()
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        os.chdir(folder)
        results.write(json.dumps(_done(arguments)) + "\n")
        results.flush()


def _done(arguments: list[str]) -> dict[str, Any]:
    from click.testing import CliRunner

    from pkcompiler.cli import main

    result = CliRunner().invoke(main, arguments)
    odd = "" if result.exception is None or isinstance(result.exception, SystemExit) else repr(result.exception)
    return {"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr, "odd": odd}


if __name__ == "__main__":
    _serve()
