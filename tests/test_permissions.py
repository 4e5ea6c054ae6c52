"""What may not be read, entered or written is said to be so, with the system's own words; nothing is left half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pkcompiler
from tests.cli_support import TWO, home, listing, pkc
from tests.unprivileged import Bound, Done, bound

__all__ = ["home"]

PRUNE = ("prune", "mlp.py", "--density", "50%")
STUDY = 'study s { model = "mlp.py"  passes = snip  density = 50%  seeds = 0..0  train = "mlp.py:train"  DATA }'
READS = {
    "fmt": ("x.pkc", ("fmt", "FILE"), "PKC611"),
    "check": ("x.pkc", ("check", "FILE"), "PKC611"),
    "pass": ("x.pkc", (*PRUNE, "--pass", "./FILE"), "PKC611"),
    "schedule": ("x.pkc", ("prune", "mlp.py", "--schedule", "FILE"), "PKC611"),
    "study": ("x.pkc", ("study", "FILE"), "PKC611"),
    "analysis": ("x.pkc", ("analyze", "mlp.py", "--with", "./FILE"), "PKC611"),
    "model": ("x.py", ("analyze", "FILE"), "PKC242"),
    "plugin": ("x.py", ("analyze", "mlp.py", "--plugin", "FILE"), "PKC242"),
    "loss": ("x.py", (*PRUNE, "--pass", "snip", "--data", "digits", "--loss", "FILE:loss"), "PKC242"),
    "samples": ("x.py", (*PRUNE, "--pass", "snip", "--data", "FILE:data"), "PKC242"),
    "weights": ("x.pt", ("analyze", "mlp.py", "--weights", "FILE"), "PKC640"),
    "safetensors": ("x.safetensors", ("analyze", "mlp.py", "--weights", "FILE"), "PKC640"),
    "data": ("x.npz", (*PRUNE, "--pass", "snip", "--data", "FILE"), "PKC662"),
}
WRITES = {
    "fmt": ("x.pkc", ("fmt", "FILE"), "PKC612"),
    "html": ("x.html", ("analyze", "mlp.py", "--html", "FILE"), "PKC634"),
    "plot": ("x", ("analyze", "mlp.py", "--plot", "FILE"), "PKC634"),
    "plot of a schedule": ("x", (*PRUNE, "--pass", "magnitude", "--dry-run", "--plot", "FILE"), "PKC634"),
    "json": ("x.json", ("analyze", "mlp.py", "--json", "FILE"), "PKC631"),
    "latex": ("x.tex", ("analyze", "mlp.py", "--symbolic", "--latex", "FILE"), "PKC613"),
    "rescale": ("x.safetensors", ("rescale", "mlp.py", "--force", "-o", "FILE"), "PKC543"),
    "artifact": ("x", (*PRUNE, "--pass", "magnitude", "-o", "FILE"), "PKC620"),
}
NEEDS = {"html": "bokeh", "plot": "matplotlib", "plot of a schedule": "matplotlib"}


@pytest.fixture(scope="module")
def process() -> Iterator[Bound]:
    with bound() as process:
        if not process.bound:
            pytest.skip("permissions bind no process that can be started here")
        yield process


@pytest.fixture(autouse=True)
def reopened(home: Path) -> Iterator[None]:
    """So that the folder can be removed by who is no root."""
    yield
    for name in ("shut", "a"):
        if (home / name).is_dir():
            (home / name).chmod(0o755)


def named(arguments: tuple[str, ...], file: str) -> list[str]:
    return [argument.replace("FILE", file) for argument in arguments]


def refused(done: Done, code: str, said: str) -> None:
    assert (done.exit_code, done.odd) == (1, ""), done
    assert f"error[{code}]" in done.stderr and said in done.stderr and "Errno" not in done.stderr, done.stderr
    assert "help: " in done.stderr


def artifact(home: Path, name: str = "a") -> Path:
    assert pkc(*PRUNE, "--pass", "magnitude", "-o", name).exit_code == 0
    return home / name


@pytest.mark.parametrize("what", READS)
def test_a_file_that_may_not_be_read(home: Path, process: Bound, what: str) -> None:
    name, arguments, code = READS[what]
    (home / name).write_text(TWO)
    (home / name).chmod(0)
    done = process.pkc(home, *named(arguments, name))
    refused(done, code, f"{name}'")
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("what", READS)
def test_a_file_in_a_folder_that_may_not_be_entered_is_not_said_to_be_missing(home: Path, process: Bound, what: str) -> None:
    name, arguments, code = READS[what]
    (home / "shut").mkdir()
    (home / "shut" / name).write_text(TWO)
    (home / "shut").chmod(0)
    done = process.pkc(home, *named(arguments, f"shut/{name}"))
    refused(done, code, f"shut/{name}'")
    assert "Permission denied" in done.stderr and "there is no" not in done.stderr


@pytest.mark.parametrize(("what", "mode"), [(w, m) for w in WRITES for m in (0o555, 0) if w != "fmt" or m])
def test_a_folder_that_may_not_be_written(home: Path, process: Bound, what: str, mode: int) -> None:
    if what in NEEDS:
        pytest.importorskip(NEEDS[what])
    name, arguments, code = WRITES[what]
    (home / "shut").mkdir()
    if what == "fmt":
        (home / "shut" / name).write_text("schedule s { prune magnitude { density=50% } }")
    before = listing(home)
    (home / "shut").chmod(mode)
    done = process.pkc(home, *named(arguments, f"shut/{name}"))
    refused(done, code, "Permission denied")
    assert f"shut/{name}" in done.stderr
    (home / "shut").chmod(0o755)
    assert listing(home) == before


@pytest.mark.parametrize("what", [w for w in WRITES if w != "artifact" and "plot" not in w])
def test_a_file_that_may_not_be_written(home: Path, process: Bound, what: str) -> None:
    if what in NEEDS:
        pytest.importorskip(NEEDS[what])
    name, arguments, code = WRITES[what]
    text = "schedule s { prune magnitude { density=50% } }"
    (home / name).write_text(text)
    (home / name).chmod(0o444)
    before = listing(home)
    refused(process.pkc(home, *named(arguments, name)), code, f"'{name}' cannot be written: Permission denied")
    assert (home / name).read_text() == text and listing(home) == before


@pytest.mark.parametrize("command", [("show", "FILE"), ("analyze", "FILE"), ("compare", "b", "FILE")])
@pytest.mark.parametrize("closed", ["a", "shut", "a/manifest.json", "a/masks.safetensors"])
def test_an_artifact_that_may_not_be_read(home: Path, process: Bound, command: tuple[str, ...], closed: str) -> None:
    if command[0] == "compare":
        artifact(home, "b")
    if closed == "shut":
        (home / "shut").mkdir()
    place = "shut/a" if closed == "shut" else "a"
    artifact(home, place)
    (home / closed).chmod(0)
    done = process.pkc(home, *named(command, place))
    code = {"a/manifest.json": "PKC627", "a/masks.safetensors": "PKC626"}.get(closed, "PKC624")
    refused(done, code, "cannot be read: Permission denied")
    assert f"'{place}'" in done.stderr


def test_an_artifact_that_may_not_be_moved_is_not_replaced(home: Path, process: Bound) -> None:
    kept = pkcompiler.load(artifact(home)).masks
    (home / "a").chmod(0o555)
    before = listing(home)
    refused(
        process.pkc(home, *PRUNE, "--pass", "random", "--force", "-o", "a"), "PKC620", "'a' cannot be replaced: Permission denied"
    )
    assert listing(home) == before
    assert all(bool((mask == kept[n]).all()) for n, mask in pkcompiler.load(home / "a").masks.items())
    (home / "a").chmod(0o755)
    assert process.pkc(home, *PRUNE, "--pass", "random", "--force", "-o", "a").exit_code == 0
    assert listing(home) == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_lies_in_the_way_may_not_be_read(home: Path, process: Bound, force: tuple[str, ...]) -> None:
    artifact(home)
    before = listing(home)
    (home / "a").chmod(0)
    refused(process.pkc(home, *PRUNE, "--pass", "random", *force, "-o", "a"), "PKC620", "'a' cannot be read: Permission denied")
    (home / "a").chmod(0o755)
    assert listing(home) == before


@pytest.mark.parametrize("mode", [0o555, 0])
def test_the_folder_of_a_study_that_may_not_be_written(home: Path, process: Bound, mode: int) -> None:
    (home / "s.pkc").write_text(STUDY.replace("snip  ", "magnitude  ").replace("DATA", ""))
    (home / "shut").mkdir(mode=mode)
    refused(process.pkc(home, "study", "s.pkc", "-o", "shut/out"), "PKC620", "Permission denied")


@pytest.mark.parametrize("closed", ["x.npz", "shut"])
def test_the_data_of_a_study_that_may_not_be_read(home: Path, process: Bound, closed: str) -> None:
    file = "x.npz" if closed == "x.npz" else "shut/x.npz"
    (home / "s.pkc").write_text(STUDY.replace("DATA", f'data = dataset("{file}", per_class = 1)'))
    (home / "shut").mkdir()
    (home / file).write_text("")
    (home / closed).chmod(0)
    refused(process.pkc(home, "study", "s.pkc", "-o", "out"), "PKC662", f"{file}' cannot be read: Permission denied")
    assert not (home / "out").exists()


LOCKS = [("out", ("study", "s.pkc"), "PKC481"), ("out.partial", (*PRUNE, "--pass", "magnitude"), "PKC621")]


@pytest.mark.parametrize(("folder", "command", "code"), LOCKS)
def test_a_lock_that_may_not_be_read(home: Path, process: Bound, folder: str, command: tuple[str, ...], code: str) -> None:
    (home / "s.pkc").write_text(STUDY.replace("snip  ", "magnitude  ").replace("DATA", ""))
    (home / folder).mkdir()
    (home / folder / "lock").write_text("ours")
    (home / folder / "lock").chmod(0)
    before = listing(home)
    refused(process.pkc(home, *command, "-o", "out"), code, f"'{folder}/lock' cannot be read: Permission denied")
    assert listing(home) == before


def test_an_artifact_that_cannot_be_moved_in_the_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = pkcompiler.load(artifact(home)).masks
    again = (*PRUNE, "--pass", "random", "--force", "-o", "a")
    with monkeypatch.context() as patch:
        patch.setattr("pkcompiler.artifact.folder.os.rename", refuse)
        result = pkc(*again)
    refused(Done(result.exit_code, "", result.stderr, ""), "PKC620", "'a' cannot be replaced: Permission denied")
    assert "the result is whole, in 'a.partial'" in result.stderr
    assert all(bool((mask == kept[n]).all()) for n, mask in pkcompiler.load(home / "a").masks.items())
    assert pkc(*again).exit_code == 0 and not (home / "a.partial").exists()


def refuse(*_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
