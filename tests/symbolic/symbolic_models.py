"""Small models whose channels are coupled in every way, for the closed forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.symbolic import ClosedForms, closed_forms


class Block(nn.Module):
    """x + W2 relu(W1 x), then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = (nn.Linear(a, b, bias=False) for a, b in ((3, 5), (5, 3), (3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(F.relu(self.up(x))))


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = (nn.Linear(a, b, bias=False) for a, b in ((3, 4), (3, 5), (9, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1))


class Chunked(nn.Module):
    """A gated linear unit: both halves of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.head = nn.Linear(3, 8, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return self.head(value * torch.sigmoid(gate))


class Tied(nn.Module):
    """One square matrix twice."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.once(F.relu(self.once(x)))


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle in between, then zeros beside the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = F.avg_pool2d(self.up(self.second(x)), 3, stride=1, padding=1)
        x = F.pad(x, (0, 0, 0, 0, 1, 1))
        return self.head(x.amax(3).mean(2))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (1, 4)),
    "block": (Block, (1, 3)),
    "concat": (Concat, (1, 3)),
    "chunked": (Chunked, (1, 3)),
    "tied": (Tied, (1, 3)),
    "shuffle": (Shuffle, (1, 4, 7, 7)),
    "flat": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)),
        (1, 2, 4, 5),
    ),
}


def forms_of(name: str, **options: object) -> ClosedForms:
    make, shape = MODELS[name]
    return closed_forms(make(), torch.zeros(shape), **options)
