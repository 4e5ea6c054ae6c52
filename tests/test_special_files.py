"""What is no file is refused, and not waited for: pipes, sockets and devices, wherever a file is read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pkcompiler
from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.study.store import TOKEN
from pkcompiler.files import sweep
from tests.cli_support import home, pkc

__all__ = ["home"]

PRUNE = ("prune", "mlp.py", "--density", "50%")
READS = {
    "fmt": ("x.pkc", ("fmt", "x.pkc"), "PKC611"),
    "check": ("x.pkc", ("check", "x.pkc"), "PKC611"),
    "explain": ("x.pkc", ("explain", "./x.pkc"), "PKC611"),
    "pass": ("x.pkc", (*PRUNE, "--pass", "./x.pkc"), "PKC611"),
    "schedule": ("x.pkc", ("prune", "mlp.py", "--schedule", "x.pkc"), "PKC611"),
    "study": ("x.pkc", ("study", "x.pkc"), "PKC611"),
    "analysis": ("x.pkc", ("analyze", "mlp.py", "--with", "./x.pkc"), "PKC611"),
    "model": ("x.py", ("analyze", "x.py"), "PKC242"),
    "plugin": ("x.py", ("analyze", "mlp.py", "--plugin", "x.py"), "PKC242"),
    "loss": ("x.py", (*PRUNE, "--pass", "snip", "--data", "digits", "--loss", "x.py:loss"), "PKC242"),
    "weights": ("x.pt", ("analyze", "mlp.py", "--weights", "x.pt"), "PKC640"),
    "data": ("x.npz", (*PRUNE, "--pass", "snip", "--data", "x.npz"), "PKC662"),
    "manifest": ("manifest.json", ("show", "."), "PKC627"),
    "data of a study": ("x.npz", ("study", "s.pkc"), "PKC662"),
}
STUDY = 'study s { model = "mlp.py"  passes = snip  density = 50%  seeds = 0..0  train = "mlp.py:train"  DATA }'


KINDS = ["a pipe", "a socket", "a device"]
LINKED = ("manifest", "a device")  # a link in an artifact is refused as one


def made(path: Path, kind: str) -> None:
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(path.name)  # a longer name is none of a socket


@pytest.mark.parametrize(("what", "kind"), [(w, k) for w in READS for k in KINDS if (w, k) != LINKED])
def test_what_is_no_file_is_refused(home: Path, what: str, kind: str) -> None:
    name, arguments, code = READS[what]
    (home / "s.pkc").write_text(STUDY.replace("DATA", 'data = dataset("x.npz", per_class = 1)'))
    made(home / name, kind)
    result = pkc(*arguments)
    assert result.exit_code == 1 and f"error[{code}]" in result.stderr and kind in result.stderr, result.output


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_no_file(home: Path, kind: str) -> None:
    made(home / "c", kind)
    model = nn.Linear(3, 2)
    schedule = pkcompiler.load_schedule("schedule s { prune magnitude { at = epochs(1) density = 50% } }")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(PkcError, match=f"PKC456.*{kind}"):
        schedule.cycles(model, optimizer, torch.ones(1, 3), epochs=2, steps_per_epoch=1, checkpoint="c", resume=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["lock", "cells/a.json"])
def test_a_file_of_a_study_that_is_none(home: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "s.pkc").write_text(STUDY.replace("snip  ", "magnitude  ").replace("DATA", ""))
    (home / "out" / "cells").mkdir(parents=True)
    (home / "out" / "lock").write_text(TOKEN)
    (home / "out" / name).unlink(missing_ok=True)
    monkeypatch.chdir((home / "out" / name).parent)
    made(Path(Path(name).name), kind)
    monkeypatch.chdir(home)
    result = pkc("study", "s.pkc", "-o", "out")
    assert result.exit_code == 1 and "error[PKC481]" in result.stderr and f"out/{name}'" in result.stderr, result.output


def test_left_over_files_that_are_none_are_left(home: Path) -> None:
    made(home / ".a.0123456789abcdef.unfinished", "a pipe")
    sweep(home)
    assert (home / ".a.0123456789abcdef.unfinished").exists()


def test_what_a_shell_hands_over_is_read(home: Path) -> None:
    line = f"{sys.executable} -m pkcompiler check <(cat two.pkc) && cat two.pkc | {sys.executable} -m pkcompiler check /dev/stdin"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and done.stderr.count("no errors") == 2, done.stderr
