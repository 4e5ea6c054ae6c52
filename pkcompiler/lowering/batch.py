"""The batch of a call: dimension 0 of its inputs, and how ``torch.export`` is told that it may be of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection
from torch.utils._pytree import tree_leaves, tree_map


def batch_of(inputs: Any) -> int | None:
    """Dimension 0 of the first input that has one."""
    return next((leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), None)


def is_batched(leaf: object, batch: int | None) -> bool:
    """Whether a value is a tensor with a row for each sample."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch


def without_one(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs with two rows in place of one, which torch would take for a constant."""
    if batch_of((args, kwargs)) != 1:
        return args, dict(kwargs)
    return tree_map(lambda x: torch.cat([x, x]) if is_batched(x, 1) else x, (args, dict(kwargs)))


def free_batch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``dynamic_shapes`` under which the batch may be of any size."""
    shapes, batch = ShapesCollection(), batch_of((args, kwargs))
    for leaf in tree_leaves((args, kwargs)):
        if is_batched(leaf, batch):
            shapes[leaf] = {0: Dim.AUTO}
    return shapes.dynamic_shapes(model, args, kwargs)
