"""Removing units for real, with plain torch: slices of parameters and buffers, and the attributes of modules that hold widths.

A unit is given as *atoms* (name of a parameter or buffer, dimension, index). Knows nothing of how groups are found.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

Atom = tuple[str, int, int]


def atoms_of(group) -> frozenset[Atom]:
    """The atoms of a group."""
    return frozenset((m.parameter, m.axis, i) for m in (*group.members, *group.buffers) for i in m.indices)


def sliced(module: nn.Module, atoms: Iterable[Atom]) -> nn.Module:
    """A copy without these atoms. Modules that keep a width beside their weights are told the new one."""
    found = copy.deepcopy(module)
    gone: dict[str, dict[int, set[int]]] = {}
    for name, axis, index in atoms:
        gone.setdefault(name, {}).setdefault(axis, set()).add(index)
    stored = dict(found.named_parameters()) | dict(found.named_buffers())
    with torch.no_grad():
        for name, axes in gone.items():
            tensor: Tensor = stored[name].data
            for axis, indices in axes.items():
                keep = torch.tensor([i for i in range(stored[name].shape[axis]) if i not in indices], dtype=torch.int64)
                tensor = tensor.index_select(axis, keep)
            stored[name].data = tensor
    _retell(found, module)
    return found


def _retell(found: nn.Module, before: nn.Module) -> None:
    old = dict(before.named_modules())
    for name, module in found.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups > 1:
            first = old[name].weight.shape[0] // old[name].groups
            module.groups = max(1, module.weight.shape[0] // first)
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)


def zeroed(module: nn.Module, atoms: Iterable[Atom]) -> nn.Module:
    """A copy whose parameters are 0 at these atoms; buffers stay as they are."""
    found = copy.deepcopy(module)
    parameters = dict(found.named_parameters())
    with torch.no_grad():
        for name, axis, index in atoms:
            if name in parameters:
                parameters[name].select(axis, index).zero_()
    return found


def outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
    """The output, None where the module cannot run."""
    try:
        with torch.no_grad():
            return module(*inputs)
    except (RuntimeError, ValueError, IndexError):
        return None


def removable(module: nn.Module, inputs: tuple[Tensor, ...], atoms: frozenset[Atom]) -> bool:
    """Whether the module without these atoms runs, and returns what it returns with zeros in their place."""
    without = outputs(sliced(module, atoms), inputs)
    if without is None:
        return False
    masked = outputs(zeroed(module, atoms), inputs)
    assert masked is not None
    return without.shape == masked.shape and torch.allclose(without, masked, rtol=1e-9, atol=1e-12)
