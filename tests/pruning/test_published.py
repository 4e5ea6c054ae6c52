"""Figures that others published, and networks on which their code stops (Tanaka et al. 2020, arXiv:2006.05467)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pkcompiler import PkcError, prune
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.lang.plan import plan_of
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.score import evaluate, workspace

X = torch.zeros(1, 3, 32, 32)

DENSITIES = {
    10: (0.997, 0.897, 0.805, 0.644, 0.435, 0.248, 0.235, 0.122, 0.060, 0.060, 0.056, 0.054, 0.060, 0.857),
    100: (0.940, 0.302, 0.153, 0.079, 0.039, 0.020, 0.019, 0.010, 0.005, 0.005, 0.005, 0.004, 0.005, 0.201),
}
"""SynFlow, VGG-16-BN for CIFAR-100, 100 rounds: kept fraction per layer from the input to the output (public results, 2020-05)."""

KEPT = {10: 1_476_167, 100: 147_617}


@pytest.fixture(scope="module")
def vgg():
    from examples_path import load_example

    torch.manual_seed(1)
    return load_example("vgg16_bn").model(num_classes=100)


@pytest.mark.parametrize("compression", [10, 100])
def test_published_layer_densities(vgg, compression):
    pruned = prune(vgg, X, "synflow", density=1 / compression, select="kth-le", dtype=torch.float32)
    assert pruned.total == 14_761_664
    assert pruned.kept == KEPT[compression]
    got = [float(m.float().mean()) for m in pruned.masks.values()]
    np.testing.assert_allclose(got, DENSITIES[compression], atol=0.01)


def test_synflow_never_empties_a_layer_and_magnitude_does(vgg):
    captured = capture(vgg, X, dtype=torch.float32)
    deep = Run(captured, plan_of("synflow", target=("compression", 1e5)), torch.float32).finish()
    assert all(bool(m.any()) for m in deep.masks.values())
    assert deep.kept == round(1e-5 * 14_761_664)
    with pytest.raises(PkcError, match="layer collapse") as caught:
        Run(captured, plan_of("magnitude", target=("compression", 1e3)), torch.float32).finish()
    assert caught.value.diagnostics[0].code == "PKC410"


class Residual(nn.Module):
    """A pre-activation block without normalisation: its path mass doubles per block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def residual_1202() -> nn.Module:
    """1,202 layers: a stem, 600 blocks of two convolutions, a head."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), *(Residual(4) for _ in range(600)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


def mlp_1000() -> nn.Module:
    layers = [m for _ in range(999) for m in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight)
    return model


def resnet50() -> nn.Module:
    from models.zoo import MODELS

    return MODELS["resnet50"]()[0]


def ranks(values: Tensor) -> np.ndarray:
    _, inverse, counts = np.unique(values.numpy(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


@pytest.mark.parametrize(
    ("build", "shape"),
    [(residual_1202, (1, 3, 8, 8)), (mlp_1000, (1, 32)), (resnet50, (1, 3, 224, 224))],
    ids=["residual-1202", "mlp-1000", "resnet50-224"],
)
def test_float32_ranks_like_float64_where_the_published_code_overflows(build, shape):
    torch.manual_seed(0)
    model = build().eval()
    x = torch.zeros(shape)
    captured = capture(model, x)
    synflow = find_pass("synflow")
    single, double = (evaluate(synflow, workspace(captured, synflow, {}, t), 0) for t in (torch.float32, torch.float64))
    names = [s.name for s in captured.graph.prunable]
    low, high = (torch.cat([s[n].flatten() for n in names]).double() for s in (single, double))
    assert bool(torch.isfinite(low).all())
    assert double.exponent > 128, "the plain sum would fit into float32: the test shows nothing"
    low, high = (part[:: 1 + len(part) // 2_000_000] for part in (low, high))
    both = (low != 0) & (high != 0)
    assert int(both.sum()) > 0.99 * int((high != 0).sum())
    assert np.corrcoef(ranks(low[both]), ranks(high[both]))[0, 1] > 0.999999
