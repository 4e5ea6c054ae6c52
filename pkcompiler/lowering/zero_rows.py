"""Computed weights that a mask leaves 0/0 (docs/theory.md, section 1): rows of a weight norm without any kept weight are 0.

Dropped entries of such a row count as 1 where the weight is computed, and the row is 0 afterwards, so that no derivative is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


class Dropped(nn.Module):
    """The last parametrization of a weight: 0 where nothing of it is kept."""

    def __init__(self, dropped: Tensor) -> None:
        super().__init__()
        self.register_buffer("dropped", dropped, persistent=False)
        self.dropped: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.dropped, 0, weight)


def zero_rows(root: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the rows of computed weights 0 that would be 0/0; by parameter, 1 where a dropped entry is to count as 1."""
    fills: dict[str, Tensor] = {}
    for path, module in list(root.named_modules()):
        prefix = f"{path}." if path else ""
        own = {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}
        found = _parametrized(module, own) if isinstance(module, ParametrizationList) else _hooked(module, own)
        fills |= {prefix + name: fill for name, fill in found}
    return fills


def _parametrized(module: ParametrizationList, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if not masks:
        return
    training, kept = module.training, _kept(module, masks)
    module.eval()
    with torch.no_grad():
        dropped = ~functional_call(module, kept, ()).isfinite()
    module.train(training)
    names = [n for n, mask in masks.items() if mask.shape == dropped.shape]
    if bool(dropped.any()) and len(names) == 1:
        module.append(Dropped(dropped))
        yield names[0], _fill(dropped, masks[names[0]], kept[names[0]])


def _hooked(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Of ``torch.nn.utils.weight_norm`` and ``spectral_norm``, which compute the weight in a hook before each call."""
    for hook in list(module._forward_pre_hooks.values()):
        if not isinstance(hook, WeightNorm | SpectralNorm):
            continue
        name = hook.name + ("_v" if isinstance(hook, WeightNorm) else "_orig")
        if name not in masks:
            continue
        kept = _kept(module, masks)
        with torch.no_grad():
            dropped = ~masks[name].any().expand(masks[name].shape)
            if isinstance(hook, WeightNorm):
                gain = kept.get(f"{hook.name}_g", getattr(module, f"{hook.name}_g"))
                dropped = ~torch._weight_norm(kept[name], gain, hook.dim).isfinite()
        if bool(dropped.any()):
            module.register_buffer(f"{hook.name}_dropped", dropped.clone(), persistent=False)
            module.register_forward_pre_hook(partial(_drop, hook.name))
            yield name, _fill(dropped, masks[name], kept[name])


def _drop(name: str, module: nn.Module, inputs: Any) -> None:
    setattr(module, name, torch.where(getattr(module, f"{name}_dropped"), 0, getattr(module, name)))


def _kept(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's masked parameters, 0 where dropped."""
    parameters = dict(module.named_parameters())
    return {n: torch.where(m.to(parameters[n].device), parameters[n].detach(), 0) for n, m in masks.items() if n in parameters}


def _fill(dropped: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    return (dropped & ~mask.to(dropped.device)).to(like.dtype)
