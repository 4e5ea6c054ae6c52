"""The sparse file of a pruned state: of every masked parameter its kept values and one bit per entry; all else as it is.

A safetensors file. ``NAME:values`` holds the kept entries in order of position, ``NAME:kept`` the mask as bits, the first entry in
the highest bit (numpy's ``packbits``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

VALUES, KEPT = ":values", ":kept"


def pack(state: Mapping[str, Tensor], masks: Mapping[str, Tensor], names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of the sparse file. ``names``: the parameters that are packed (default: those with a mask); other masked ones
    are stored whole, with zeros."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        mask = masks[name].detach().cpu().bool() if name in masks else None
        if mask is None:
            out[name] = plain
        elif names is not None and name not in names:
            out[name] = plain.masked_fill(~mask, 0)
        else:
            out[name + VALUES] = plain[mask]
            out[name + KEPT] = torch.from_numpy(np.packbits(mask.numpy().reshape(-1)))
    return out


def unpack(packed: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The state again, pruned entries 0. ``shapes``: of the masked parameters."""
    out = {n: t for n, t in packed.items() if not n.endswith((VALUES, KEPT)) or n.rpartition(":")[0] not in shapes}
    for name, shape in shapes.items():
        values, bits = packed[name + VALUES], packed[name + KEPT].numpy()
        mask = torch.from_numpy(np.unpackbits(bits, count=math.prod(shape)).astype(bool)).reshape(shape)
        out[name] = torch.zeros(shape, dtype=values.dtype)
        out[name][mask] = values
    return out


class SparseSize:
    """The bytes of the sparse file of a state at any number of kept entries, without writing it."""

    def __init__(self, state: Mapping[str, Tensor], masked: Mapping[str, int]) -> None:
        empty = {n: torch.empty(0, dtype=t.dtype) for n, t in state.items() if n not in masked}
        for name in masked:
            empty |= {name + VALUES: torch.empty(0, dtype=state[name].dtype), name + KEPT: torch.empty(0, dtype=torch.uint8)}
        self.entries = _header(save(empty))  # the library's own order and names of element types
        self.width = {name: tensor.element_size() for name, tensor in empty.items()}
        self.shapes = {n: list(state[n].shape) for n in empty if n in state}
        self.shapes |= {n + KEPT: [-(-size // 8)] for n, size in masked.items()}

    def __call__(self, kept: Mapping[str, int]) -> int:
        """Bytes at so many kept entries of every masked parameter."""
        place, header = 0, {}
        for name, entry in self.entries.items():
            if name == "__metadata__":
                header[name] = entry
                continue
            shape = self.shapes[name] if name in self.shapes else [kept[name.removesuffix(VALUES)]]
            end = place + math.prod(shape) * self.width[name]
            header[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [place, end]}
            place = end
        text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
        return 8 + -(-text // 8) * 8 + place


def _header(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(content[8 : 8 + length])
    return found
