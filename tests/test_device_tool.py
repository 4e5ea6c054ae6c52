"""The device that is not there is one: what meets on a GPU meets on it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.device import DEVICE, Elsewhere, elsewhere
from tests.same_bits import same


def there(*numbers: float) -> Tensor:
    return torch.tensor(numbers).to(DEVICE)


MEET: dict[str, Callable[[], Any]] = {
    "a sum": lambda: there(1, 2) + torch.ones(2),
    "a number there and numbers here": lambda: torch.ones(2) * there(1, 2).sum(),
    "a matrix product": lambda: torch.ones(2, 2) @ there(1, 2),
    "a stack of numbers": lambda: torch.stack([there(1).sum(), torch.tensor(1.0)]),
    "places of another device": lambda: there(1, 2).index_select(0, torch.tensor([1])),
    "indices there": lambda: torch.ones(2)[there(1, 0).long()],
    "labels": lambda: F.cross_entropy(there(1.5, 2)[None], torch.tensor([1])),
    "a condition": lambda: torch.where(torch.ones(2) > 0, there(1, 2), 0.0),
    "a comparison": lambda: torch.equal(there(1), torch.ones(1)),
    "what is written here": lambda: torch.ones(()).add_(there(1).sum()),
    "a module's data": lambda: setattr(nn.Linear(2, 1).to(DEVICE).weight, "data", torch.ones(1, 2)),
    "an array": lambda: there(1).numpy(),
    "numbers drawn there": lambda: torch.randn(2, device=DEVICE),
    "dropout there": lambda: F.dropout(there(1, 2)),
}


@pytest.mark.parametrize("case", MEET)
def test_what_must_not_meet(case: str) -> None:
    with elsewhere(), pytest.raises(RuntimeError, match=r"one device|draws on the device|are set to some|not supported"):
        MEET[case]()


def in_default() -> Tensor:
    with torch.device(DEVICE):
        return torch.tensor([1.0]) + torch.ones(1) * 2


MAY_MEET: dict[str, tuple[Callable[[], Any], list[float]]] = {
    "a number here": (lambda: there(1, 2) * torch.tensor(2.0), [2, 4]),
    "indices here": (lambda: there(1, 2)[torch.tensor([1, 0])], [2, 1]),
    "a mask here": (lambda: there(1, 2)[torch.tensor([False, True])], [2]),
    "a copy to here": (lambda: torch.ones(2).copy_(there(1, 2)), [1, 2]),
    "a copy to there": (lambda: torch.ones(2).to(there(3)), [1, 1]),
    "a number filled in": (lambda: there(1, 2).masked_fill(there(1, 0) > 0, torch.tensor(5.0)), [5, 2]),
    "numbers of Python": (lambda: torch.tensor([1.0, 2.0], device=DEVICE) + there(1, 1).new_tensor([0.0, 1.0]), [1, 3]),
    "a default device": (in_default, [3]),
}


@pytest.mark.parametrize("case", MAY_MEET)
def test_what_may_meet(case: str) -> None:
    of, numbers = MAY_MEET[case]
    with elsewhere():
        assert of().tolist() == numbers


def test_a_module_moves_there_and_back_with_its_numbers() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with elsewhere():
        model.to(DEVICE)
        assert all(isinstance(p, nn.Parameter) and isinstance(p, Elsewhere) and p.device == DEVICE for p in model.parameters())
        model(torch.ones(2, 4).to(DEVICE)).sum().backward()
        assert all(p.grad is not None and p.grad.device == DEVICE for p in model.parameters())
        assert same(before, model.double().float().cpu().state_dict())
    assert all(type(p) is nn.Parameter for p in model.parameters())
