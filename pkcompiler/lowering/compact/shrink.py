"""Modules of torch with fewer units: their tensors cut by index sets, their attributes as of a module made in that size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.lowering.compact.cuts import Cut

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
WHOLE_NORMS = (nn.LayerNorm, nn.RMSNorm)
KNOWN = frozenset(
    (nn.Linear, nn.Embedding, nn.PReLU, nn.GroupNorm, *CONVOLUTIONS, *TRANSPOSED, *BATCH_NORMS, *INSTANCE_NORMS, *WHOLE_NORMS)
)
"""Exact classes that have tensors and can be cut."""


def is_known(module: nn.Module) -> bool:
    """Whether a module can be cut: of one of these classes, with a weight of its own (none that ``weight_norm`` computes)."""
    return type(module) in KNOWN and "weight" in module._parameters


Cuts = Mapping[str, Cut]
"""By the name of a parameter or buffer, every name of a tied one."""


def shrunk(root: nn.Module, cuts: Cuts) -> None:
    """Cut every tensor of ``root`` that is not whole, in place; a tied one once."""
    made: dict[int, Tensor] = {}
    for path, module in list(root.named_modules()):
        own = {
            leaf: cuts[f"{path}.{leaf}" if path else leaf]
            for leaf in _leaves(module)
            if (f"{path}.{leaf}" if path else leaf) in cuts
        }
        if all(cut.is_whole for cut in own.values()):
            continue
        for leaf, cut in own.items():
            _replace(module, leaf, cut, made)
        if is_known(module):
            _resize(module, own)


def _leaves(module: nn.Module) -> list[str]:
    return [leaf for table in (module._parameters, module._buffers) for leaf, tensor in table.items() if tensor is not None]


def _replace(module: nn.Module, leaf: str, cut: Cut, made: dict[int, Tensor]) -> None:
    """The same kind of tensor with what is left; a parameter keeps whether it trains."""
    table: dict[str, Any] = module._parameters if leaf in module._parameters else module._buffers
    tensor = table[leaf]
    if id(tensor) not in made:
        part = cut.take(tensor.detach()).clone(memory_format=torch.contiguous_format)
        made[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part
    table[leaf] = made[id(tensor)]


def _resize(module: Any, cuts: Cuts) -> None:
    """The attributes that say sizes."""
    kind = type(module)
    if kind is nn.Linear:
        module.out_features, module.in_features = module.weight.shape
    elif kind is nn.Embedding:
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif kind in CONVOLUTIONS or kind in TRANSPOSED:
        module.groups = len(groups_left(module, cuts["weight"]))
        first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
        module.out_channels, module.in_channels = (second, first) if kind in TRANSPOSED else (first, second)
    elif kind in BATCH_NORMS or kind in INSTANCE_NORMS:
        module.num_features = next(iter(cuts.values())).sizes[0]
    elif kind is nn.GroupNorm:
        left = cuts["weight"].kept[0]
        width = module.num_channels // module.num_groups
        module.num_channels = module.weight.numel()
        module.num_groups = len(torch.unique(left // width)) if left is not None else module.num_groups
    elif kind in WHOLE_NORMS:
        module.normalized_shape = tuple(module.weight.shape)
    elif kind is nn.PReLU:
        module.num_parameters = module.weight.numel()


def groups_left(module: Any, weight: Cut) -> Tensor:
    """Which groups of a convolution, as it was made, are left: those of the kept channels of dimension 0."""
    size = weight.shape[0] // module.groups
    kept = torch.arange(weight.shape[0]) if weight.kept[0] is None else weight.kept[0]
    return torch.unique(kept // size)


def channels(module: Any, weight: Cut) -> tuple[Tensor | None, Tensor | None]:
    """The input and the output channels that are left of a convolution, ``groups`` as before; None: all."""
    turned = type(module) in TRANSPOSED
    first = weight.kept[0]
    if module.groups == 1:
        second = weight.kept[1]
    else:
        per_group = weight.shape[1]
        inner = torch.arange(per_group) if weight.kept[1] is None else weight.kept[1]
        second = (groups_left(module, weight)[:, None] * per_group + inner).flatten()
        if second.numel() == per_group * module.groups:
            second = None
    return (first, second) if turned else (second, first)
