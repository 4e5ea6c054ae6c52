"""What the operators' tiny modules are made with: name -> builder of (module, inputs), filled by the files of cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Any]
CASES: dict[str, Callable[[], Built]] = {}


class Net(nn.Module):
    """A function with parameters, buffers and modules: ``function(self, *inputs)``."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


def p(*shape: int) -> nn.Parameter:
    """A parameter, standard normal."""
    return nn.Parameter(torch.randn(shape))


def case(name: str, built: Callable[[], Built]) -> None:
    assert name not in CASES, name
    CASES[name] = built


def module(name: str, build: Callable[[], nn.Module], *shape: int) -> None:
    """A module on one floating input; its vectors are drawn anew so that no bias is 0 and no gain 1."""

    def built() -> Built:
        return randomised(build()), torch.randn(*shape)

    case(name, built)


def randomised(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net


def unary(name: str, function: Callable[[Tensor], Any], *shape: int) -> None:
    """``function`` between an elementwise parameter before it and one after it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = function(x * net.before)
        return y * net.after + net.shift

    def built() -> Built:
        x = torch.randn(*shape)
        after = tuple(function(x).shape[1:])
        return Net(forward, before=p(*shape[1:]), after=p(*after), shift=p(*after)), x

    case(name, built)


SIZES = {1: (8,), 2: (6, 7), 3: (4, 5, 6)}
