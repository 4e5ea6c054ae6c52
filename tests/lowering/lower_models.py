"""Real networks for the laws of lowering: name to (builder, input builder, how it is recorded)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Case:
    """``kind``: "graph" (one symbolic trace), "modes" (one for each mode), "export"."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    kind: str = "graph"


def images(size: int, channels: int = 3) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, channels, size, size)


def vectors(size: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, size)


def tokens(batch: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 50, (batch, 9))}


def pytorchcv(module: str, factory: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import importlib
        import importlib.util

        if "pytorchcv.models" not in sys.modules:
            folder = Path(importlib.util.find_spec("pytorchcv").submodule_search_locations[0]) / "models"
            package = ModuleType("pytorchcv.models")
            package.__path__ = [str(folder)]
            sys.modules["pytorchcv.models"] = package
        net: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)()
        return net

    return build


class Block(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inner, outer, 3, padding="same"), nn.Conv2d(outer, outer, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.norm(self.a(x)))))


class UNet(nn.Module):
    """Transposed convolutions with and without ``output_size``, an unused layer, a plain tensor and a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.down, self.bottom = Block(3, 4), nn.Conv2d(4, 4, 2, stride=2), Block(4, 4)
        self.up, self.up2 = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.tail, self.auxiliary = nn.Conv2d(8, 2, 1, bias=False), nn.Linear(2, 2)
        self.gain = torch.full((2, 1, 1), 3.0)
        self.register_buffer("shift", torch.ones(2, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.head(x)
        x = self.bottom(self.bottom(self.down(skip)))
        x = self.up(x) + self.up2(x, output_size=[8, 8])
        return self.tail(torch.cat([x, skip], 1)) * self.gain + self.shift * 2


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(5, 6, num_layers=2, dropout=0.3, bidirectional=True), nn.GRU(12, 4)
        self.conv, self.out = nn.Conv1d(4, 3, 1, groups=1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x)
        hidden, _ = self.gru(hidden)
        return self.out(self.conv(hidden.transpose(1, 2)).mean(-1))


class Attention(nn.Module):
    """Parameters of its own, a layer of torch's with nested parameters, functional dropout that reads the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.attend = nn.Parameter(torch.randn(4, 8)), nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.bilinear = nn.Bilinear(8, 8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.place
        if mask is not None:
            x = x * mask
        x = x + self.attend(x, x, x, need_weights=False)[0]
        x = F.dropout(self.layer(x), 0.5, training=self.training).mean(1)
        return self.bilinear(x, x)


class Tied(nn.Module):
    """Embedding and output share a weight; one linear layer is registered under two names and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(50, 8), nn.Linear(8, 8)
        self.again, self.out = self.body, nn.Linear(8, 50)
        self.out.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.out(torch.tanh(self.again(torch.tanh(self.body(x)))))


class Branching(nn.Module):
    """Control flow on shapes and a variable number of inputs: exported."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.out = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = sum(F.dropout(self.inner(x), 0.3, self.training) for x in inputs)
        return self.out(self.norm(x) if x.shape[-1] == 6 else x)


def weight_norm_net() -> nn.Module:
    norm, spectral = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    layers = (
        norm(nn.Conv2d(3, 4, 3)),
        nn.ReLU(),
        spectral(nn.Conv2d(4, 4, 3)),
        nn.Flatten(),
        norm(nn.Linear(64, 5)),
        nn.Linear(5, 2),
    )
    return nn.Sequential(*layers)


def old_weight_norm_net() -> nn.Module:
    net = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 5)), nn.PReLU(5), nn.Linear(5, 2))
    net(torch.randn(2, 6))
    return net


def conv_family() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, stride=2, dilation=2, bias=False),
        nn.ConvTranspose1d(4, 4, 3, groups=2, output_padding=1, stride=2),
        nn.GroupNorm(2, 4),
        nn.Unflatten(1, (2, 2)),
        nn.Unflatten(3, (2, 5)),
        nn.Conv3d(2, 3, (1, 2, 2)),
        nn.ConvTranspose3d(3, 2, 2),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


def built_conv_family() -> nn.Module:
    net = conv_family()
    net(torch.randn(2, 3, 12))
    return net


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    return BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2, use_cache=False))


def conv1d_of_transformers() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(5, 6), nn.GELU(), Conv1D(2, 5))


CASES: dict[str, Case] = {
    "resnet20": Case(pytorchcv("resnet_cifar", "resnet20_cifar10"), images(32)),
    "densenet40": Case(pytorchcv("densenet_cifar", "densenet40_k12_cifar10"), images(32)),
    "mobilenetv2": Case(pytorchcv("mobilenetv2", "mobilenetv2_wd4"), images(224)),
    "unet": Case(UNet, images(8)),
    "convolutions": Case(built_conv_family, lambda batch: torch.randn(batch, 3, 12)),
    "weight_norm": Case(weight_norm_net, images(8)),
    "old_weight_norm": Case(old_weight_norm_net, vectors(6)),
    "sequences": Case(Sequences, lambda batch: torch.randn(batch, 7, 5)),
    "attention": Case(Attention, lambda batch: torch.randn(batch, 4, 8), "modes"),
    "tied": Case(Tied, tokens),
    "hf_conv1d": Case(conv1d_of_transformers, vectors(6)),
    "branching": Case(Branching, lambda batch: (torch.randn(batch, 6), torch.randn(batch, 6)), "export"),
    "lstm_root": Case(lambda: nn.LSTM(5, 6, batch_first=True), lambda batch: torch.randn(batch, 7, 5), "export"),
    "bert": Case(bert, tokens, "export"),
    "gpt2": Case(gpt2, tokens, "export"),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """The network with every parameter and statistic away from its initial constant."""
    torch.manual_seed(seed)
    net = CASES[name].build()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in net.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif key.endswith("running_mean"):
                buffer.normal_()
    return net


def random_masks(net: nn.Module, density: float = 0.5, seed: int = 1) -> dict[str, Tensor]:
    """A mask for every parameter, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) < density for name, p in net.named_parameters()}


def call(net: nn.Module, inputs: Any, seed: int = 2) -> list[Tensor]:
    """All output tensors, with the same random numbers each time."""
    torch.manual_seed(seed)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    outputs = net(*args, **kwargs)
    leaves = torch.utils._pytree.tree_leaves(dict(outputs) if hasattr(outputs, "keys") else outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def masked_eager(net: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """The oracle: the same class, its weights multiplied by the masks."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    return net
