"""Tiny networks, each with one thing that couples units, written so that they run at any width. All in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Net(nn.Module):
    """Layers by name, and how they are put together."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Tensor) -> Tensor:
        return self.run(self, *x)


def built(net: nn.Module, *x: Tensor) -> Built:
    """In evaluation mode, every parameter and statistic drawn anew."""
    generator = torch.Generator().manual_seed(0)
    net = net.double().eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                low = 0.5 if name.endswith("var") else -0.5
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + low)
    return net, x


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mlp() -> Built:
    return built(nn.Sequential(nn.Linear(1, 3), nn.LeakyReLU(), nn.Linear(3, 1)), drawn(4, 1))


def sigmoid() -> Built:
    """An activation that is not 0 at 0: what reads the unit is part of the group."""
    return built(nn.Sequential(nn.Linear(1, 3), nn.Sigmoid(), nn.Linear(3, 1)), drawn(4, 1))


def tied() -> Built:
    """Embedding and output layer are one matrix."""
    net = Net(lambda m, x: F.linear(m.hidden(m.table(x)) * m.table(x), m.table.weight), table=nn.Embedding(3, 3))
    net.hidden = nn.Linear(3, 3, bias=False)
    return built(net, torch.tensor([[0, 1, 2]]))


def glu() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        a, b = m.up(x).chunk(2, -1)
        return m.down(a * b.sigmoid())

    return built(Net(run, up=nn.Linear(2, 6), down=nn.Linear(3, 2, bias=False)), drawn(2, 2))


def chain() -> Built:
    """Convolution, BatchNorm, flattened into a linear layer."""
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    return built(nn.Sequential(*layers), drawn(2, 2, 4, 4))


def residual() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.last(x + m.bn(m.two(m.one(x).relu())))

    layers = {"first": nn.Conv2d(2, 3, 1), "one": nn.Conv2d(3, 4, 3, padding=1), "two": nn.Conv2d(4, 3, 1, bias=False)}
    return built(Net(run, **layers, bn=nn.BatchNorm2d(3), last=nn.Conv2d(3, 2, 1)), drawn(2, 2, 3, 3))


def concat() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        a = m.one(x)
        return m.last(m.bn(torch.cat([a, x, m.two(a.relu())], 1)).relu())

    layers = {"one": nn.Conv2d(2, 3, 1), "two": nn.Conv2d(3, 3, 1, bias=False), "bn": nn.BatchNorm2d(8), "last": nn.Conv2d(8, 2, 1)}
    return built(Net(run, **layers), drawn(2, 2, 2, 2))


def depthwise() -> Built:
    """Two outputs per channel."""
    layers = (nn.Conv2d(2, 3, 1), nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    return built(nn.Sequential(*layers), drawn(2, 2, 3, 3))


def grouped() -> Built:
    layers = (nn.Conv2d(2, 6, 1), nn.Conv2d(6, 9, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(9, 2, 1))
    return built(nn.Sequential(*layers), drawn(2, 2, 3, 3))


def transposed() -> Built:
    layers = (nn.Conv2d(2, 6, 1), nn.ConvTranspose2d(6, 6, 2, stride=2, groups=3), nn.ReLU(), nn.ConvTranspose2d(6, 2, 1))
    return built(nn.Sequential(*layers), drawn(2, 2, 2, 2))


def squeeze() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.first(x).relu()
        scale = m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.last(x * scale)

    layers = {"first": nn.Conv2d(2, 4, 1), "down": nn.Conv2d(4, 3, 1), "up": nn.Conv2d(3, 4, 1), "last": nn.Conv2d(4, 2, 1)}
    return built(Net(run, **layers), drawn(2, 2, 2, 2))


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, T, H, D] each -> [B, T, H * D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def attention() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        heads = (p(x).reshape(*x.shape[:2], -1, 2) for p in (m.q, m.k, m.v))
        return m.o(attended(*heads))

    return built(Net(run, q=nn.Linear(2, 6), k=nn.Linear(2, 6, bias=False), v=nn.Linear(2, 6), o=nn.Linear(6, 2)), drawn(2, 3, 2))


def fused() -> Built:
    """One matrix for queries, keys and values, taken apart by a reshape."""

    def run(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(*x.shape[:2], 3, -1, 2).unbind(2)
        return m.o(attended(q, k, v))

    return built(Net(run, qkv=nn.Linear(2, 18), o=nn.Linear(6, 2, bias=False)), drawn(2, 3, 2))


def cut() -> Built:
    """One matrix for queries, keys and values, taken apart by slices."""

    def run(m: Net, x: Tensor) -> Tensor:
        heads = (p.reshape(*x.shape[:2], -1, 2) for p in m.qkv(x).chunk(3, -1))
        return m.o(attended(*heads))

    return built(Net(run, qkv=nn.Linear(2, 18, bias=False), o=nn.Linear(6, 2)), drawn(2, 3, 2))


def shared_keys() -> Built:
    """Two heads of queries per head of keys and values."""

    def run(m: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).reshape(*x.shape[:2], -1, 2) for p in (m.q, m.k, m.v))
        k, v = (y[:, :, :, None].expand(-1, -1, -1, 2, -1).flatten(2, 3) for y in (k, v))
        return m.o(attended(q, k, v))

    layers = {"q": nn.Linear(2, 12, bias=False), "k": nn.Linear(2, 6, bias=False), "v": nn.Linear(2, 6, bias=False)}
    return built(Net(run, **layers, o=nn.Linear(12, 2)), drawn(2, 3, 2))


def shuffled() -> Built:
    """Channels of groups of three in turn."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.first(x)
        x = x.reshape(x.shape[0], -1, 3, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return m.last((x * m.gain).relu())

    layers = {"first": nn.Conv2d(2, 9, 1), "last": nn.Conv2d(9, 2, 1)}
    return built(Net(run, **layers, gain=nn.Parameter(torch.ones(9, 1, 1))), drawn(2, 2, 2, 2))


EXHAUSTED = (mlp, sigmoid, tied, glu)
"""So few atoms that every subset can be tried."""

SAMPLED = (chain, residual, concat, depthwise, grouped, transposed, squeeze, attention, fused, cut, shared_keys, shuffled)
