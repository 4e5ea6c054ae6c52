"""Hooks on parameters: those that keep masks are pkcompiler's own; any other may change a gradient, unseen by a trace."""

from __future__ import annotations

from torch import nn


class KeepsMask:
    """A gradient hook that is pkcompiler's own: it sets the gradient of pruned weights to 0, and leaves that of the others."""

    __slots__ = ()


def gradient_hooks(parameter: nn.Parameter) -> list[object]:
    """The hooks that torch runs on a parameter's gradient, or when it has been accumulated, but for those that keep masks."""
    hooks = [*(parameter._backward_hooks or {}).values(), *(parameter._post_accumulate_grad_hooks or {}).values()]
    return [hook for hook in hooks if not isinstance(hook, KeepsMask)]


def hooked_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that carry such a hook."""
    return tuple(name for name, parameter in module.named_parameters() if gradient_hooks(parameter))
