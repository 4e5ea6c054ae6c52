"""Hooks on parameters: those that keep masks are pkcompiler's own; any other may change a gradient, unseen by a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class MaskGradient:
    """The gradient hook of a masked parameter: 0 where it is pruned (infinite and NaN too).

    ``mask``: from a device to the mask there, bool [param], True = kept.
    """

    mask: Callable[[torch.device], Tensor]

    def __call__(self, gradient: Tensor) -> Tensor:
        return torch.where(self.mask(gradient.device), gradient, 0)


def gradient_hooks(parameter: nn.Parameter) -> list[object]:
    """The hooks that torch runs on a parameter's gradient, or when it has been accumulated, but for those that keep masks."""
    hooks = [*(parameter._backward_hooks or {}).values(), *(parameter._post_accumulate_grad_hooks or {}).values()]
    return [hook for hook in hooks if not isinstance(hook, MaskGradient)]


def hooked_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that carry such a hook."""
    return tuple(name for name, parameter in module.named_parameters() if gradient_hooks(parameter))
