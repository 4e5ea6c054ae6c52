"""Runs that are killed: whatever the moment, the same command ends with the same masks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pkcompiler
from pkcompiler.artifact import resume
from pkcompiler.artifact.resume import begin, read_state, write_state
from pkcompiler.diagnostics import PkcError
from pkcompiler.pruning.recipe import differences, recipe_hash
from pkcompiler.pruning.state import Round
from tests.cli_support import pkc

MODEL = """\
import torch
from torch import nn

def model():
    body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(96, 10))

def example_inputs():
    return torch.randn(1, 1, 8, 8)
"""

SCHEDULE = """\
schedule two {
  prune random { density = 60%  rounds = 3  curve = linear }
  prune synflow-l2 { sparsity = 95%  rounds = 6 }
}
"""

# A process that warms up once and forks a child per attempt. Each child is killed at its own n-th writing step (a rename or a
# removal), before it happens; an attempt -1 is left to finish. One thread only: a pool would not survive the fork.
KILLER = """\
import os, signal, sys
import torch
from pkcompiler.cli import main
from pkcompiler.artifact import resume
import pkcompiler.driver.prune, pkcompiler.cli.summary, pkcompiler.artifact.read
resume.CHECKPOINT_EVERY = 0.0
torch.set_num_threads(1)
pkcompiler.prune(torch.nn.Linear(2, 2), torch.ones(1, 2), "synflow", density=0.5).report

def attempt(fatal):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    steps = iter(range(10**9))
    def counted(function):
        def step(*args, **kwargs):
            if next(steps) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return step
    os.replace, os.unlink, os.rmdir = counted(os.replace), counted(os.unlink), counted(os.rmdir)
    main(sys.argv[2:])

for fatal in [int(n) for n in sys.argv[1].split(",")]:
    status = attempt(fatal)
    print("attempt", fatal, os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "two.pkc").write_text(SCHEDULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for what Python compiles."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def attempts(fatal: list[int], *args: str) -> list[tuple[int, int]]:
    """Run ``pkc`` once per entry, killed at that writing step; (step, signal or minus the exit code) of each."""
    command = [sys.executable, "-c", KILLER, ",".join(map(str, fatal)), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("attempt ")]
    return [(int(a), int(b)) for _, a, b in rows]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_step_the_masks_are_the_same(home: Path) -> None:
    args = ("prune", "net.py", "--schedule", "two.pkc")
    assert attempts([-1], *args, "-o", "whole") == [(-1, 0)]
    expected = (home / "whole" / "masks.safetensors").read_bytes()
    fatal = [0, 1, 4, 3, 2, 12, 8, 5, 9, 1]
    done = attempts([*fatal, -1], *args, "-o", "killed")
    killed = [step for step, how in done if how == signal.SIGKILL]
    assert len(killed) > len(fatal) // 2
    assert done[-1] == (-1, 0)
    assert (home / "killed" / "masks.safetensors").read_bytes() == expected
    assert names(home) == ["killed", "net.py", "two.pkc", "whole"]
    assert pkcompiler.load("killed").extra == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_while_replacing_an_artifact(home: Path) -> None:
    args = ("prune", "net.py", "--pass", "synflow", "--density", "10%", "--rounds", "2", "-o", "out")
    assert attempts([-1], *args) == [(-1, 0)]
    done = attempts([6, 11, 12, 13, 14, 15, 16, 17, -1], *args, "--rounds", "3", "--force")
    assert done[-1] == (-1, 0) and sum(how == signal.SIGKILL for _, how in done) > 4
    assert "rounds  = 3" in pkcompiler.load("out").schedule
    assert names(home) == ["net.py", "out", "two.pkc"]


def slow(*args: str) -> subprocess.Popen[str]:
    """``pkc prune`` with rounds of at least 500 ms and a checkpoint after each. It hears interrupts where the tests do not."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pkcompiler.artifact import resume\nfrom pkcompiler.pruning import target\n"
        "resume.CHECKPOINT_EVERY = 0.0\n"
        "select = target.select\n"
        "def slower(*a, **k):\n    time.sleep(0.5)\n    return select(*a, **k)\n"
        "target.select = slower\n"
        "from pkcompiler.cli import main\nmain(sys.argv[1:])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)


def test_interrupted_and_another_at_work(home: Path) -> None:
    """Ctrl-C exits with 130, says how to go on, and keeps its state; meanwhile nobody else works there."""
    args = ("prune", "net.py", "--pass", "synflow-l2", "--sparsity", "95%", "--rounds", "200", "-o", "out")
    first = slow(*args)
    wait_for(home / "out.partial" / "state.safetensors", first)
    second = slow(*args)
    _, refused = second.communicate()
    first.send_signal(signal.SIGINT)
    out, err = first.communicate()
    assert (second.returncode, first.returncode) == (1, 130), (refused, err)
    assert "PKC623" in refused and "PKC623" not in err
    assert "interrupted after round" in err and "the same command goes on" in err and out == "" and "Traceback" not in err
    recipe = json.loads((home / "out.partial" / "recipe.json").read_text())
    state = read_state(home / "out.partial" / "state.safetensors", recipe_hash(recipe))
    assert state is not None and 0 < state[0].round < 200
    shown = pkc("show", "out")
    assert shown.exit_code == 1 and "only an unfinished run: 'out.partial'" in shown.stderr
    assert "go on with it: pkc prune net.py --pass synflow-l2" in shown.stderr


# without processes ---------------------------------------------------------------------------------------------------------


def a_round(k: int = 2) -> Round:
    generator = torch.Generator().manual_seed(k)
    shapes = {"a.weight": (3, 5), "b.weight": (7,), "c": (), "d": (2, 0)}
    masks = {n: torch.rand(s, generator=generator) < 0.5 for n, s in shapes.items()}
    return Round(1, k, 9, 0.1234567890123456789, 11, 23, masks, -12.75)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    for state in (a_round(1), a_round(2)):
        write_state(tmp_path / "state", state, 1.5, "r")
        found = read_state(tmp_path / "state", "r")
        assert found is not None and found[1] == 1.5
        back = found[0]
        assert back.masks.keys() == state.masks.keys()
        assert all(torch.equal(back.masks[n], m) and back.masks[n].dtype == torch.bool for n, m in state.masks.items())
        for name in ("stage", "round", "rounds", "density", "kept", "total", "log10_mass"):
            assert getattr(back, name) == getattr(state, name)


def test_a_state_that_cannot_be_used_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert read_state(path, "r") is None
    write_state(path, a_round(), 1.0, "r")
    assert read_state(path, "another") is None
    whole = path.read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_state(path, "r") is None


RECIPE = {"model": {"source": "a" * 64, "seed": 0}, "schedule": "prune x {\n  sparsity = 90%\n}\n", "dtype": "float64"}


def test_what_lies_there_decides(tmp_path: Path) -> None:
    out = tmp_path / "below" / "out"
    work = begin(out, RECIPE)
    assert (work.found, work.after) == ("new", None) and work.partial.is_dir()
    work.checkpoint(a_round(4), 2.0)
    work.release()
    again = begin(out, RECIPE)
    assert again.found == "resumed" and again.after is not None and again.after.round == 4 and again.spent == 2.0
    again.release()
    third = begin(out, RECIPE, fresh=True)
    third.release()
    assert third.found == "new"
    assert not (again.partial / "state.safetensors").exists()


def test_a_run_of_another_recipe_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = begin(out, RECIPE)
    first.checkpoint(a_round(), 2.0)
    first.release()
    before = {p.name: p.read_bytes() for p in first.partial.iterdir()}
    with pytest.raises(PkcError, match=r"PKC622.*dtype: float64 before, float32 now"):
        begin(out, RECIPE | {"dtype": "float32"})
    assert {p.name: p.read_bytes() for p in first.partial.iterdir()} == before
    forced = begin(out, RECIPE | {"dtype": "float32"}, force=True)
    forced.release()
    assert forced.found == "new"


def test_strange_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("mine")
    with pytest.raises(PkcError, match=r"PKC621.*thesis\.tex"):
        begin(tmp_path / "out", RECIPE, force=True, fresh=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(PkcError, match="PKC621"):
        begin(tmp_path / "home", RECIPE, force=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PkcError, match="PKC621"):
        begin(tmp_path / "file", RECIPE, force=True)
    with pytest.raises(PkcError, match="PKC620"):
        begin(tmp_path / "file" / "out", RECIPE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "home", "out.partial"]


def test_quick_rounds_are_not_all_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    work = begin(tmp_path / "out", RECIPE)
    written = []
    for k in range(1, 40):
        now[0] += 0.1
        work.checkpoint(a_round(k), 0.0)
        state = read_state(work.partial / "state.safetensors", recipe_hash(RECIPE))
        written.append(state[0].round if state else 0)
    assert written[0] == 1 and 3 <= len(set(written)) <= 5
    work.checkpoint(a_round(40), 0.0, now=True)
    state = read_state(work.partial / "state.safetensors", recipe_hash(RECIPE))
    assert state is not None and state[0].round == 40
    work.release()


def test_differences_are_said_in_words() -> None:
    other = {"model": {"source": "b" * 64, "seed": 1}, "schedule": RECIPE["schedule"].replace("90", "95"), "dtype": "float64"}  # type: ignore[attr-defined]
    assert differences(RECIPE, other) == [
        "the model's source file changed",
        "the seed of the initialisation: 0 before, 1 now",
        "the schedule: 'sparsity = 90%' before, 'sparsity = 95%' now",
    ]
    assert differences(RECIPE, RECIPE) == [] and recipe_hash(RECIPE) != recipe_hash(other)
    assert differences({"data": None}, {"data": "c" * 64}) == ["the data was not there"]
