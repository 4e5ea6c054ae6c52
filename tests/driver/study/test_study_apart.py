"""Studies: cells do not meet each other's modules, and what goes wrong with files and targets is said with what is kept."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.study import cell as cells_work
from pkcompiler.driver.study.results_table import summary
from pkcompiler.driver.study.store import TOKEN
from pkcompiler.files import locked
from pkcompiler.frontend.spec import load_model
from pkcompiler.lang.library import find_study
from pkcompiler.usermodules import fresh, importable
from tests.driver.study.study_files import STUDY, files, run

NET = """
import torch
from torch import nn
from layers import H

def model():
    return nn.Sequential(nn.Linear(4, H), nn.ReLU(), nn.Linear(H, 3))

def example_inputs():
    return torch.rand(1, 4)
"""
LAZY = NET.replace("from layers import H\n", "").replace("    return nn.Seq", "    from layers import H\n    return nn.Seq")
WIDTH = "def train(model, seed, device):\n    return {'width': model[0].out_features}\n"
ONE = STUDY.replace("1, 2, 40", "1").replace("0..1", "0")
TWO = ONE.replace('"net.py"', '"a/net.py", "b/net2.py"')


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def codes(error: pytest.ExceptionInfo[PkcError]) -> list[str]:
    return [d.code for d in error.value.diagnostics]


@pytest.mark.parametrize(("first", "second"), [(NET, NET), (LAZY, NET), (NET, LAZY), (LAZY, LAZY)])
def test_every_model_gets_the_helper_beside_it(tmp_path: Path, first: str, second: str) -> None:
    write(tmp_path, {"a/net.py": first, "b/net2.py": second, "a/layers.py": "H = 8\n", "b/layers.py": "H = 16\n", "fit.py": WIDTH})
    done, _ = run(tmp_path, find_study(TWO, folder=tmp_path))
    assert {r["model"]: r["train: width"] for r in done.rows} == {"net": 8, "net2": 16}
    assert "layers" not in sys.modules and not [path for path in sys.path if path.startswith(str(tmp_path))]


def test_in_one_piece_of_work_each_folder_keeps_its_own_helpers(tmp_path: Path) -> None:
    with_class = NET + "\nimport layers\nclass Same(layers.Base):\n    pass\n"
    helper = "H = {}\nTOLD = []\nclass Base:\n    pass\n"
    write(tmp_path, {"a/net.py": with_class, "a/layers.py": helper.format(8), "b/layers.py": helper.format(16)})
    write(tmp_path, {"b/net.py": LAZY, "a/late.py": "def told():\n    from layers import TOLD\n    return TOLD\n"})
    with fresh() as read:
        a, b = (load_model(str(tmp_path / name / "net.py")) for name in "ab")
        again = load_model(str(tmp_path / "a" / "net.py"))
        assert [m.module[0].out_features for m in (a, b, again)] == [8, 16, 8]
        assert again.python.layers is a.python.layers, "one folder, one helper"
        assert isinstance(pickle.loads(pickle.dumps(a.python.layers.Base())), a.python.layers.Base)
        late = usercode.import_spec(usercode.parse_spec(str(tmp_path / "a" / "late.py")))
        load_model(str(tmp_path / "b" / "net.py"))
        assert usercode.call(late.told, {}, None, tmp_path / "a", "told") is a.python.layers.TOLD
    assert {file.relative_to(tmp_path).as_posix() for file in read} == {
        "a/net.py",
        "a/layers.py",
        "a/late.py",
        "b/net.py",
        "b/layers.py",
    }
    assert a.module(torch.rand(1, 4)).shape == (1, 3), "what was made stays usable"


def test_a_helper_of_the_path_is_not_hidden_by_that_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a/deep/pair.py": "H = 1\n", "lib/deep/pair.py": "H = 2\n", "b/use.py": "from deep.pair import H\n"})
    write(tmp_path, {"a/use.py": "from deep.pair import H\n"})
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    with fresh():
        found = [usercode.import_spec(usercode.parse_spec(str(tmp_path / name / "use.py"))).H for name in "aba"]
    assert found == [1, 2, 1] and "deep" not in sys.modules


def test_modules_of_this_process_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"mine/helper_of_two.py": "H = 1\n", "its/helper_of_two.py": "H = 2\n"})
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    import helper_of_two as mine  # type: ignore[import-not-found]

    monkeypatch.setitem(sys.modules, "helper_of_two", mine)
    with fresh(), importable(tmp_path / "its"):
        import helper_of_two as its

        assert its.H == 2
    assert sys.modules["helper_of_two"] is mine


def test_nothing_survives_from_cell_to_cell(tmp_path: Path) -> None:
    study = files(tmp_path, ONE.replace("seeds       = 0", "seeds = 0..2"))
    write(tmp_path, {"helper.py": "CALLS = []\n"})
    lines = ["import os, sys, torch, helper", "def train(model, seed, device):", "    helper.CALLS.append(seed)"]
    lines += [
        "    found = {'calls': len(helper.CALLS), 'path': len(sys.path), 'bits': torch.finfo(torch.get_default_dtype()).bits}"
    ]
    lines += ["    found['here'] = os.path.exists('fit.py')", "    os.chdir(os.path.dirname(__file__))"]
    lines += ["    sys.path.append('/nowhere')", "    torch.set_default_dtype(torch.float64)", "    return found"]
    write(tmp_path, {"fit.py": "\n".join(lines)})
    here = Path.cwd()
    done, _ = run(tmp_path, study)
    assert {(r["train: calls"], r["train: bits"], r["train: here"]) for r in done.rows} == {(1.0, 32.0, 0.0)}
    assert len({r["train: path"] for r in done.rows}) == 1 and len(done.rows) == 3
    assert Path.cwd() == here and torch.get_default_dtype() == torch.float32


def test_train_knows_the_classes_of_the_model_beside_it(tmp_path: Path) -> None:
    study = files(tmp_path, ONE)
    own = "from torch import nn\nclass Own(nn.Linear):\n    pass\n"
    net = NET.replace("from layers import H", "from layers import Own\nH = 6").replace("nn.Linear(4", "Own(4")
    fit = "from layers import Own\ndef train(model, seed, device):\n    return {'own': isinstance(model[0], Own)}\n"
    write(tmp_path, {"net.py": net, "layers.py": own, "fit.py": fit})
    done, _ = run(tmp_path, study)
    assert [r["train: own"] for r in done.rows] == [1.0]


def test_files_that_only_running_shows_make_their_cells_anew(tmp_path: Path) -> None:
    study = files(tmp_path, ONE)
    write(tmp_path, {"hidden/steps.py": "STEPS = 3\n", "hidden/unused.py": ""})
    fit = "import importlib, sys\nfrom pathlib import Path\ndef train(model, seed, device):\n"
    fit += "    sys.path.append(str(Path(__file__).parent / 'hidden'))\n"
    fit += "    return {'steps': importlib.import_module('steps').STEPS}\n"
    write(tmp_path, {"fit.py": fit})
    first, calls = run(tmp_path, study)
    (record,) = [r for r in first.state.records if r is not None]
    assert calls == 1 and list(record["imported"]) == ["../../hidden/steps.py"]
    write(tmp_path, {"hidden/unused.py": "changed = True\n"})
    assert run(tmp_path, study)[1] == 0
    write(tmp_path, {"hidden/steps.py": "STEPS = 44\n"})
    second, calls = run(tmp_path, study)
    assert calls == 1 and [r["train: steps"] for r in second.rows] == [44.0]
    (tmp_path / "hidden" / "steps.py").unlink()
    assert run(tmp_path, study)[1] == 0, "what is gone cannot be compared"


def test_a_mean_says_how_many_are_not_finite() -> None:
    row = {"model": "net", "method": "snip", "status": "done", "compression": 2.0}
    rows = [{**row, "seed": seed, "acc": value} for seed, value in enumerate((0.9, None, None))]
    rows += [{**row, "method": "px", "acc": None}, {**row, "method": "px", "acc": None, "status": "failed"}]
    assert [line[2] for line in summary(rows, "acc")[1]] == ["0.9 (2 not finite)", "1 failed, 1 not finite"]


def test_what_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    study = files(tmp_path, ONE)
    run(tmp_path, study)
    half = tmp_path / "out" / "cells" / f".net-dense.json.{'0' * 16}.unfinished"
    half.write_text("{")
    with locked(tmp_path / "out" / "lock", ""), pytest.raises(PkcError) as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC623"] and half.exists()
    run(tmp_path, study)
    assert not half.exists()


def test_a_cell_that_cannot_be_written_is_an_error_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = files(tmp_path, ONE.replace("seeds       = 0", "seeds = 0..2"))
    wrote = cells_work.write_cell

    def full(folder: Path, file: str, record: dict[str, object]) -> None:
        if record["seed"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wrote(folder, file, record)

    monkeypatch.setattr(cells_work, "write_cell", full)
    with pytest.raises(PkcError, match=r"cannot write.*No space left on device") as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC620"] and len(list((tmp_path / "out" / "cells").iterdir())) == 1
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 2
    sent = pickle.loads(pickle.dumps(error.value))
    assert sent.diagnostics == error.value.diagnostics and str(sent) == str(error.value)
    monkeypatch.undo()
    assert run(tmp_path, study)[1] == 2


@pytest.mark.parametrize("name", ["cells", "results.csv"])
def test_a_folder_or_file_in_the_way_is_an_error(tmp_path: Path, name: str) -> None:
    study = files(tmp_path, ONE)
    (tmp_path / "out").mkdir()
    locked(tmp_path / "out" / "lock", TOKEN).close()
    (tmp_path / "out" / name).write_text("") if name == "cells" else (tmp_path / "out" / name).mkdir()
    with pytest.raises(PkcError) as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC620"]


@pytest.mark.parametrize("name", ["cells/biology.json", "cells/a/b", "lock", "lock/x", "results.csv"])
def test_a_folder_that_no_study_has_made_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    study = files(tmp_path, ONE)
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(PkcError) as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC481"] and mine.read_text() == "mine"
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [mine]


def test_targets_that_cannot_be_reached_are_said_before_the_first_cell(tmp_path: Path) -> None:
    text = STUDY.replace("1, 2, 40", "1, 2, 5").replace("  analyses", "  schedules = tight\n  analyses")
    text += 'schedule tight { prune magnitude { density = 10%\n except = "0.weight" } }'
    study = files(tmp_path, text.replace("  rounds      = 3\n", ""))
    with pytest.raises(PkcError, match=r"10%.*protect") as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC403"] and list((tmp_path / "out" / "cells").iterdir()) == []


def test_a_target_of_less_than_one_weight_is_said_before_the_first_cell(tmp_path: Path) -> None:
    study = files(tmp_path, STUDY.replace("1, 2, 40", "1, 42, 100"))
    with pytest.raises(PkcError, match=r"100x keeps 0.42 of 42 weights: less than one") as error:
        run(tmp_path, study)
    assert codes(error) == ["PKC423"] and list((tmp_path / "out" / "cells").iterdir()) == []


def test_a_model_that_cannot_be_lifted_is_said_before_the_first_cell(tmp_path: Path) -> None:
    study = files(tmp_path, ONE)
    write(tmp_path, {"net.py": (tmp_path / "net.py").read_text().replace("nn.ReLU()", "nn.Bilinear(4, 4, 4)")})
    with pytest.raises(PkcError):
        run(tmp_path, study)
    assert list((tmp_path / "out" / "cells").iterdir()) == []
