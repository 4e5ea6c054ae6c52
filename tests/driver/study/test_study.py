"""Studies: which cells there are, that each is done once, what becomes of failures and collapse, and that the tables agree."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.study import Studied, run_study
from pkcompiler.driver.study import run as running
from pkcompiler.driver.study.code_files import source_hashes
from pkcompiler.driver.study.grid import cells_of
from pkcompiler.driver.study.results_table import metric_of, summary
from pkcompiler.lang.library import find_analysis, find_schedule, find_study
from tests.driver.study.study_files import CELLS, MODEL, STUDY, Here, files, run


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Cells that run in this process set the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that is done."""
    folder = tmp_path_factory.mktemp("whole")
    done, calls = run(folder, files(folder))
    assert calls == done.ran == len(done.rows) == CELLS and done.failures == []
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Studied:
    """The study that is done, in a folder of this test; asking for it does nothing."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    found, calls = run(tmp_path, files(tmp_path))
    assert calls == 0
    return found


def cells(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out" / "cells").iterdir()}


def codes(error: pytest.ExceptionInfo[PkcError]) -> list[str]:
    return [d.code for d in error.value.diagnostics]


def test_a_study_has_each_pass_at_each_target_and_the_dense_network_once_for_a_seed(tmp_path: Path) -> None:
    study = files(tmp_path)
    found = cells_of(study, tmp_path)
    assert len(found) == CELLS and len({c.key for c in found}) == CELLS
    assert [(c.method, c.compression, c.seed) for c in found[:5]] == [
        ("dense", 1.0, 0),
        ("synflow", 2.0, 0),
        ("synflow", 40.0, 0),
        ("magnitude", 2.0, 0),
        ("magnitude", 40.0, 0),
    ]
    assert all(c.plan is None or c.plan.stages[0].rounds == 3 for c in found)


@pytest.mark.parametrize(
    ("words", "expected"), [("density = 100%, 10%", [1.0, 10.0]), ("sparsity = 98%, 0.5", [50.0, 2.0]), ("compression = 3x", [3.0])]
)
def test_targets_are_densities_sparsities_or_compressions(tmp_path: Path, words: str, expected: list[float]) -> None:
    study = files(tmp_path, STUDY.replace("compression = 1, 2, 40", words).replace("synflow, magnitude", "random"))
    assert [c.compression for c in cells_of(study, tmp_path) if c.seed == 0] == expected


def test_what_determines_a_cell_is_in_its_key_and_nothing_else(tmp_path: Path) -> None:
    before = {(c.method, c.compression, c.seed): c.key for c in cells_of(files(tmp_path), tmp_path)}

    def changed(study: str = STUDY) -> set[str]:
        found = cells_of(find_study(study, folder=tmp_path), tmp_path)
        return {c.method for c in found if before.get((c.method, c.compression, c.seed)) != c.key}

    assert changed() == set()
    other = STUDY.replace("study small {", 'study other {\n  doc = "else"').replace("train ", "data = digits train ")
    assert changed(other.replace("synflow, magnitude", "magnitude, snip, synflow")) == {"snip"}
    assert changed(STUDY.replace("rounds      = 3", "rounds = 4")) == {"synflow", "magnitude"}
    assert changed(STUDY.replace("seeds       = 0..1", "seeds = 1, 0")) == set()
    assert changed(STUDY.replace('"top"', '"first"')) == {"dense", "synflow", "magnitude"}
    for name in ("net.py", "fit.py", "helper.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\n# changed\n")
        assert changed() == {"dense", "synflow", "magnitude"}, name
        (tmp_path / name).write_text(text)
    assert changed() == set()


def test_sources_are_the_files_that_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os, torch\nfrom b import c\ndef f():\n    from pack import inner\n")
    (tmp_path / "b.py").write_text("import a\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "inner.py").write_text("def broken(:\n")
    (tmp_path / "other.py").write_text("")
    assert list(source_hashes(str(tmp_path / "a.py"))) == ["a.py", "b.py", "pack/__init__.py", "pack/inner.py"]
    assert source_hashes(str(tmp_path / "nothing.py")) == {}


def test_cells_are_done_once_and_the_tables_agree(whole: Path, done: Studied, tmp_path: Path) -> None:
    assert cells(tmp_path) == cells(whole)
    for name in ("results.csv", "results.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        plain = list(csv.DictReader(stream))
    typed = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert typed == done.rows
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in typed] == plain
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".unfinished")]


def test_what_a_row_says(done: Studied) -> None:
    dense, pruned, gone = done.rows[0], done.rows[1], done.rows[2]
    assert (dense["method"], dense["weights"], dense["kept"], dense["sparsity"]) == ("dense", 42, 42, 0.0)
    assert (pruned["method"], pruned["kept"], pruned["status"]) == ("synflow", 21, "done")
    assert isinstance(pruned["on_paths"], int) and 0 < pruned["on_paths"] <= 21
    assert 0 <= float(pruned["train: accuracy"] or -1) <= 1 and pruned["train: nothing"] is None
    assert float(dense["kernel: Tr Pi"] or 0) > float(pruned["kernel: Tr Pi"] or 0) > 0
    assert list(dense)[-2:] == ["kernel: top [1]", "kernel: top [2]"]
    assert (gone["status"], gone["kept"], gone["train: accuracy"]) == ("collapsed", None, None)
    record = next(r for r in done.state.records if r is not None and r["status"] == "collapsed")
    assert "layer collapse" in record["message"] and "results" not in record
    header, lines = summary(done.rows, metric_of(done.rows) or "")
    assert header == ["model", "method", "1x", "2x", "40x"]
    assert [line[4] for line in lines] == ["", "2 collapsed", "2 collapsed"]


def test_the_seed_before_training_is_the_same_for_every_method(done: Studied) -> None:
    drawn = {(row["seed"], row["train: noise"]) for row in done.rows if row["status"] == "done"}
    assert len(drawn) == 2


def test_failed_cells_are_kept_with_their_error_and_redone_on_demand(tmp_path: Path) -> None:
    study = files(tmp_path, STUDY.replace("1, 2, 40", "1, 2").replace("synflow, magnitude", "magnitude"))
    (tmp_path / "broken").touch()
    done, _ = run(tmp_path, study)
    assert [(r["method"], r["seed"]) for r in done.failures] == [("dense", 1), ("magnitude", 1)]
    first = done.failures[0]
    assert first["code"] == "PKC243" and "ValueError: no batch today" in first["message"]
    assert 'raise ValueError("no batch today")' in first["traceback"]
    assert [row["status"] for row in done.rows].count("failed") == 2
    (tmp_path / "broken").unlink()
    unchanged, calls = run(tmp_path, study)
    assert calls == 0 and len(unchanged.failures) == 2
    mended, calls = run(tmp_path, study, retry_failed=True)
    assert calls == 2 and mended.failures == []


def test_code_that_changes_while_it_runs_makes_no_result(tmp_path: Path) -> None:
    study = files(tmp_path, STUDY.replace("1, 2, 40", "1").replace("0..1", "0"))
    text = (tmp_path / "fit.py").read_text()
    note = "    Path(__file__).with_name('helper.py').write_text('STEPS = 6')\n"
    (tmp_path / "fit.py").write_text(text.replace("    accuracy =", note + "    accuracy ="))
    done, _ = run(tmp_path, study)
    assert [(r["code"], r["message"]) for r in done.failures] == [("PKC482", "'helper.py' changed while the study ran")]


def test_damaged_and_half_written_files_are_done_again(done: Studied, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "cells"
    first, second, third, fourth, *_ = sorted(folder.iterdir())
    first.write_text(first.read_text()[:100])
    second.write_text(json.dumps({"key": "of another cell", "status": "done"}))
    third.rename(third.with_name(f".{third.name}.{'0' * 16}.unfinished"))
    fourth.write_text(fourth.read_text().replace('"seed": ', '"seed": 1'))
    again, calls = run(tmp_path, files(tmp_path))
    assert calls == 4 and again.rows == done.rows
    assert len(cells(tmp_path)) == CELLS


def test_a_table_holds_what_there_is_of_an_interrupted_study(done: Studied, tmp_path: Path) -> None:
    left = sorted((tmp_path / "out" / "cells").iterdir())[:2]
    for path in left:
        path.unlink()

    class First(Here):
        """Ends after a cell."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.calls:
                raise KeyboardInterrupt
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run_study(files(tmp_path), tmp_path / "out", folder=tmp_path, threads=1, executor=First())
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == CELLS - 1
    again, calls = run(tmp_path, files(tmp_path))
    assert calls == 1 and again.rows == done.rows


def test_schedules_are_methods_with_targets_of_their_own(tmp_path: Path) -> None:
    text = STUDY.replace("passes      = synflow, magnitude", "schedules = two").replace("compression = 1, 2, 40", "")
    text = (
        text.replace("  rounds      = 3\n", "")
        + "schedule two { prune synflow { density = 50% } prune magnitude { density = 30% } }"
    )
    done, calls = run(tmp_path, files(tmp_path, text))
    assert calls == 2 and [(r["method"], r["compression"], r["kept"]) for r in done.rows] == [("two", None, 13)] * 2
    own = "schedule late { prune magnitude { density = 50%\n at = epochs(1..3)\n regrow = abs(theta)\n swap = 10% } }"
    with pytest.raises(PkcError) as error:
        cells_of(files(tmp_path, text.replace("schedules = two", "schedules = two, late") + own), tmp_path)
    assert codes(error) == ["PKC480"]


def test_a_study_may_lie_beside_what_it_names(tmp_path: Path) -> None:
    files(tmp_path)
    path = str(tmp_path / "small.pkc")
    assert find_analysis(path).name == "kernel"
    schedule = "schedule s { prune synflow { density = 2% } }"
    names = 'model = "net.py" train = "fit.py:train" schedules = "./more.pkc" analyses = "small.pkc:kernel"'
    (tmp_path / "more.pkc").write_text(f"{schedule}\nstudy t {{ {names} seeds = 3 }}")
    assert find_schedule(str(tmp_path / "more.pkc")).name == "s"
    study = find_study(str(tmp_path / "more.pkc"))
    assert [a.name for _, a in study.analyses] == ["kernel"] and study.seeds == (3,)
    with pytest.raises(PkcError) as error:
        find_study(str(tmp_path / "small.pkc:nothing"))
    assert codes(error) == ["PKC117"]


def test_everything_wrong_with_the_code_is_said_before_any_work(tmp_path: Path) -> None:
    study = files(tmp_path, STUDY.replace('"net.py"', '"net.py", "nothing.py"'))
    (tmp_path / "fit.py").write_text("def train(network):\n    return {}\n")
    with pytest.raises(PkcError) as error:
        run(tmp_path, study)
    assert sorted(codes(error)) == ["PKC242", "PKC477"]
    assert cells(tmp_path) == {}


@pytest.mark.parametrize("returned", ["3.5", "{}", "{'accuracy': 'high'}", "{1: 2.0}"])
def test_train_must_return_numbers(tmp_path: Path, returned: str) -> None:
    study = files(tmp_path, STUDY.replace("1, 2, 40", "1").replace("0..1", "0"))
    (tmp_path / "fit.py").write_text(f"def train(model, seed, device, epochs=3):\n    return {returned}\n")
    done, _ = run(tmp_path, study)
    assert [(r["code"], r["seed"]) for r in done.failures] == [("PKC477", 0)]


def test_what_is_missing_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with pytest.raises(PkcError, match=r"joblib and pyarrow.*\n.*pkcompiler\[study\]") as error:
        run_study(files(tmp_path), tmp_path / "out", folder=tmp_path)
    assert codes(error) == ["PKC476"] and not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(PkcError) as error:
        run(tmp_path, files(tmp_path))
    assert codes(error) == ["PKC481"] and [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert MODEL in (tmp_path / "net.py").read_text()
