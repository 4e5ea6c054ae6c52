"""Plain full-batch gradient descent on the squared loss: the truth that linearised dynamics are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pkcompiler.tangent.function import ModelAtData, Theta, computing

TOGETHER = 256
"""Samples that are run forward and back at once."""


def descend(network: ModelAtData, y: Tensor, c: float, lr: float, steps: int) -> list[float]:
    """The loss c sum (f - y)^2 before each of ``steps`` steps and after the last, of a copy in evaluation mode.

    ``y`` [n, outputs]. Entries that a mask drops stay at 0 and are not moved. Infinite from the first loss on that is no number.
    """
    theta = {n: t.clone() for n, t in network.theta.items()}
    losses: list[float] = []
    for step in range(steps + 1):
        loss, grads = loss_and_gradient(network, theta, y, c)
        if not math.isfinite(loss):
            return losses + [math.inf] * (steps + 1 - step)
        losses.append(loss)
        theta = {n: t - lr * grads[n] for n, t in theta.items()}
    return losses


def loss_and_gradient(network: ModelAtData, theta: Theta, y: Tensor, c: float) -> tuple[float, dict[str, Tensor]]:
    """The loss and its gradient by plain autograd, a few samples at a time."""
    leaves = {n: t.detach().requires_grad_() for n, t in theta.items()}
    total, grads = 0.0, {n: torch.zeros_like(t) for n, t in leaves.items()}
    for i in range(0, network.n, TOGETHER):
        with torch.enable_grad(), computing():
            output = network.at(leaves, network.samples(i, i + TOGETHER))
            loss = c * (output.reshape(-1) - y[i : i + TOGETHER].reshape(-1)).square().sum()
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        total += float(loss.detach())
        grads = {n: g if d is None else g + d for (n, g), d in zip(grads.items(), found, strict=True)}
    return total, grads
