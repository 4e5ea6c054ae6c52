"""The models that run on a device that is not there, with their inputs, data and masks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.device import DEVICE


class Attention(nn.Module):
    """Tokens [batch, 3] through one causal layer of attention; a number that is no buffer stays on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.tensor(0.5)
        self.table, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 3)
        self.register_buffer("shift", torch.tensor([0.0, 0.5, 1.0, 1.5]))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) * self.temperature + self.shift
        q, k, v = (part.unsqueeze(1) for part in self.qkv(self.norm(x)).chunk(3, -1))
        return self.out((x + F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)).mean(1))


def mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def cnn() -> nn.Module:
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    with torch.no_grad():
        made[1].running_mean.normal_()
        made[1].running_var.uniform_(0.5, 2)
    return made


def attention() -> nn.Module:
    torch.manual_seed(1)
    return Attention()


def normed() -> nn.Module:
    """A weight that is computed from two parameters, read by a gate that no list names."""
    torch.manual_seed(1)
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.GELU(), nn.Linear(6, 3))


class Gated(nn.Module):
    """Two inputs, one through a gate with a constant of its own, and a product of both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        steep = torch.tensor(1.5, device=x.device)
        return self.out(torch.sigmoid(self.left(x) * steep) * torch.relu(self.right(z)))


def gated() -> nn.Module:
    torch.manual_seed(1)
    return Gated()


GENERATOR = torch.Generator().manual_seed(2)
BUILD: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "attention": attention, "normed": normed, "gated": gated}
X = {
    "mlp": torch.randn(5, 4, generator=GENERATOR),
    "cnn": torch.randn(5, 1, 4, 4, generator=GENERATOR),
    "attention": torch.randint(5, (5, 3), generator=GENERATOR),
    "normed": torch.randn(5, 4, generator=GENERATOR),
    "gated": (torch.randn(5, 4, generator=GENERATOR), torch.randn(5, 4, generator=GENERATOR)),
}
Y = torch.tensor([0, 1, 2, 1, 0])


@dataclass(frozen=True)
class World:
    """A model and its example on one device, labels, data and masks on it or (as they come from loaders and files) on the CPU."""

    kind: str
    model: nn.Module
    x: Any
    data: tuple[Any, Tensor]
    masks: dict[str, Tensor]
    put: Callable[[Any], Any]

    def fresh(self) -> nn.Module:
        """The model anew, for what changes it."""
        return self.put(BUILD[self.kind]())


@functools.cache
def world(kind: str, where: str, device: torch.device = DEVICE) -> World:
    """``here``; ``there``, with data and masks on the CPU; ``all there``."""

    def put(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(put, value))
        return value if where == "here" else value.to(device)

    def loaded(value: Any) -> Any:
        return put(value) if where == "all there" else value

    model, drawn = BUILD[kind](), torch.Generator().manual_seed(3)
    masks = {n: loaded(torch.rand(p.shape, generator=drawn) > 0.4) for n, p in model.named_parameters() if p.dim() > 1}
    return World(kind, put(model), put(X[kind]), (loaded(X[kind]), loaded(Y)), masks, put)
