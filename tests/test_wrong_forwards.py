"""Models of which no weight decides: without parameters, of no width, with factors that are no numbers, called with no tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from tests.frontend.test_wrong_models import WAYS, Net, X, refusal, told

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def test_a_model_without_parameters_has_a_report() -> None:
    found = pkcompiler.analyze(nn.Sequential(nn.ReLU()), X)
    assert found.rows == () and found.totals["paths"].value == 6


@pytest.mark.parametrize("pass_", ["synflow", "magnitude", "random"])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_no_density_helps_where_a_side_is_0(pass_: str, density: float) -> None:
    model = nn.Sequential(nn.Linear(0, 8), nn.ReLU(), nn.Linear(8, 3))
    error = refusal(lambda: pkcompiler.prune(model, X[:, :0], pass_, density=density))
    assert error.diagnostics[0].code == "PKC402" and "'0.weight' (8, 0) holds no entry" in str(error)
    assert "density" not in str(error)


class Aside(Net):
    """A layer of no width beside one that works."""

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) + self.none(x).sum(-1, keepdim=True)


def test_a_side_of_0_beside_paths_is_no_fault() -> None:
    assert pkcompiler.prune(Aside(none=nn.Linear(6, 0)), X, "magnitude", density=0.5).kept == 9


class Factor(Net):
    """A buffer multiplies behind a gate."""

    def __init__(self, value: float, view: bool = False) -> None:
        super().__init__()
        self.register_buffer("k", torch.tensor([[value]]) if view else torch.tensor(value))
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x).relu() * (self.k.reshape(()) if self.view else self.k)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_factor_that_is_no_number_is_named(way: str, value: float) -> None:
    told(lambda: WAYS[way](Factor(value), X), "PKC405", "buffer 'k' holds NaN or infinite values")
    told(lambda: pkcompiler.lift(Factor(value, view=True), X), "PKC405", "buffer 'k' holds NaN or infinite values")


class Moves(Net):
    """forward sets torch's default device."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_device("meta")
        return self.f(x) * torch.ones(3)


@pytest.mark.parametrize("way", WAYS)
def test_a_forward_that_sets_the_default_device_is_refused(way: str) -> None:
    told(lambda: WAYS[way](Moves(), X), "PKC248", "forward sets torch's default device to meta")
    assert torch.get_default_device().type == "cpu"


def test_one_sample_for_statistics_of_the_batch() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    for samples, code in ((X[:1], "PKC203"), (X, "PKC201")):
        error = refusal(lambda samples=samples: pkcompiler.lift(model, samples)).diagnostics[0]
        assert error.code == code and "track_running_stats=True" in error.notes[-1] and "torch.randn" not in str(error)
    model[1] = nn.BatchNorm1d(4)
    assert pkcompiler.lift(model, X[:1]).ops


@pytest.mark.parametrize("way", WAYS)
def test_numbers_in_place_of_tensors_are_said_to_be_numbers(way: str) -> None:
    error = refusal(lambda: WAYS[way](Net(), [[1.0] * 6])).diagnostics[0]
    assert "shape" not in error.message and ("a list" in error.message)
