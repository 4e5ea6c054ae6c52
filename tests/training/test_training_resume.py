"""A run that is killed anywhere goes on to identical masks, weights, buffers, optimizer and random states."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pkcompiler.diagnostics import PkcError
from pkcompiler.training import Cycle, Cycles, load_schedule
from pkcompiler.training.tree import from_bytes
from tests.training.training_runs import CASES, GRADUAL, REWIND, Training, assert_same, flat, network

ROOT = Path(__file__).parents[2]


class Left(Exception):
    """The loop is left, as if the process had died there."""


def leave_at(count: int, seen: list[int]) -> Callable[[Cycle], None]:
    def hook(cycle: Cycle) -> None:
        seen[0] += 1
        if seen[0] == count:
            raise Left

    return hook


def interrupted(case: str, path: Path, at: int, **options: Any) -> None:
    """Run until the ``at``-th call of the cycle, steps and epochs counted together."""
    hook = leave_at(at, [0])
    training = Training(
        CASES[case], options={"checkpoint": path, **options}, midway=case == "within", after_step=hook, after_epoch=hook
    )
    with pytest.raises(Left):
        training.run()


def finished(case: str, **options: Any) -> Training:
    return Training(CASES[case], options=options, midway=case == "within").run()


@pytest.mark.parametrize("case", CASES)
def test_left_anywhere_and_resumed_is_uninterrupted(case: str, tmp_path: Path) -> None:
    """At the end of an epoch, and amid a later one: of another cycle, where training goes back."""
    expected = finished(case).end()
    within = {"checkpoint_steps": 2} if case == "within" else {}
    for at in (12, 27):
        path = tmp_path / f"{at}.safetensors"
        interrupted(case, path, at, **within)
        resumed = finished(case, checkpoint=path, resume=True, **within)
        assert resumed.cycles.resumed
        assert_same(resumed.end(), expected)


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    expected, path = finished("rewind").end(), tmp_path / "run.safetensors"
    for _ in range(20):
        hook = leave_at(17, [0])
        training = Training(REWIND, options={"checkpoint": path, "resume": True}, after_step=hook, after_epoch=hook)
        try:
            training.run()
        except Left:
            continue
        break
    assert training.cycles.finished
    assert_same(training.end(), expected)


def test_what_the_loop_draws_before_the_first_epoch_does_not_count(tmp_path: Path) -> None:
    def draw(cycle: Cycle) -> None:
        torch.rand(cycle.number)

    def made(**given: Any) -> Training:
        return Training(REWIND, before_cycle=draw, **given)

    expected, path, hook = made().run().end(), tmp_path / "run.safetensors", leave_at(40, [0])
    with pytest.raises(Left):
        made(options={"checkpoint": path}, after_step=hook).run()
    assert_same(made(options={"checkpoint": path, "resume": True}).run().end(), expected)


def test_a_finished_run_has_nothing_left(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    expected = finished("rewind", checkpoint=path).end()
    before = path.read_bytes()
    again = Training(REWIND, options={"checkpoint": path, "resume": True}).run()
    assert again.trail == [] and again.cycles.finished
    assert_same(again.end(), expected)
    assert path.read_bytes() == before


def test_nothing_to_resume_is_a_new_run(tmp_path: Path) -> None:
    training = finished("gradual", checkpoint=tmp_path / "new" / "run.safetensors", resume=True)
    assert not training.cycles.resumed
    assert_same(training.end(), finished("gradual").end())


# killed -----------------------------------------------------------------------------------------------------------------


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case, moment", [("within", "step:3:13"), ("rewind", "write:8")])
def test_killed_and_resumed_is_uninterrupted(case: str, moment: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, and of writing a checkpoint; this process goes on."""
    killed = python(str(ROOT / "tests" / "training" / "training_runs.py"), str(tmp_path), case, moment, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    path = tmp_path / f"{case}.safetensors"
    assert bool(list(tmp_path.glob(".*.unfinished"))) == moment.startswith("write")
    within = {"checkpoint_steps": 2} if case == "within" else {}
    resumed = finished(case, checkpoint=path, resume=True, **within)
    assert resumed.cycles.resumed and not list(tmp_path.glob(".*.unfinished"))
    assert_same(resumed.end(), finished(case).end())


KILLED = """
import os, runpy, signal, sys
from pkcompiler.training import Cycle
step, calls = Cycle.step, []
def dying(self):
    calls.append(1)
    if len(calls) == 75:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)
Cycle.step = dying
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the shipped example prints."""
    monkeypatch.setattr(sys, "argv", ["train_schedule.py", *arguments])
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    runpy.run_path(str(ROOT / "examples" / "train_schedule.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_the_shipped_example_killed_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second cycle; then the weights, and all that the last checkpoint holds, are those of a whole run."""
    monkeypatch.chdir(tmp_path)
    schedule = str(ROOT / "examples" / "schedules" / "imp-rewind.pkc")
    common = ["--schedule", schedule, "--epochs", "3", "--resume"]
    whole = example(capsys, monkeypatch, *common, "--checkpoint", "a.ckpt", "--save", "a.safetensors")
    given = [*common, "--checkpoint", "b.ckpt", "--save", "b.safetensors"]
    killed = python("-c", KILLED, str(ROOT / "examples" / "train_schedule.py"), *given, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL and not Path("b.safetensors").exists(), killed.stderr
    again = example(capsys, monkeypatch, *given)
    assert again.startswith("resumed in cycle 2 after epoch 1, step 22\n")
    told = [line for line in whole.splitlines() if line.startswith("cycle")]
    assert len(told) == 4 and told[1:] == [line for line in again.splitlines() if line.startswith("cycle")]
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    a, b = (dict(flat(from_bytes(Path(f"{name}.ckpt").read_bytes()))) for name in "ab")
    unused = ("/random/python", "/random/numpy")  # the example seeds torch alone
    assert_same(*({k: v for k, v in end.items() if not any(u in k for u in unused)} for end in (b, a)))


# checkpoints that do not fit --------------------------------------------------------------------------------------------


def test_a_checkpoint_is_never_overwritten_by_another_run(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    interrupted("gradual", path, 9)
    before = path.read_bytes()
    with pytest.raises(PkcError, match=r"PKC455.*run\.safetensors' exists"):
        Training(GRADUAL, options={"checkpoint": path})
    other = GRADUAL.replace("20%", "30%")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"text": other}, "schedule differs"),
        ({"text": GRADUAL, "epochs": 6}, "epochs was 5, and is 6"),
        ({"text": GRADUAL, "optimizer": "adam"}, "optimizer was SGD, and is Adam"),
    ]
    for changes, message in cases:
        with pytest.raises(PkcError, match=rf"PKC454.*{message}"):
            Training(**changes, options={"checkpoint": path, "resume": True})
    assert path.read_bytes() == before


def a_run(path: Path, resume: bool, **changes: Any) -> Cycles:
    """The start of a run of 4 batches of 8, as ``changes`` say."""
    given = {"lr": 0.1, "momentum": 0.9, "T_max": 5, "size": 8, "samples": 32, "shuffle": True, "rates": None, **changes}
    net, x = network(), torch.zeros(given["samples"], 6)
    stepper = torch.optim.SGD(net.parameters(), given["lr"], given["momentum"])
    rates = given["rates"] or (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, given["T_max"]))
    loader = DataLoader(TensorDataset(x), given["size"], shuffle=given["shuffle"], generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"lr_scheduler": rates(stepper), "checkpoint": path, "resume": resume}
    return load_schedule(GRADUAL).cycles(net, stepper, x[:1], epochs=5, loader=loader, **options)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"size": 4}, ["len(loader) was 4, and is 8", "loader.batch_size was 8, and is 4"]),
        ({"samples": 30}, ["len(loader.dataset) was 32, and is 30"]),
        ({"shuffle": False}, ["loader.sampler was RandomSampler, and is SequentialSampler"]),
        ({"lr": 0.5}, ["optimizer.param_groups[0]['lr'] was 0.1, and is 0.5"]),
        ({"momentum": 0.0}, ["optimizer.param_groups[0]['momentum'] was 0.9, and is 0.0"]),
        ({"T_max": 7}, ["lr_scheduler.T_max was 5, and is 7"]),
        (
            {"rates": lambda o: torch.optim.lr_scheduler.StepLR(o, 2)},
            ["lr_scheduler was CosineAnnealingLR, and is StepLR"],
        ),
    ],
)
def test_what_training_is_told_by_is_the_same(changes: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    """Batches, data, learning rates: a difference is named, with what it was and is."""
    path = tmp_path / "run.safetensors"
    next(a_run(path, False))
    with pytest.raises(PkcError) as caught:
        a_run(path, True, **changes)
    (found,) = caught.value.diagnostics
    assert found.code == "PKC454" and found.message == f"the checkpoint '{path}' is of another run: {told[0]}"
    assert found.notes == (*told[1:], f"make it as it was to go on, give another checkpoint, or start anew: rm '{path}'")
    a_run(path, True)


@pytest.mark.parametrize(
    "rates",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3]),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=5),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o, 0.1, 1, 2), torch.optim.lr_scheduler.CosineAnnealingLR(o, 3)], [2]
        ),
    ],
    ids=["steps", "plateau", "one-cycle", "lambda", "sequence"],
)
def test_every_learning_rate_schedule_is_that_of_before(rates: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    next(a_run(path, False, rates=rates))
    assert a_run(path, True, rates=rates).resumed


def test_a_scheduler_that_has_run_in_this_process_goes_on(tmp_path: Path) -> None:
    """Its rates and counts are no settings: a session may use its objects again."""
    path = tmp_path / "run.safetensors"
    training = Training(GRADUAL, options={"checkpoint": path}).run()
    training.options["resume"] = True
    assert training.drive().finished


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"x" * 100, lambda c: c[:40] + b"~" * 40 + c[80:]]
)
def test_a_damaged_checkpoint_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    interrupted("gradual", path, 9)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PkcError, match="PKC456"):
        Training(GRADUAL, options={"checkpoint": path, "resume": True})


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PkcError, match="PKC620"):
        Training(GRADUAL, options={"checkpoint": tmp_path / "file" / "run.safetensors"}).run()


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    """It is safetensors: a header of text and tensors, nothing else."""
    path = tmp_path / "run.safetensors"
    interrupted("rewind", path, 9)
    content = path.read_bytes()
    tree = from_bytes(content)
    assert content[8:9] == b"{" and tree["position"]["epoch"] == 1
    assert {"parameters", "buffers", "optimizer", "others", "random", "extra"} == set(tree["state"])


def test_a_state_that_no_checkpoint_holds(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> object:
            return {"function": print}

        def load_state_dict(self, state: object) -> None:
            raise AssertionError

    with pytest.raises(PkcError, match=r"PKC457.*state\.others\.odd\.function is a builtin"):
        Training(GRADUAL, options={"checkpoint": tmp_path / "run.safetensors", "also": {"odd": Odd()}}).run()
