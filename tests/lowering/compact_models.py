"""Small networks with every way of joining units that compact networks must get right: name -> (module, inputs), all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Residual(nn.Module):
    """Two blocks over one stream; ``pre``: norms before the convolutions."""

    def __init__(self, pre: bool = False) -> None:
        super().__init__()
        self.pre = pre
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.first = nn.ModuleList([nn.Conv2d(12, 10, 3, padding=1, bias=False) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(12 if pre else 10) for _ in range(2)])
        self.second = nn.ModuleList([nn.Conv2d(10, 12, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for first, norm, second in zip(self.first, self.norms, self.second, strict=True):
            inner = first(F.relu(norm(x))) if self.pre else F.relu(norm(first(x)))
            x = x + second(F.relu(inner))
        return self.head(F.relu(x).mean((2, 3)))


class Excited(nn.Module):
    """Depthwise and grouped convolutions, squeeze and excitation, channels joined, a dense skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depth, self.norm = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)
        self.grouped = nn.Conv2d(16, 12, 3, padding=1, groups=4)
        self.gn = nn.GroupNorm(3, 12)
        self.point = nn.Conv2d(12 + 16, 10, 1)
        self.head = nn.Linear(10 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = F.hardswish(self.norm(self.depth(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = torch.cat([self.gn(self.grouped(x)), x], 1)
        return self.head(F.adaptive_max_pool2d(torch.tanh(self.point(x)), 2).flatten(1))


class Up(nn.Module):
    """Down and up again: a transposed convolution, a resize, a pixel shuffle; skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.raised = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.shuffled = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(8 + 8 + 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down(x))
        bottom = F.relu(self.inner(F.max_pool2d(first, 2)))
        return self.last(torch.cat([self.raised(bottom), first, F.pixel_shuffle(self.shuffled(bottom), 2)], dim=1))


class Attention(nn.Module):
    """``fused``: one matrix for q, k and v; ``rotary``, ``shared``: rotated halves, two key-value heads for four queries."""

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind, self.width = heads, kind, width
        if kind == "fused":
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q = nn.Linear(width, width)
            self.k = nn.Linear(width, width // (2 if kind == "shared" else 1))
            self.v = nn.Linear(width, width // (2 if kind == "shared" else 1))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        size = c // self.heads
        if self.kind == "fused":
            q, k, v = (part.view(b, t, self.heads, size).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
            return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))
        q = self.q(x).view(b, t, self.heads, size).transpose(1, 2)
        k, v = (layer(x).view(b, t, -1, size).transpose(1, 2) for layer in (self.k, self.v))
        if self.kind == "shared":
            angles = torch.arange(t, dtype=x.dtype)[:, None] / torch.arange(1, size // 2 + 1, dtype=x.dtype)
            cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))
            q, k = (z * cos + torch.cat([-z[..., size // 2 :], z[..., : size // 2]], -1) * sin for z in (q, k))
            k, v = (z.repeat_interleave(2, dim=1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))


class Gated(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Transformer(nn.Module):
    """Two blocks; tokens in, logits by the embedding's own weight where ``tied``."""

    def __init__(
        self, kind: str = "plain", norm: type[nn.Module] = nn.LayerNorm, *, gated: bool = False, tied: bool = False
    ) -> None:
        super().__init__()
        width = 16
        self.embed, self.place = nn.Embedding(20, width), nn.Parameter(torch.randn(6, width) * 0.1)
        self.attention = nn.ModuleList([Attention(width, 4, kind) for _ in range(2)])
        self.feed = nn.ModuleList(
            [Gated(width, 24) if gated else nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width)) for _ in range(2)]
        )
        self.norms = nn.ModuleList([norm(width) for _ in range(4)])
        self.head = nn.Linear(width, 20, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place
        for i in range(2):
            x = x + self.attention[i](self.norms[2 * i](x))
            x = x + self.feed[i](self.norms[2 * i + 1](x))
        return self.head(x)


class Encoder(nn.Module):
    """Torch's own encoder layer, over patches, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 1, 16))
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.layer(x)[:, 0])


class Mixed(nn.Module):
    """Tokens mixed, then channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 4, stride=4), nn.LayerNorm(12)
        self.over_tokens = nn.Sequential(nn.Linear(4, 10), nn.GELU(), nn.Linear(10, 4))
        self.over_channels = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.over_tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.over_channels(self.norm(x))).mean(1))


class Windows(nn.Module):
    """Attention within shifted windows, with a bias by position: Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 2, stride=2), nn.LayerNorm(12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.bias, self.head = nn.Parameter(torch.randn(3, 4, 4)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        b, h, w, c = y.shape
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, 3, c // 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * (c // 3) ** -0.5) @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, 4, c))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return self.head((x + torch.roll(y, (1, 1), (1, 2))).mean((1, 2)))


class Recurrent(nn.Module):
    """Two layers over time, then a head on the last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn, self.head = kind(5, 12, num_layers=2, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Adapted(nn.Module):
    """A weight that is made of two others, one normed by row, a layer scale, one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(8, 12))
        self.down, self.up = nn.Parameter(torch.randn(3, 12) * 0.3), nn.Parameter(torch.randn(12, 3) * 0.3)
        self.base, self.scale = nn.Linear(12, 12), nn.Parameter(torch.randn(12))
        self.again, self.head = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x + self.scale * (self.base(x) + F.linear(F.linear(x, self.down), self.up))
        return self.head(F.relu(self.again(F.relu(self.again(x)))))


def images(size: int = 8) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size, dtype=torch.float64),)


def tokens() -> tuple[Tensor, ...]:
    return (torch.randint(0, 20, (2, 6)),)


def plain() -> nn.Module:
    """Convolutions, BatchNorm, a max-pool, a flattened map."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.Tanh(),
        nn.Linear(20, 4),
    )


def normed() -> nn.Module:
    """A weight that a hook computes from another, with buffers that its training writes, between layers whose units leave."""
    layers = (nn.Linear(6, 9), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(9, 9)), nn.ReLU(), nn.Linear(9, 7), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))


MODELS: dict[str, Callable[[], Built]] = {
    "plain": lambda: (plain(), images()),
    "mlp": lambda: (
        nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 16), nn.Sigmoid(), nn.Linear(16, 4)),
        (torch.randn(2, 8).double(),),
    ),
    "residual": lambda: (Residual(), images()),
    "preactivation": lambda: (Residual(pre=True), images()),
    "excited": lambda: (Excited(), images()),
    "up": lambda: (Up(), images()),
    "gpt": lambda: (Transformer("fused"), tokens()),
    "tied": lambda: (Transformer("plain", tied=True), tokens()),
    "llama": lambda: (Transformer("shared", nn.RMSNorm, gated=True), tokens()),
    "encoder": lambda: (Encoder(), images()),
    "mixer": lambda: (Mixed(), images()),
    "windows": lambda: (Windows(), images()),
    "lstm": lambda: (Recurrent(nn.LSTM), (torch.randn(2, 4, 5, dtype=torch.float64),)),
    "gru": lambda: (Recurrent(nn.GRU), (torch.randn(2, 4, 5, dtype=torch.float64),)),
    "normed": lambda: (normed(), (torch.randn(2, 6, dtype=torch.float64),)),
    "adapted": lambda: (Adapted(), (torch.randn(2, 8, dtype=torch.float64),)),
}


def built(name: str) -> Built:
    """A network with norms, statistics and biases away from their initial values, in evaluation mode, always the same."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model = model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-1, 1)
    return model.eval(), inputs


def masks(model: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    """Random masks that also empty rows and columns, biases with their rows, and leave every matrix something."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in model.named_parameters():
        if "norm" in name or "gn" in name:
            continue
        keep = torch.rand(parameter.shape, generator=generator) < density
        if parameter.dim() > 1:
            rows = torch.rand(parameter.shape[0], generator=generator) < 0.6
            columns = torch.rand(parameter.shape[1], generator=generator) < 0.7
            lone = parameter.dim() - 2
            keep &= rows.reshape(-1, 1, *(1,) * lone) & columns.reshape(1, -1, *(1,) * lone)
            keep.view(-1)[0] = True
        found[name] = keep
    return found
