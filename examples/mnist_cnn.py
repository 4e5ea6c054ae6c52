"""A small convolutional network for MNIST.

pkc prune examples/mnist_cnn.py --pass synflow-l2 --compression 20x
"""

import torch
from torch import Tensor, nn


def model(width: int = 16) -> nn.Module:
    """Three convolutions with BatchNorm, then one linear layer; [B, 1, 28, 28] -> [B, 10]."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *stage(1, width),
        nn.MaxPool2d(2),
        *stage(width, 2 * width),
        nn.MaxPool2d(2),
        *stage(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def example_inputs() -> Tensor:
    return torch.rand(1, 1, 28, 28)
