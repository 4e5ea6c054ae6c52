"""Tiny modules with structure: weights tied and parametrised, tokens, masks, several inputs and outputs. As in operator_cases."""

from __future__ import annotations

import math
from typing import Any

import torch
from operator_tools import Built, Net, p, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize


def tied() -> Built:
    """Two layers with one weight."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net, torch.randn(2, 4)


def called_twice() -> Built:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 4)


def weight_normed() -> Built:
    return parametrizations.weight_norm(nn.Linear(4, 3)), torch.randn(2, 4)


def weight_normed_old() -> Built:
    return torch.nn.utils.weight_norm(nn.Conv1d(4, 3, 2)), torch.randn(2, 4, 5)


def spectrally_normed() -> Built:
    return parametrizations.spectral_norm(nn.Linear(4, 3)).eval(), torch.randn(2, 4)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).transpose(-1, -2)


def symmetric() -> Built:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer, torch.randn(2, 4)


def class_token() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        tokens = torch.cat([m.cls.expand(x.shape[0], -1, -1), m.patch(x)], 1) + m.position
        return m.head(m.block(tokens)[:, 0])

    block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    return Net(forward, cls=p(1, 1, 8), position=p(1, 6, 8), patch=nn.Linear(4, 8), block=block, head=nn.Linear(8, 3)), torch.randn(
        2, 5, 4
    )


def class_token_repeat() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.cat([m.cls.repeat(x.shape[0], 1, 1), x], 1) * m.w

    return Net(forward, cls=p(1, 1, 4), w=p(4)), torch.randn(2, 5, 4)


def causal_buffer() -> Built:
    """GPT as usually written: a lower triangle [1, 1, 8, 8] as buffer, cut to the length."""

    def forward(m: Any, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = m.tokens(ids) + m.positions(torch.arange(n, device=ids.device))
        q, k, v = (part.view(x.shape[0], n, 2, 4).transpose(1, 2) for part in m.qkv(m.norm(x)).split(8, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(m.bias[:, :, :n, :n] == 0, float("-inf"))
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(x.shape[0], n, 8)
        return F.linear(x + m.out(y), m.tokens.weight)

    parts = {"tokens": nn.Embedding(7, 8), "positions": nn.Embedding(8, 8), "qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8)}
    mask = torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8)
    return randomised(Net(forward, norm=nn.LayerNorm(8), bias=mask, **parts)), torch.randint(0, 7, (2, 5))


def attention_mask() -> Built:
    """An integer mask as an input, HF style: (1 - mask) * min added to the scores."""

    def forward(m: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = m.tokens(input_ids)
        q, k, v = m.qkv(x).chunk(3, -1)
        extended = (1.0 - attention_mask[:, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        return m.head(torch.softmax(q @ k.transpose(-1, -2) / 2 + extended, -1) @ v)

    net = Net(forward, tokens=nn.Embedding(7, 4), qkv=nn.Linear(4, 12), head=nn.Linear(4, 3))
    return net, {"input_ids": torch.randint(0, 7, (2, 5)), "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])}


def attention_mask_boolean() -> Built:
    def forward(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).transpose(1, 2).flatten(2)

    return Net(forward, qkv=nn.Linear(4, 12)), (torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]]))


def masked_mean() -> Built:
    """Sentence pooling: the mean over the tokens that a floating mask keeps."""

    def forward(m: Any, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].to(m.head.weight.dtype)
        return m.head((m.tokens(ids) * weights).sum(1) / weights.sum(1).clamp(min=1e-9))

    net = Net(forward, tokens=nn.Embedding(7, 4), head=nn.Linear(4, 3))
    return net, (torch.randint(0, 7, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))


def keyword_inputs() -> Built:
    def forward(m: Any, *, left: Tensor, right: Tensor) -> Tensor:
        return m.a(left) + m.b(right)

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(2, 4)), {"right": torch.randn(2, 2), "left": torch.randn(2, 3)}


def two_inputs() -> Built:
    return Net(lambda m, x, y: m.a(x) * m.b(y), a=nn.Linear(3, 4), b=nn.Linear(2, 4)), (torch.randn(2, 3), torch.randn(2, 2))


def nested_inputs() -> Built:
    return Net(lambda m, pair: m.a(pair["x"]) + pair["rest"][0], a=nn.Linear(3, 3)), (
        {"x": torch.randn(2, 3), "rest": [torch.randn(2, 3)]},
    )


def several_outputs() -> Built:
    return Net(lambda m, x: (m.a(x), m.b(x)), a=nn.Linear(3, 4), b=nn.Linear(3, 2)), torch.randn(2, 3)


def dictionary_output() -> Built:
    return Net(lambda m, x: {"ids": x.argmax(-1), "logits": m.a(x)}, a=nn.Linear(3, 4)), torch.randn(2, 3)


def shifted_windows() -> Built:
    """One shifted-window attention with its relative position bias and its mask."""

    def forward(m: Any, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = torch.roll(x, (-1, -1), (1, 2))
        w = x.view(b, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
        q, k, v = m.qkv(w).reshape(-1, 4, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 2**-0.5) @ k.transpose(-2, -1)
        scores = scores + m.table[m.index.view(-1)].view(4, 4, 2).permute(2, 0, 1).contiguous().unsqueeze(0)
        scores = (scores.view(b, 4, 2, 4, 4) + m.mask[None, :, None]).view(-1, 2, 4, 4)
        y = m.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, 4))
        y = y.view(b, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(b, 4, 4, 4)
        return torch.roll(y, (1, 1), (1, 2))

    grid = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
    offset = (grid[:, :, None] - grid[:, None]) + 1
    mask = torch.where(torch.rand(4, 4, 4) > 0.6, -100.0, 0.0) * (1 - torch.eye(4))
    parts = {"table": p(9, 2), "index": offset[0] * 3 + offset[1], "mask": mask}
    return Net(forward, qkv=nn.Linear(4, 12), out=nn.Linear(4, 4), **parts), torch.randn(2, 4, 4, 4)


def rotary() -> Built:
    def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(m: Any, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1]).to(x.dtype)[:, None] * m.frequency[None]
        angles = torch.cat([angles, angles], -1)
        q, k, v = m.qkv(x).chunk(3, -1)
        q, k = (turned(t, angles.cos(), angles.sin()) for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Net(forward, qkv=nn.Linear(4, 12), frequency=torch.tensor([1.0, 0.1])), torch.randn(2, 5, 4)


def mixer() -> Built:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)
            self.tokens = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5))
            self.channels = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm(x))

    return randomised(Mixer()), torch.randn(2, 5, 4)


def dynamic_convolution() -> Built:
    """A kernel computed from parameters: the mean of two."""
    return Net(lambda m, x: F.conv2d(x, (m.a + m.b) / 2, m.c, padding=1), a=p(3, 2, 3, 3), b=p(3, 2, 3, 3), c=p(3)), torch.randn(
        2, 2, 5, 5
    )


def unet() -> Built:
    def forward(m: Any, x: Tensor) -> Tensor:
        skip = F.relu(m.down(x))
        low = F.relu(m.middle(F.max_pool2d(skip, 2)))
        return m.head(torch.cat([m.up(low), skip], 1))

    parts = {"down": nn.Conv2d(2, 4, 3, padding=1), "middle": nn.Conv2d(4, 6, 3, padding=1)}
    return Net(forward, up=nn.ConvTranspose2d(6, 4, 2, stride=2), head=nn.Conv2d(8, 2, 1), **parts), torch.randn(2, 2, 6, 6)


def unused_parameter() -> Built:
    return Net(lambda m, x: m.a(x), a=nn.Linear(3, 3), never=p(4)), torch.randn(2, 3)


def frozen_parameter() -> Built:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    net[0].weight.requires_grad_(False)
    return net, torch.randn(2, 3)


def mean_input() -> Built:
    """A deviation of the input scales the output: the parameters behind it are only observed."""
    return Net(
        lambda m, x: m.a(x) / (1 + m.b(x).pow(2).sum(-1, keepdim=True)).sqrt(), a=nn.Linear(3, 3), b=nn.Linear(3, 3)
    ), torch.randn(2, 3)


def identity() -> Built:
    return nn.Sequential(nn.Identity(), nn.Linear(3, 3), nn.Identity()), torch.randn(2, 3)


def half_precision() -> Built:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).bfloat16(), torch.randn(2, 3).bfloat16()


MODELS = {
    f.__name__: f
    for f in (
        tied, called_twice, weight_normed, weight_normed_old, spectrally_normed, symmetric, class_token, class_token_repeat,
        causal_buffer, attention_mask, attention_mask_boolean, masked_mean, keyword_inputs, two_inputs, nested_inputs,
        several_outputs, dictionary_output, shifted_windows, rotary, mixer, dynamic_convolution, unet, unused_parameter,
        frozen_parameter, mean_input, identity, half_precision,
    )
}  # fmt: skip
