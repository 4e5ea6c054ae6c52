"""PX on whole networks at initialisation: float32 ranks as float64 does; a thousandfold compression leaves what it is told to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from examples_path import load_example
from scipy.stats import spearmanr
from torch import Tensor, nn

from pkcompiler import prune, score


def network(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model: Callable[[], nn.Module] = load_example(name).model
    return model().eval(), (torch.randn(4, 3, 32, 32), torch.arange(4))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn"])
def test_float32_ranks_as_float64_does(name: str) -> None:
    model, data = network(name)
    found = []
    for dtype in (torch.float32, torch.float64):
        scores = score(model, data[0][:1], "px", data=data, dtype=dtype)
        found.append(np.concatenate([t.double().numpy().ravel() for t in scores.values()]))
    assert spearmanr(*found).statistic > 0.99999


@pytest.mark.filterwarnings("ignore:.*position alone chose it:UserWarning")
def test_a_thousandfold_compression_keeps_every_layer_that_has_a_floor() -> None:
    """By its definition PX leaves few layers of ResNet-20 (squared mass prefers the shortcuts), in either precision the same."""
    model, data = network("resnet20")
    text = "schedule s {{ prune px {{ compression = 1000x  rounds = {}  {} }} }}"
    kept = {}
    for dtype in (torch.float32, torch.float64):
        masks = prune(model, data[0][:1], schedule=text.format(100, ""), data=data, dtype=dtype).masks
        kept[dtype] = {n for n, m in masks.items() if m.any()}
    assert kept[torch.float32] == kept[torch.float64] and 3 <= len(kept[torch.float64]) < 10
    floored = prune(model, data[0][:1], schedule=text.format(100, 'floor "*" = 0.05%'), data=data, dtype=torch.float32)
    assert all(bool(m.any()) for m in floored.masks.values()) and floored.kept == round(floored.total / 1000)
