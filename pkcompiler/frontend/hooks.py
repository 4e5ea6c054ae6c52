"""Hooks on parameters: those that keep masks are pkcompiler's own; any other may change a gradient, unseen by a trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parameter import is_lazy


class KeepsMask:
    """A gradient hook that is pkcompiler's own: it sets the gradient of pruned weights to 0, and leaves that of the others."""

    __slots__ = ()


def gradient_hooks(parameter: nn.Parameter) -> list[object]:
    """The hooks that torch runs on a parameter's gradient, or when it has been accumulated, but for those that keep masks."""
    hooks = [*(parameter._backward_hooks or {}).values(), *(parameter._post_accumulate_grad_hooks or {}).values()]
    return [hook for hook in (*hooks, *_accumulation_hooks(parameter)) if not isinstance(hook, KeepsMask)]


def _accumulation_hooks(parameter: nn.Parameter) -> list[object]:
    """Those of the node that accumulates the gradient, before and after it does.

    torch lists them nowhere but in the handle of one more hook, which is removed again. Those that C++ registers are not seen.
    """
    if is_lazy(parameter) or not parameter.requires_grad or not parameter.is_leaf or parameter.is_inference():
        return []
    with torch.inference_mode(False):
        node = get_gradient_edge(parameter).node
    return [*_beside(node.register_prehook), *_beside(node.register_hook)]


def _beside(register: Any) -> list[object]:
    """The hooks that stand beside one that is registered so."""
    handle = register(_nothing)
    hooks = dict(handle.hooks_dict_ref())
    handle.remove()
    return [hook for number, hook in hooks.items() if number != handle.id]


def _nothing(*gradients: object) -> None:
    """A hook that leaves the gradient as it is."""


def hooked_parameters(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that carry such a hook."""
    return tuple(name for name, parameter in module.named_parameters() if gradient_hooks(parameter))
