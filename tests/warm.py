"""``pkc`` in children of a process that has imported everything and computed nothing: what a start costs is paid once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODULES = ["pkcompiler.cli", "pkcompiler.driver.prune", "torch.export", "torch._functorch.aot_autograd", "sympy"]


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    printed: str
    """What it wrote to stdout and to stderr, in the order of writing."""


def pkc(arguments: Sequence[str], folder: Path) -> Done:
    """Run ``pkc`` with these arguments in ``folder``, at one thread, without colours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    printed = folder / ".printed"
    child = context.Process(target=_run, args=(list(arguments), folder, printed))
    child.start()
    child.join()
    text = printed.read_text(encoding="utf-8")
    printed.unlink()
    assert child.exitcode is not None
    return Done(child.exitcode, text)


def _run(arguments: list[str], folder: Path, printed: Path) -> None:
    import torch

    from pkcompiler.cli import main

    with printed.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ["NO_COLOR"] = "1"
    torch.set_num_threads(1)
    sys.argv = ["pkc", *arguments]
    main()
