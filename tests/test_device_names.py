"""Where a name of a device is given: ``pkc prune --device``, ``pkc study --device``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pkcompiler
from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.open import captured_on, find_device, open_model
from pkcompiler.driver.prune import job, prune_to
from pkcompiler.driver.study.examine import examine
from pkcompiler.driver.study.grid import cells_of
from pkcompiler.lang.library import find_study
from pkcompiler.lang.plan import plan_of
from pkcompiler.paths.sources import device_of
from tests.device import DEVICE, elsewhere
from tests.driver.study.study_files import STUDY, files
from tests.same_bits import same

MODEL = """
import torch
from torch import nn


def model():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def example_inputs():
    return torch.ones(1, 4)
"""


def test_a_job_runs_on_its_device(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)

    def masks(device: str) -> Any:
        opened = open_model(str(tmp_path / "net.py"))
        task = job(opened, plan_of("synflow", target=("density", 0.3)), device=device)
        assert next(opened.module.parameters()).device == torch.device(device)
        artifact = pkcompiler.load(prune_to(task, tmp_path / device, progress=False).folder)
        return [artifact.masks, artifact.weights, artifact.report]

    here = masks("cpu")
    with elsewhere():
        assert same(here, masks("meta"))


def test_a_dense_network_of_a_study_is_captured_on_its_device(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    opened = open_model(str(tmp_path / "net.py"))
    with elsewhere():
        captured = captured_on(opened, DEVICE, torch.float64)
        assert device_of(captured.graph, captured.tensors) == DEVICE


def test_an_example_on_another_device_than_the_model_is_said() -> None:
    with elsewhere(), pytest.raises(PkcError) as error:
        pkcompiler.lift(torch.nn.Linear(4, 2).to(DEVICE), torch.ones(1, 4))
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "PKC203"
    assert "an input lies on cpu, the model on meta: give x.to('meta')" in diagnostic.notes


NOT_THERE = ("cuda:77", "meta", "hpu", "privateuseone", "xla", "opencl", "nothing", "")


@pytest.mark.parametrize("name", NOT_THERE)
def test_a_device_that_holds_no_numbers_is_an_error(name: str) -> None:
    with pytest.raises(PkcError) as error:
        find_device(name)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "PKC411"
    assert f"'{name}'" in diagnostic.message


def test_a_study_finds_its_device_missing_before_any_cell(tmp_path: Path) -> None:
    files(tmp_path)
    found = examine(cells_of(find_study(STUDY), tmp_path, "cuda:77"))
    assert [d.code for d in found] == ["PKC411"]
