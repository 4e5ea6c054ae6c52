"""Real architectures for the certificates: name -> builder of (module in evaluation mode, inputs). Nothing is downloaded.

The convolutional networks come from pytorchcv (its files are imported one by one: the package's own model provider needs
torchvision), the transformers from small configurations of transformers, the rest is written out here. Builders set the seed, so
two calls give equal weights. ``randomise`` moves every norm, statistic and bias away from its initial value.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[Tensor, ...]]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw anew, in place: norm gains in ±[0.5, 1.5] (three in ten negative), statistics, all other vectors (biases, layer scales).

    Returns the same module. Matrices and kernels keep their values. A parameter shared by several modules is drawn once.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    gains = {id(m.weight) for m in module.modules() if isinstance(m, NORMS) and m.weight is not None}
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                continue
            if id(parameter) in gains:
                sign = 1.0 - 2.0 * (uniform(parameter, 0, 1) < 0.3)
                parameter.copy_(uniform(parameter, 0.5, 1.5) * sign)
            else:
                parameter.copy_(uniform(parameter, -0.5, 0.5))
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase) and norm.running_mean is not None:
                norm.running_mean.copy_(uniform(norm.running_mean, -0.5, 0.5))
                norm.running_var.copy_(uniform(norm.running_var, 0.5, 2.0))
    return module


def images(size: int, batch: int = 1) -> tuple[Tensor, ...]:
    """float32 [batch, 3, size, size], standard normal, always the same."""
    return (torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)),)


def tokens(length: int, vocabulary: int) -> tuple[Tensor, ...]:
    """int64 [1, length] below ``vocabulary``, always the same."""
    return (torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(1)),)


# Convolutional networks of pytorchcv


def convolutional(file: str, factory: str, size: int, **options: object) -> Built:
    torch.manual_seed(0)
    build = getattr(import_module(f"pytorchcv.models.{file}"), factory)
    return build(**options).eval(), images(size)


def resnet20() -> Built:
    return convolutional("resnet_cifar", "resnet20_cifar10", 32)


def resnet50() -> Built:
    return convolutional("resnet", "resnet50", 224)


def densenet40() -> Built:
    return convolutional("densenet_cifar", "densenet40_k12_cifar10", 32)


def mobilenet_v2() -> Built:
    return convolutional("mobilenetv2", "mobilenetv2_w1", 224)


def efficientnet_b0() -> Built:
    return convolutional("efficientnet", "efficientnet_b0", 64)


# VGG-16-BN for CIFAR


def vgg16_bn() -> Built:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100)).eval(), images(32)


# U-Net


class Double(nn.Sequential):
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Three levels; up by a transposed convolution and bilinearly; skips concatenated. [B, 3, H, W] -> [B, 2, H, W]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = Double(3, width), Double(width, 2 * width)
        self.bottom = Double(2 * width, 4 * width)
        self.transposed = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = Double(4 * width, 2 * width)
        self.reduce = nn.Conv2d(2 * width, width, 1)
        self.up1 = Double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        second = self.up2(torch.cat([self.transposed(bottom), second], dim=1))
        raised = F.interpolate(self.reduce(second), scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(self.up1(torch.cat([raised, first], dim=1)))


def unet() -> Built:
    torch.manual_seed(0)
    return UNet().eval(), images(32)


# MLP-Mixer


class MixerBlock(nn.Module):
    """Mixes tokens, then channels; [B, T, C] -> [B, T, C]."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = nn.Sequential(nn.Linear(length, 2 * length), nn.GELU(), nn.Linear(2 * length, length))
        self.over_channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches of 8, four blocks, mean over the tokens; [B, 3, 32, 32] -> [B, 10]."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.blocks = nn.Sequential(*(MixerBlock(16, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def mlp_mixer() -> Built:
    torch.manual_seed(0)
    return Mixer().eval(), images(32)


# Transformers (and ConvNeXt) of transformers, from configurations


class Logits(nn.Module):
    """A model of transformers, reduced to its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def vit() -> Built:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8
    )
    return Logits(ViTForImageClassification(config)).eval(), images(32)


def bert() -> Built:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=200, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
    config.max_position_embeddings = 32
    return Logits(BertForSequenceClassification(config)).eval(), tokens(16, 200)


def gpt2() -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=200, n_positions=32, n_embd=48, n_layer=4, n_head=4, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return Logits(GPT2LMHeadModel(config)).eval(), tokens(16, 200)


def convnext() -> Built:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[24, 48, 96, 192], depths=[2, 2, 4, 2], image_size=64)
    return Logits(ConvNextForImageClassification(config)).eval(), images(64)


MODELS: dict[str, Callable[[], Built]] = {
    "resnet20": resnet20,
    "vgg16_bn": vgg16_bn,
    "densenet40": densenet40,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_b0": efficientnet_b0,
    "convnext": convnext,
    "unet": unet,
    "mlp_mixer": mlp_mixer,
    "vit": vit,
    "bert": bert,
    "gpt2": gpt2,
    "resnet50": resnet50,
}
