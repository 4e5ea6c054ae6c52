"""Tensors that several processes hold together (``DTensor``: ``fully_shard``, ``parallelize_module``), and their masks.

What a tensor is elsewhere is never asked for: all is computed from the whole mask, which every process has.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import Diagnostic, fail

FULLY_SHARD = "shard with torch.distributed.fsdp.fully_shard(model), which masks follow, not with FullyShardedDataParallel"


def is_placed(tensor: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``; there is none before its module has been imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: the same memory."""
    placed: Any = tensor
    held: Tensor = placed.to_local() if is_placed(tensor) else tensor
    return held


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor can be read: not on the meta device, and not a gathered weight that was given back."""
    return not tensor.is_meta and local(tensor.detach()).untyped_storage().size() > 0


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, gathered from all processes where several hold it."""
    placed: Any = tensor
    full: Tensor = placed.full_tensor() if is_placed(tensor) else tensor
    return full


def part(mask: Tensor, tensor: Tensor, known: dict[object, Tensor]) -> Tensor:
    """The entries of ``mask`` that belong to ``local(tensor)``, on its device. ``known``: those computed before, by place."""
    placed: Any = tensor
    place = (tensor.device, placed.device_mesh, placed.placements) if is_placed(tensor) else tensor.device
    if place not in known:
        known[place] = _part(mask.to(tensor.device), tensor)
    return known[place]


def where_kept(mask: Tensor, tensor: Tensor) -> Tensor:
    """``tensor``, 0 where ``mask`` (of :func:`local`'s shape) drops; differentiable, and placed as ``tensor`` is."""
    if tensor.is_sparse:
        given = tensor.coalesce()
        values = torch.where(mask[tuple(given.indices())], given.values(), 0)
        return torch.sparse_coo_tensor(given.indices(), values, given.shape, is_coalesced=True, check_invariants=True)
    kept = torch.where(mask, local(tensor), 0)
    if not is_placed(tensor):
        return kept
    placed: Any = tensor
    result: Tensor = type(placed).from_local(
        kept, placed.device_mesh, placed.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
    return result


def is_flat(parameter: Tensor) -> bool:
    """Whether ``FullyShardedDataParallel`` keeps a parameter as a piece of a flat one, which has the gradient."""
    return bool(getattr(parameter, "_fsdp_flattened", False))


def keeps_flat(module: nn.Module) -> bool:
    """Whether ``FullyShardedDataParallel`` keeps parameters of a module flat, with (``use_orig_params``) or without their names."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(
        isinstance(part, fsdp.FullyShardedDataParallel) or getattr(part, "_fsdp_use_orig_params", None) is False
        for part in module.modules()
    )


def flat_fault(name: str) -> Diagnostic:
    """``PKC474`` for such a parameter."""
    message = f"parameter {name!r} is a piece of a flat one of FullyShardedDataParallel, on which no mask can be held"
    return Diagnostic("PKC474", message, notes=(FULLY_SHARD,))


def _part(mask: Tensor, tensor: Tensor) -> Tensor:
    if not is_placed(tensor):
        return mask
    from torch.distributed.tensor import Replicate, distribute_tensor

    placed: Any = tensor
    places = [Replicate() if p.is_partial() else p for p in placed.placements]
    try:
        return distribute_tensor(mask, placed.device_mesh, places, src_data_rank=None).to_local()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise fail(
            "PKC474",
            f"no mask can be placed as a parameter of {placed.placements} is: {next(iter(str(error).splitlines()), '')}",
            "shard with torch.distributed.fsdp.fully_shard(model)",
        ) from error
