"""Rescaling of architectures: coupled units, what is left alone and named, precision, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from examples_path import load_example
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.rescaling import LeftAlone, Rescaled, rescale
from pkcompiler.rescaling.preserved import Deviations, require_preserved

METHODS = ("conditioning", "equi-norm")


def rough(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics as if trained, gains and biases away from 1 and 0, so that nothing cancels by chance; float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.data = noise.abs() + 0.3 if name.endswith("running_var") else tensor.data + 0.3 * noise
    return model.double().eval()


class Mixed(nn.Module):
    """BatchNorm, residual, depthwise, max- and average-pool, cat, PReLU, leaky ReLU, abs, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.point = nn.Conv2d(6, 6, 1)
        self.slope = nn.PReLU(6)
        self.side = nn.Conv2d(6, 4, 1)
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2, groups=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = x + self.point(F.leaky_relu(self.bn1(self.deep(x)), 0.2))
        x = F.max_pool2d(self.slope(x), 2)
        x = torch.cat([x, self.side(x).abs()], 1)
        x = F.relu(self.up(F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


class Watched(nn.Module):
    """Hidden units divided by their own norm: a recorded factor is computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = self.b(x / x.norm(dim=1, keepdim=True)).relu()
        return self.c(x)


class Recurrent(nn.Module):
    """One ReLU cell, three steps: its units are one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.step, self.leave = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enter(x[:, 0]))
        for t in (1, 2):
            h = F.relu(self.enter(x[:, t]) + self.step(h))
        return self.leave(h)


class Inverted(nn.Module):
    """An inverted residual of MobileNetV2: ReLU6 inside, a linear bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.bn1 = nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.deep, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.project, self.bn3 = nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x))
        y = F.relu6(self.bn2(self.deep(F.relu6(self.bn1(self.expand(x))))))
        return self.head((x + self.bn3(self.project(y))).mean((2, 3)))


def preserved(model: nn.Module, found: Rescaled, x: Tensor) -> float:
    """The relative deviation of the copy's output at other inputs than those that the command checks."""
    with torch.no_grad():
        old, new = model(x), found.model(x)
    return float((old - new).abs().max() / old.abs().max())


def why(found: Rescaled, name: str) -> str:
    """Why the units that a value brings in are left alone."""
    return "; ".join(item.reason for item in found.left_alone if item.name == name)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_everything_homogeneous(method: str) -> None:
    model = rough(Mixed())
    found = rescale(model, torch.zeros(1, 2, 8, 8, dtype=torch.float64), method=method)
    assert preserved(model, found, torch.randn(5, 2, 8, 8, dtype=torch.float64)) <= 1e-12
    assert found.converged and found.objective[1] < found.objective[0]
    assert set(found.scales) == {"bn0", "bn1", "point", "side", "up"}
    assert torch.equal(found.scales["bn0"], found.scales["point"])  # coupled by the residual
    assert "BatchNorm" in why(found, "stem") and "BatchNorm" in why(found, "deep")
    assert why(found, "head") == "the output of the network"


def test_training_mode_is_preserved_too() -> None:
    """Running statistics stay, and what enters a BatchNorm keeps its scale: the function of a training step is the same."""
    model = rough(Mixed())
    found = rescale(model, torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    model.train()
    found.model.train()
    assert preserved(model, found, torch.randn(5, 2, 8, 8, dtype=torch.float64)) <= 1e-12
    for (name, old), new in zip(model.named_buffers(), found.model.buffers(), strict=True):
        assert torch.allclose(old, new, rtol=1e-12), name


@pytest.mark.parametrize("method", METHODS)
def test_resnet20(method: str) -> None:
    example = load_example("resnet20")
    torch.manual_seed(0)
    model = rough(example.model())
    found = rescale(model, example.example_inputs(), method=method)
    assert preserved(model, found, torch.randn(2, 3, 32, 32, dtype=torch.float64)) <= 1e-11
    assert found.units == 3 * 16 + 3 * 32 + 3 * 64 + 16 + 32 + 64
    assert torch.equal(found.scales["bn1"], found.scales["layer1.2.bn2"])
    assert torch.equal(found.scales["layer2.0.shortcut.1"], found.scales["layer2.2.bn2"])
    assert found.converged and found.objective[1] < found.objective[0]


def test_relu6_pins_and_is_named() -> None:
    model = rough(Inverted())
    found = rescale(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    assert preserved(model, found, torch.randn(5, 3, 6, 6, dtype=torch.float64)) <= 1e-12
    assert set(found.scales) == {"bn", "bn3"}
    assert why(found, "bn1") == "relu6 is not homogeneous (%relu6)" and "relu6" in why(found, "bn2")


def test_a_vision_transformer_is_left_alone_but_for_what_follows_its_norms() -> None:
    example = load_example("vit_tiny")
    torch.manual_seed(0)
    model = rough(example.model(width=16, depth=2, heads=2))
    found = rescale(model, example.example_inputs())
    assert preserved(model, found, torch.randn(2, 3, 32, 32, dtype=torch.float64)) <= 1e-11
    assert {name.rpartition(".")[2] for name in found.scales} == {"norm", "norm1", "norm2", "qkv"}
    reasons = " ".join(item.reason for item in found.left_alone)
    for word in ("normalised", "gelu is not homogeneous", "softmax is not homogeneous", "multiplies another value", "output"):
        assert word in reasons
    assert {"patches", "positions", "token", "blocks.0.mlp.0", "head"} <= {item.name for item in found.left_alone}
    assert found.status == "approximate"


def test_what_a_recorded_factor_reads_stays() -> None:
    model = rough(Watched())
    found = rescale(model, torch.randn(1, 3, dtype=torch.float64))
    assert set(found.scales) == {"b"}
    assert "recorded factor" in why(found, "a")
    assert preserved(model, found, torch.randn(5, 3, dtype=torch.float64)) <= 1e-12


def test_a_recurrent_unit_is_one_over_time() -> None:
    model = rough(Recurrent())
    found = rescale(model, torch.randn(1, 3, 3, dtype=torch.float64))
    assert found.units == 4 and found.checked <= 1e-12
    assert preserved(model, found, torch.randn(5, 3, 3, dtype=torch.float64)) <= 1e-12


class Cell(nn.Module):
    """The last state of a recurrent network of torch's own, which starts at constant zeros."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "count"), [("RNN", 8), ("GRU", 0)])
def test_constant_zeros_take_any_scale_but_hold_none(kind: str, count: int) -> None:
    """A ReLU network's units are free over time, zeros at the start or not; in a GRU the zeros are no excuse for what is added."""
    options = {"nonlinearity": "relu"} if kind == "RNN" else {}
    torch.manual_seed(0)
    model = rough(Cell(getattr(nn, kind)(3, 4, 2, batch_first=True, **options)))
    found = rescale(model, torch.randn(1, 3, 3, dtype=torch.float64))
    assert found.units == count
    assert preserved(model, found, torch.randn(5, 3, 3, dtype=torch.float64)) <= 1e-12


def test_a_batchnorm_without_gain_holds_what_enters_it_and_lets_nothing_pass() -> None:
    """Also where its running mean is still 0: in training mode any other scale would be lost."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU())
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(16, 2)).double().eval()
    found = rescale(model, torch.randn(1, 1, 6, 6, dtype=torch.float64))
    assert set(found.scales) == {"3"} and why(found, "0") == "a shift by a constant 0 holds it"


def test_nothing_to_rescale_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    found = rescale(model, torch.randn(1, 3))
    assert (found.units, found.scales, found.converged) == (0, {}, True)
    assert found.left_alone == (LeftAlone("0", 4, "tanh is not homogeneous (%1)"), LeftAlone("2", 2, "the output of the network"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.state_dict.items())


def test_float32_is_rounded_once_and_powers_of_two_not_at_all() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[3] *= 64
    x = torch.randn(7, 6)
    found = rescale(model, torch.randn(1, 6))
    assert found.model[0].weight.dtype == torch.float32
    assert found.checked <= 1e-12 and 1e-9 < found.stored <= 1e-5
    exact = rescale(model, torch.randn(1, 6), powers_of_two=True)
    assert exact.stored == 0 and torch.equal(model(x), exact.model(x))
    assert exact.objective[1] < exact.objective[0]


def test_tied_parameters_stay_tied() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    model[2].weight = model[0].weight
    found = rescale(model, torch.randn(1, 3, dtype=torch.float64))
    assert found.model[2].weight is found.model[0].weight
    assert preserved(model, found, torch.randn(5, 3, dtype=torch.float64)) <= 1e-12


def test_the_same_bits_again() -> None:
    model = rough(Mixed())
    first, second = (rescale(model, torch.zeros(1, 2, 8, 8, dtype=torch.float64)) for _ in range(2))
    assert all(torch.equal(tensor, second.state_dict[name]) for name, tensor in first.state_dict.items())
    assert first.to_json() == second.to_json()


# refused ---------------------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A second output beside the analysed one, which shows the hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x).relu()
        return self.b(h), h


def test_an_output_that_shows_hidden_units_is_refused() -> None:
    model = rough(Two())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PkcError, match=r"PKC541.*output 1 of the rescaled network differs"):
        rescale(model, torch.randn(1, 3, dtype=torch.float64))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_precision_that_cannot_hold_the_weights_is_refused() -> None:
    """Rounding of the stored weights is allowed as far as their precision explains it; an overflow (inf) never."""
    half, single = nn.Linear(3, 2).half(), nn.Linear(3, 2)
    require_preserved(Deviations(1e-16, 1e-4, 0), single)
    require_preserved(Deviations(1e-16, 0.5, 0), half)
    for deviation, model in ((1e-2, single), (math.inf, half), (1e-8, nn.Linear(3, 2).double())):
        with pytest.raises(PkcError, match=r"PKC541.*stored in the model's own precision"):
            require_preserved(Deviations(1e-16, deviation, 0), model)


@pytest.mark.parametrize(
    ("options", "weight", "code"),
    [
        ({"method": "conditoning"}, 1.0, "PKC540"),
        ({}, torch.nan, "PKC405"),
        ({"masks": {"9.weight": torch.ones(4, 3)}}, 1.0, "PKC401"),
        ({"masks": {"0.weight": torch.ones(4, 3) / 2}}, 1.0, "PKC401"),
    ],
)
def test_wrong_input(options: dict[str, object], weight: float, code: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data[0, 0] = weight
    with pytest.raises(PkcError, match=code):
        rescale(model, torch.randn(1, 3), **options)


def test_a_network_whose_paths_are_all_cut_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with pytest.raises(PkcError, match="PKC542"):
        rescale(model, torch.randn(1, 3), masks={n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()})
