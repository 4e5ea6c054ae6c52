"""GraSP and NTK-SAP as their released programs compute them, in plain torch: what the tests of both passes are judged by.

GraSP: github.com/alecwangcq/GraSP, pruner/GraSP.py. NTK-SAP: github.com/YiteWang/NTK-SAP, Pruners/pruners.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def prunable(net: nn.Module) -> list[tuple[str, Tensor]]:
    """The weights of convolutions and linear layers, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return [(f"{name}.weight", m.weight) for name, m in net.named_modules() if isinstance(m, kinds)]


def grasp(net: nn.Module, x: Tensor, y: Tensor, weights: Sequence[Tensor], temperature: float = 200.0) -> list[Tensor]:
    """theta (H g) of each of ``weights``, H and g over them alone, both summed over the two halves of the data."""
    half = len(x) // 2
    halves = [(x[:half], y[:half]), (x[half:], y[half:])]
    stopped = [torch.zeros_like(w) for w in weights]
    for part, labels in halves:
        found = torch.autograd.grad(F.cross_entropy(net(part) / temperature, labels), weights)
        stopped = [s + g for s, g in zip(stopped, found, strict=True)]
    product = [torch.zeros_like(w) for w in weights]
    for part, labels in halves:
        moving = torch.autograd.grad(F.cross_entropy(net(part) / temperature, labels), weights, create_graph=True)
        z = torch.stack([(s * g).sum() for s, g in zip(stopped, moving, strict=True)]).sum()
        product = [p + h for p, h in zip(product, torch.autograd.grad(z, weights), strict=True)]
    return [w.detach() * p for w, p in zip(weights, product, strict=True)]


class Masked(nn.Module):
    """A convolution or linear layer that multiplies its weight by a mask on every run."""

    def __init__(self, layer: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.layer, self.mask = layer, mask

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight * self.mask
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)


def ntk_sap(draws: Sequence[tuple[nn.Module, Tensor, dict[str, Tensor]]], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The summed derivative in every mask, in absolute value. ``draws``: fresh networks, their inputs and the shifts d."""
    switches = {n: m.double().requires_grad_() for n, m in masks.items()}
    for fresh, z, shift in draws:
        net = _in_place(copy.deepcopy(fresh), switches)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = 1.0
        with torch.no_grad():
            net.train()(z)
        net.eval()
        other = copy.deepcopy(net)
        with torch.no_grad():
            for name, module in other.named_modules():
                if isinstance(module, Masked):
                    module.mask = switches[f"{name}.weight"]
                    module.layer.weight += shift[f"{name}.weight"]
        torch.norm(net(z) - other(z), dim=-1).square().sum().backward()
    return {n: (m.grad * (m != 0)).abs().detach() for n, m in switches.items()}


def _in_place(net: nn.Module, switches: dict[str, Tensor]) -> nn.Module:
    for name, _ in prunable(net):
        place = name.removesuffix(".weight")
        parent: nn.Module = net.get_submodule(place.rpartition(".")[0])
        setattr(parent, place.rpartition(".")[2], Masked(net.get_submodule(place), switches[name]))
    return net


def redrawn(make: Callable[[], nn.Module], draw: Callable[..., Tensor]) -> nn.Module:
    """A network whose parameters are ``draw(shape, name)``, half as wide, and whose running statistics are nobody's."""
    net = make().double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.5 * draw(tuple(parameter.shape), name))
        for name, buffer in net.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(1 + draw(tuple(buffer.shape), name).square())
    return net
