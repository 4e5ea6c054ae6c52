"""Computed weights that a mask leaves 0/0 (docs/theory.md, section 1): rows of a weight norm without any kept weight are 0.

Dropped entries of such a row count as 1 where the weight is computed, and the row is 0 afterwards, so that no derivative is NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.ir.types import PathGraph
from pkcompiler.lowering.by_hand import undefined_by_hand
from pkcompiler.paths.computed import Made

NEVER_ZERO = "divide by what is never 0: torch.nn.functional.normalize(w, dim=1)"


class Dropped(nn.Module):
    """The last parametrization of a weight: 0 where nothing of it is kept."""

    def __init__(self, dropped: Tensor) -> None:
        super().__init__()
        self.register_buffer("dropped", dropped, persistent=False)
        self.dropped: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, 0 where ``dropped``."""
        return torch.where(self.dropped, 0, weight)


@dataclass(frozen=True, slots=True, eq=False)
class Undefined:
    """A weight that is computed in the module at ``path``, by ``hook`` or as a parametrization, from the parameter ``leaf``.

    ``dropped``: where it is 0/0; ``fill``: 1 where a dropped entry of the parameter is to count as 1.
    """

    path: str
    module: nn.Module
    leaf: str
    dropped: Tensor
    fill: Tensor
    hook: WeightNorm | SpectralNorm | None = None

    @property
    def name(self) -> str:
        """The parameter's name in the whole model."""
        return f"{self.path}.{self.leaf}" if self.path else self.leaf


def zero_rows(root: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the rows of computed weights 0 that would be 0/0; by parameter, 1 where a dropped entry is to count as 1."""
    fills = {}
    for found in _undefined(root, masks):
        if isinstance(found.module, ParametrizationList):
            found.module.append(Dropped(found.dropped))
        elif found.hook is not None:
            found.module.register_buffer(f"{found.hook.name}_dropped", found.dropped, persistent=False)
            found.module.register_forward_pre_hook(partial(_drop, found.hook.name))
        fills[found.name] = found.fill
    return fills


def undefined_faults(
    module: nn.Module, masks: Mapping[str, Tensor], result: object, mended: Collection[str] = ()
) -> Iterator[Diagnostic]:
    """``PKC462`` for every computed weight that masks leave 0/0 where nothing mends it.

    What a forward computes by its own code is found by :mod:`~pkcompiler.lowering.by_hand`; what cannot be recorded there is known
    of a result that holds its graph alone.

    :param result: where the masks are from.
    :param mended: parameters of which :func:`zero_rows` has taken care.
    """
    note = "lower(model, masks) makes them 0; or keep a weight of each: floor"
    named = set(mended)
    for found in () if mended else _undefined(module, masks):
        named.add(found.name)
        yield _fault(found.name, found.dropped, note)
    for name, dropped in undefined_by_hand(module, masks):
        if name not in named:
            named.add(name)
            yield _fault(name, dropped, NEVER_ZERO)
    graph, tensors = _recorded(result)
    for slot in () if graph is None else graph.computed:
        held = [name for name in slot.of if name in masks]
        if not held or named & set(slot.of):
            continue
        made = Made(slot)
        given = {n: torch.where(masks[n].cpu(), tensors[n].cpu(), 0) if n in masks else tensors[n].cpu() for n in slot.of}
        dropped = ~made.plain(given).isfinite() & made.value(given).isfinite()
        if bool(dropped.any()):
            yield _fault(held[0], dropped, NEVER_ZERO)


def _recorded(result: object) -> tuple[PathGraph | None, Mapping[str, Tensor]]:
    """The graph of a result and the tensors of its slots; nothing of an artifact whose graph this version does not read."""
    try:
        return getattr(result, "graph", None), getattr(result, "tensors", {})
    except PkcError:
        return None, {}


def _fault(name: str, dropped: Tensor, note: str) -> Diagnostic:
    rows = int(dropped.flatten(1).any(1).sum()) if dropped.dim() > 1 else int(dropped.sum())
    what = f"{rows:,} rows" if rows > 1 else "a row"
    return Diagnostic(
        "PKC462", f"nothing is kept of {what} of {name!r}, and the weight computed from it is 0/0 there", notes=(note,)
    )


def _undefined(root: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Undefined]:
    for path, module in list(root.named_modules()):
        prefix = f"{path}." if path else ""
        own = {name.removeprefix(prefix): mask for name, mask in masks.items() if name.startswith(prefix)}
        yield from (_parametrized if isinstance(module, ParametrizationList) else _hooked)(path, module, own)


def _parametrized(path: str, module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Undefined]:
    if not masks:
        return
    training, kept = module.training, _kept(module, masks)
    module.eval()
    with torch.no_grad():
        dropped = ~functional_call(module, kept, ()).isfinite()
    module.train(training)
    names = [n for n, mask in masks.items() if mask.shape == dropped.shape]
    if bool(dropped.any()) and len(names) == 1:
        yield Undefined(path, module, names[0], dropped, _fill(dropped, masks[names[0]], kept[names[0]]))


def _hooked(path: str, module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Undefined]:
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
            yield Undefined(path, module, name, dropped.clone(), _fill(dropped, masks[name], kept[name]), hook)


def _drop(name: str, module: nn.Module, inputs: Any) -> None:
    setattr(module, name, torch.where(getattr(module, f"{name}_dropped"), 0, getattr(module, name)))


def _kept(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's masked parameters, 0 where dropped."""
    parameters = dict(module.named_parameters())
    return {n: torch.where(m.to(parameters[n].device), parameters[n].detach(), 0) for n, m in masks.items() if n in parameters}


def _fill(dropped: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    return (dropped & ~mask.to(dropped.device)).to(like.dtype)
