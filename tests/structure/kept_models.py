"""Architectures whose units meet in every way that a graph has, small, in float64, every parameter and statistic drawn anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from models.zoo import Mixer, UNet
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structure.groups_models import Built, Net, attended, built, drawn


def vgg() -> Built:
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, 0, 12, 12, 0, 16):
        layers += [nn.MaxPool2d(2)] if not width else [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width or channels
    return built(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 5)), drawn(2, 3, 8, 8))


class Block(nn.Module):
    """Two convolutions beside a path that is cut and padded with zeros where channels change (ResNet's option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.stride, self.more = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs), stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.two(self.bn1(self.one(x)).relu()))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return (x + y).relu()


def resnet() -> Built:
    blocks = (Block(8, 8, 1), Block(8, 12, 2), Block(12, 12, 1))
    stem = (nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return built(nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)), drawn(2, 3, 8, 8))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze and excite, project; added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(width, 3 * width, 1, bias=False), nn.BatchNorm2d(3 * width), nn.ReLU6())
        self.deep = nn.Sequential(
            nn.Conv2d(3 * width, 3 * width, 3, 1, 1, groups=3 * width, bias=False), nn.BatchNorm2d(3 * width), nn.SiLU()
        )
        self.squeeze, self.excite = nn.Conv2d(3 * width, 4, 1), nn.Conv2d(4, 3 * width, 1)
        self.down = nn.Sequential(nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(self.up(x))
        return x + self.down(y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid())


def mobilenet() -> Built:
    return built(nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), Inverted(6), Inverted(6), nn.Conv2d(6, 4, 1)), drawn(2, 3, 8, 8))


def grouped() -> Built:
    """Groups of channels in a convolution, in a transposed one and in a norm; channels of groups in turn between them."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.first(x)
        x = m.second(x).relu()
        x = x.reshape(x.shape[0], 3, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return m.last(m.norm(m.third(x)).relu())

    layers = {"first": nn.Conv2d(2, 12, 1), "second": nn.Conv2d(12, 18, 3, padding=1, groups=3)}
    layers |= {"third": nn.ConvTranspose2d(18, 12, 2, stride=2, groups=6), "norm": nn.GroupNorm(3, 12), "last": nn.Conv2d(12, 2, 1)}
    return built(Net(run, **layers), drawn(2, 2, 3, 3))


class Attention(nn.Module):
    """Four heads of four; ``shared``: two heads of keys and values. ``fused``: one matrix makes all three."""

    def __init__(self, width: int, shared: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.shared, self.fused = shared, fused
        if fused:
            self.qkv = nn.Linear(width, 48)
        else:
            self.q, self.k, self.v = (nn.Linear(width, 16 if not shared or n == 0 else 8) for n in range(3))
        self.o = nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 4).unbind(2)
        else:
            q, k, v = (p(x).reshape(*x.shape[:2], -1, 4) for p in (self.q, self.k, self.v))
        if self.shared:
            q, k = rotated(q), rotated(k)
            k, v = (y[:, :, :, None].expand(-1, -1, -1, 2, -1).flatten(2, 3) for y in (k, v))
        return self.o(attended(q / 2, k, v))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions of the two halves of a head."""
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.3], dtype=x.dtype)
    cos, sin = (torch.cat([f(angle), f(angle)], -1)[:, None] for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module], gated: bool = False, **attention: bool) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = norm(width), norm(width), Attention(width, **attention)
        self.up, self.down, self.gated = nn.Linear(width, 24), nn.Linear(12 if gated else 24, width), gated

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.up(self.norm2(x))
        if self.gated:
            y, gate = y.chunk(2, -1)
            return x + self.down(y * F.silu(gate))
        return x + self.down(F.gelu(y))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 10, 4, 4), nn.Parameter(torch.zeros(1, 1, 10))
        self.positions = nn.Parameter(torch.zeros(1, 5, 10))
        self.layers = nn.Sequential(Layer(10, nn.LayerNorm, fused=True), Layer(10, nn.LayerNorm))
        self.norm, self.head = nn.LayerNorm(10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.layers(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions)
        return self.head(self.norm(x)[:, 0])


def vit() -> Built:
    return built(Vit(), drawn(2, 3, 8, 8))


def llama() -> Built:
    """Rotary positions, two heads of keys and values, a gated hidden layer, RMSNorm, one table for both ends."""

    def run(m: Net, x: Tensor) -> Tensor:
        return F.linear(m.norm(m.layers(m.table(x))), m.table.weight)

    layers = nn.Sequential(*(Layer(10, nn.RMSNorm, gated=True, shared=True) for _ in range(2)))
    return built(
        Net(run, table=nn.Embedding(9, 10), layers=layers, norm=nn.RMSNorm(10)), torch.tensor([[0, 3, 1, 7], [2, 2, 8, 5]])
    )


def unet() -> Built:
    return built(UNet(4), drawn(1, 3, 8, 8))


def mixer() -> Built:
    return built(Mixer(12, 2), drawn(1, 3, 32, 32))


class Swin(nn.Module):
    """Windows of 2x2 with attention, rolled between layers, a pixel-unshuffle that merges patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layers = nn.Conv2d(3, 8, 2, 2), nn.ModuleList(Layer(8, nn.LayerNorm) for _ in range(2))
        self.merge, self.last, self.head = nn.Linear(32, 12, bias=False), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for shift, layer in enumerate(self.layers):
            x = torch.roll(x, (-shift, -shift), (1, 2))
            b, h, w, c = x.shape
            y = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
            y = layer(y).reshape(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
            x = torch.roll(y, (shift, shift), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for j in range(2) for i in range(2)], -1)
        return self.head(self.last(self.merge(x)).relu().mean((1, 2)))


def swin() -> Built:
    return built(Swin(), drawn(1, 3, 8, 8))


def unshuffled() -> Built:
    """Positions become channels and channels positions; two dimensions with units are flattened into one."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(m.first(x).relu(), 2)
        x = F.pixel_shuffle(m.second(x).tanh(), 2)
        return m.last(m.tokens(x.flatten(2)).relu().flatten(1))

    layers = {"first": nn.Conv2d(2, 6, 1), "second": nn.Conv2d(24, 20, 1), "tokens": nn.Linear(16, 7), "last": nn.Linear(35, 3)}
    return built(Net(run, **layers), drawn(2, 2, 4, 4))


def densenet() -> Built:
    def run(m: Net, x: Tensor) -> Tensor:
        x = m.first(x)
        x = torch.cat([x, m.one(m.bn1(x).relu())], 1)
        x = torch.cat([x, m.two(m.bn2(x).relu())], 1)
        return m.last(m.bn3(x).relu())

    layers = {"first": nn.Conv2d(2, 6, 1), "one": nn.Conv2d(6, 4, 3, padding=1), "two": nn.Conv2d(10, 4, 3, padding=1)}
    layers |= {"bn1": nn.BatchNorm2d(6), "bn2": nn.BatchNorm2d(10), "bn3": nn.BatchNorm2d(14), "last": nn.Conv2d(14, 3, 1)}
    return built(Net(run, **layers), drawn(2, 2, 4, 4))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], layers: int) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(7, 5), kind(5, 6, layers, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.table(x))[0][:, -1])


def lstm(layers: int = 2) -> Built:
    return built(Recurrent(nn.LSTM, layers), torch.tensor([[1, 2, 3], [4, 5, 6]]))


def gru() -> Built:
    return built(Recurrent(nn.GRU, 2), torch.tensor([[1, 2, 3], [4, 5, 6]]))


def encoder() -> Built:
    """torch's own attention, after the norm."""
    layers = (nn.Linear(3, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3))
    return built(nn.Sequential(*layers), drawn(1, 4, 3))


def computed() -> Built:
    layers = (nn.Linear(3, 8), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3))
    return built(nn.Sequential(*layers), drawn(2, 3))


def frozen() -> Built:
    """Divided by its norm, and shifted by its logarithm of a sum of exponentials."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        x = m.b(x / x.norm(dim=-1, keepdim=True)).relu()
        return m.d(m.c(x - x.logsumexp(-1, keepdim=True)).tanh())

    return built(Net(run, a=nn.Linear(2, 5), b=nn.Linear(5, 7), c=nn.Linear(7, 9), d=nn.Linear(9, 2)), drawn(2, 2))


CONVOLUTIONAL = (vgg, resnet, mobilenet, grouped, unet, unshuffled, densenet)
MODELS = (*CONVOLUTIONAL, vit, llama, mixer, swin, lstm, gru, encoder, computed, frozen)
