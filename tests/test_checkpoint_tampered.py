"""What a run reads back of itself, changed under right hashes: it is refused by name, or done again; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.attack.checkpoints import CASES, train
from pkcompiler.artifact.resume import read_state, write_state
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.plan import plan_of
from pkcompiler.pruning.recipe import recipe_hash
from pkcompiler.pruning.rounds import Run
from pkcompiler.pruning.state import Round, misfit
from pkcompiler.training.tree import from_bytes, to_bytes
from tests.driver.study.study_files import STUDY, files, run

Change = Callable[[dict[str, Any]], object]


# training ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Left after five of six steps, with a round done and a state to go back to."""
    path = tmp_path_factory.mktemp("training") / "run"
    train(0, path, resume=False, leave=7)
    return path.read_bytes()


TREES: dict[str, tuple[Change, str]] = {
    "no epoch": (lambda t: t["position"].update(epoch=-(10**9)), "position is epoch -1000000000"),
    "a later epoch": (lambda t: t["position"].update(epoch=10), "of 3 epochs"),
    "a text": (lambda t: t["position"].update(step="1"), "step '1'"),
    "a name": (lambda t: t["masks"].update({"y" * 5000: torch.ones(2).bool()}), "boolean mask of a parameter's shape"),
    "a mask": (lambda t: t["masks"].update({"0.weight": torch.ones(2).bool()}), "boolean mask of a parameter's shape"),
    "the masks": (lambda t: t["masks"]["0.weight"].fill_(True), "round: it keeps"),
    "a shape": (lambda t: t["state"]["parameters"].update({"0.weight": torch.ones(2)}), r"0\.weight is torch\.float32 \[2\]"),
    "a type": (lambda t: t["state"]["buffers"].update({"1.running_var": torch.ones(6).double()}), "float64"),
    "a key": (lambda t: t["state"].pop("random"), "state lacks 'random'"),
    "one more": (lambda t: t.update(more=1), "it has 'more'"),
    "moments": (lambda t: t["state"]["optimizer"]["state"][0].update(exp_avg=torch.ones(1, 2)), "a step from its state ends in"),
    "steps": (lambda t: t["state"]["optimizer"]["state"][0].update(step=torch.tensor(-1.0)), "ZeroDivisionError"),
    "a rate": (lambda t: t["state"]["optimizer"]["param_groups"][0].update(lr=float("nan")), r"lr is nan, expected a number"),
    "a method": (lambda t: t["state"]["others"]["lr_scheduler"].update(step=1), "none of its states"),
    "a setting": (lambda t: t["state"]["others"]["lr_scheduler"].update(T_max=0), "T_max is 0, the run's is 3"),
    "generators": (lambda t: t["state"]["random"].update(generators=[]), "no state of the generators"),
    "numpy": (lambda t: t["state"]["random"]["numpy"].__setitem__(2, 10**9), "stands at 1000000000 of 624"),
    "visits": (lambda t: t["visits"][0].update(total=0), r"visits\[0\] keeps"),
    "another round": (lambda t: t["round"].update(round=2), "not the last of visits"),
    "the recipe": (lambda t: t["recipe"].update(epochs=torch.ones(2)), "it holds no recipe"),
    "a snapshot": (lambda t: t["snapshots"].append(1), r"snapshots\[1\] is 1"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_checkpoint_that_the_run_cannot_have_written_is_refused_by_name(name: str, written: bytes, tmp_path: Path) -> None:
    change, message = TREES[name]
    tree = from_bytes(written)
    change(tree)
    (tmp_path / "run").write_bytes(to_bytes(tree))
    with pytest.raises(PkcError, match=rf"PKC456.*{message}") as error:
        train(0, tmp_path / "run", resume=True)
    assert len(str(error.value)) < 1000


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # left after the last step of an epoch
@pytest.mark.parametrize("case", range(CASES))
def test_what_a_run_has_written_is_gone_on_with(case: int, tmp_path: Path) -> None:
    for leave in (1, 5, None):
        (tmp_path / "run").unlink(missing_ok=True)
        train(case, tmp_path / "run", resume=False, leave=leave)
        train(case, tmp_path / "run", resume=True)


# rounds --------------------------------------------------------------------------------------------------------------------


def a_run() -> Run:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    return Run(capture(net, torch.ones(1, 4)), plan_of("magnitude", target=("density", 0.5), rounds=3), torch.float64)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": 1},
        {"round": 4},
        {"rounds": 9},
        {"kept": 1},
        {"total": 10**30},
        {"density": float("nan")},
        {"start": -1.0},
        {"by_position": 10**6},
        {"masks": {"y" * 5000: torch.ones(2).bool()}},
        {"begun": {"0.weight": torch.ones(2, 2).bool()}},
    ],
    ids=str,
)
def test_a_state_of_no_round_of_the_run_is_not_gone_on_with(change: dict[str, Any]) -> None:
    run = a_run()
    for state in run.rounds():
        assert not misfit(state, run.aims, run.captured.tensors)
        assert misfit(replace(state, **change), run.aims, run.captured.tensors) or {"round": state.round} == change


@pytest.mark.parametrize("shape", ["4", "10000000000000", "-1x2", "9" * 5000])
def test_bits_that_are_no_mask_of_their_shape_are_none(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path / "state", Round(0, 1, 2, 0.5, 8, 16, {"w": torch.ones(16).bool()}), 1.0, "r")
    assert read_state(tmp_path / "state", "r") is not None
    sizes = type("Sizes", (), {"shape": shape.split("x"), "numpy": lambda self: torch.ones(16).bool().numpy()})()
    write_state(tmp_path / "state", Round(0, 1, 2, 0.5, 8, 16, {"w": sizes}), 1.0, "r")
    assert read_state(tmp_path / "state", "r") is None


# cells of studies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["results"].update(accuracy=10**400),
        lambda r: r["kept"].update(of=10**30),
        lambda r: r["kept"].update(of=-1),
        lambda r: r["analyses"]["kernel"]["top"].update(values=["x"]),
        lambda r: r["analyses"]["kernel"]["top"].pop("values"),
        lambda r: r["analyses"]["kernel"]["Tr Pi"].update(value={}),
    ],
)
def test_a_cell_that_makes_no_row_is_done_again(change: Change, tmp_path: Path) -> None:
    study = files(tmp_path, STUDY.replace("1, 2, 40", "2").replace("0..1", "0").replace("synflow, magnitude", "magnitude"))
    run(tmp_path, study)
    before = (tmp_path / "out" / "results.csv").read_bytes()
    (path,) = (tmp_path / "out" / "cells").glob("*magnitude*")
    record = json.loads(path.read_text())
    change(record)
    record.pop("sha256")
    path.write_text(json.dumps({**record, "sha256": recipe_hash(record)}))
    _, calls = run(tmp_path, study)
    assert calls == 1 and (tmp_path / "out" / "results.csv").read_bytes() == before
