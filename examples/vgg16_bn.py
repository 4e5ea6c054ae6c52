"""VGG-16 with BatchNorm at CIFAR size, one linear layer, He-initialised: the network of the lottery-ticket literature.

14,761,664 prunable weights with 100 classes.

pkc prune examples/vgg16_bn.py --pass synflow --compression 100x --rounds 100
"""

import torch
from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def model(num_classes: int = 100) -> nn.Module:
    """Five stages of 3x3 convolutions, halved in between, averaged at the end; [B, 3, 32, 32] -> [B, num_classes]."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in WIDTHS:
        layers += [nn.MaxPool2d(2)] if layers else []
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def example_inputs() -> Tensor:
    return torch.randn(1, 3, 32, 32)
