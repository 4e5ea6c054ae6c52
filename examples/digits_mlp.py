"""A small MLP for the 8x8 digits of scikit-learn: the quickest network to try things on.

pkc prune examples/digits_mlp.py --pass snip --sparsity 90% --data digits
"""

import torch
from torch import Tensor, nn


def model(width: int = 100) -> nn.Module:
    """Two hidden layers; [B, 1, 8, 8] -> [B, 10]."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def example_inputs() -> Tensor:
    return torch.rand(1, 1, 8, 8)
