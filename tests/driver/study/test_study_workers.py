"""Studies in worker processes: the same bits whatever the number of jobs, interrupts, deaths, the command, the figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pkcompiler.cli import main
from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.study import run_study
from pkcompiler.driver.study.results_table import measures_of, metric_of
from pkcompiler.lang.library import find_study
from pkcompiler.show.study import accuracy, points, sparsity, write_study_plots
from pkcompiler.show.study import panels as panels_of
from tests.driver.study.study_files import STUDY, Here, files, run

SMALL = STUDY.replace("1, 2, 40", "1, 2").replace("synflow, magnitude", "magnitude")
SLEEPY = """
import time

def train(model, seed, device):
    time.sleep(60 if seed else 0)
    return {"accuracy": 0.5}
"""
PKC = "from pkcompiler.cli import main; main()"


def test_the_bits_are_those_of_one_process_whatever_the_jobs(tmp_path: Path) -> None:
    here, two = tmp_path / "here", tmp_path / "two"
    for folder in (here, two):
        folder.mkdir()
        study = files(folder, SMALL)
    first, _ = run(here, find_study(str(here / "small.pkc")))
    second = run_study(study, two / "out", folder=two, jobs=2, threads=1)
    assert second.rows == first.rows and second.ran == 4
    for name in ("results.csv", "results.parquet"):
        assert (two / "out" / name).read_bytes() == (here / "out" / name).read_bytes()
    assert (
        len({path.name for path in (two / "out" / "cells").iterdir()} ^ {p.name for p in (here / "out" / "cells").iterdir()}) == 0
    )


def test_an_interrupted_study_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    files(tmp_path, SMALL)
    (tmp_path / "fit.py").write_text(SLEEPY)
    command = [sys.executable, "-c", PKC, "study", "small.pkc", "-o", "out", "--jobs", "1"]
    # Python ignores interrupts in what a shell has started in the background: ask for them.
    command[2] = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + PKC
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "pkc study small.pkc -o out" in said and "Traceback" not in said, said
    assert sorted(before) == sorted(path.name for path in folder.iterdir()) and len(before) == 2
    # What train does with seed 0 is the same code, so the two cells that are done stay; the rest is never slept for here.
    done, calls = run(tmp_path, find_study(SMALL.replace("0..1", "0"), folder=tmp_path))
    assert calls == 0 and len(done.rows) == 2
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_worker_that_dies_is_an_error_with_a_way_on(tmp_path: Path) -> None:
    class Dying(Here):
        """A pool whose process is gone once a cell runs."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if fn.__name__ == "run_cell":
                raise BrokenProcessPool("killed by signal 9\nand more")
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(PkcError, match=r"killed by signal 9\n.*--jobs \(2\)") as error:
        run_study(files(tmp_path, SMALL), tmp_path / "out", folder=tmp_path, jobs=4, threads=1, executor=Dying())
    assert [d.code for d in error.value.diagnostics] == ["PKC479"]


def test_the_command_and_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = files(tmp_path, STUDY.replace("synflow, magnitude", "synflow"))
    monkeypatch.chdir(tmp_path)
    plan = CliRunner().invoke(main, ["study", "small.pkc", "--dry-run"], standalone_mode=False)
    assert plan.exception is None and "6 to do" in plan.output and not (tmp_path / "study-small").exists()
    (tmp_path / "wrong.pkc").write_text((tmp_path / "small.pkc").read_text().replace("net.py", "nix.py"))
    wrong = CliRunner().invoke(main, ["study", "wrong.pkc", "--dry-run"], standalone_mode=False)
    assert isinstance(wrong.exception, PkcError) and "nix.py" in str(wrong.exception), "what the run would refuse"
    (tmp_path / "broken").touch()
    done, _ = run(tmp_path, study)
    with pytest.raises(PkcError) as error:
        CliRunner().invoke(main, ["study", "small.pkc", "-o", "out", "--plot"], standalone_mode=False, catch_exceptions=False)
    assert [d.code for d in error.value.diagnostics] == ["PKC478"]
    assert "--retry-failed" in error.value.diagnostics[0].notes[-1]
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix in (".png", ".svg")}
    assert sorted(drawn) == [f"{name}.{form}" for name in ("accuracy", "measures", "sparsity") for form in ("png", "svg")]
    again = write_study_plots(tmp_path / "again", done.rows, metric_of(done.rows) or "", measures_of(done.rows))
    assert {path.name: path.read_bytes() for path in again} == drawn
    (mean,) = points([row for row in done.rows if row["method"] == "synflow"], "train: accuracy")
    assert mean.x == 2 and mean.lost, "one seed failed, and at 40x all collapsed"


def test_many_methods_are_told_apart_panel_by_panel() -> None:
    rows = [
        {"model": "net", "method": f"m{i}", "compression": 2.0**k, "acc": i / k, "weights": 64, "kept": 64 / 2**k, "on_paths": 8}
        for i in range(20)
        for k in (1, 2, 3)
    ]
    panels = [axis for axis in accuracy(rows, "acc").axes if axis.get_visible()]
    named = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in panels]
    assert named == [[f"m{i}" for i in part] for part in (range(8), range(8, 16), range(16, 20))]
    assert all(len(axis.lines) >= 20 for axis in panels), "the others stand behind"
    lost = [dict(row, acc=None if row["method"] == "m1" and i < len(rows) else 0.5) for i, row in enumerate([*rows, *rows])]
    marks = [line for line in panels_of(lost, ["acc"]).axes[0].lines if line.get_linestyle() == "None" and line.get_xdata().size]
    assert len(marks) == 1, "hollow points stay where bands would be too many"
    looks = {(line.get_color(), line.get_marker()) for line in sparsity(rows).axes[0].lines if line.get_label().startswith("m")}
    assert len(looks) == 20
