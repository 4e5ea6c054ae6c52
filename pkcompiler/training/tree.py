"""Trees of plain values and tensors as one safetensors file: nothing in it is ever run, and it is read back equal, bit for bit.

Numbers, texts, None, lists, tuples, sets, mappings (with keys of any of these), bytes, dtypes, devices, tensors and arrays.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.pruning.recipe import state_hash

FORMAT = "pkcompiler.training/2"
"""The one key of the metadata (several would be written in any order)."""
DIGEST = 64
"""The characters of the hash before the text."""
PLAIN = (type(None), bool, int, float, str)
DTYPES = {str(found): found for found in vars(torch).values() if isinstance(found, torch.dtype)}
SHAPES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def to_bytes(tree: Mapping[str, Any]) -> bytes:
    """A tree as the bytes of a file. Raises ``PKC457`` for what is neither a plain value nor a tensor."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(tree, tensors, ""))
    return tensor_bytes(tensors, {FORMAT: _digest(text, tensors) + text})


def from_bytes(content: bytes) -> dict[str, Any]:
    """The tree of a file's bytes. Raises ValueError for anything that :func:`to_bytes` has not written."""
    try:
        tensors = read_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__", {})
        if FORMAT not in metadata:
            raise ValueError(f"it is not in the format {FORMAT}")
        digest, text = metadata[FORMAT][:DIGEST], metadata[FORMAT][DIGEST:]
        if digest != _digest(text, tensors):
            raise ValueError("it is damaged: its hash is another")
        tree = _decoded(json.loads(text), tensors)
    except (SafetensorError, LookupError, TypeError, AttributeError, RecursionError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("no mapping")
    return tree


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the text and of every tensor: a flipped bit would be taken for a weight."""
    return sha256((text + state_hash(tensors)).encode()).hexdigest()


def _encoded(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) in PLAIN:
        return value
    match value:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        case np.ndarray() if value.dtype != object:
            return {"array": _encoded(torch.from_numpy(np.ascontiguousarray(value)), tensors, place)}
        case Counter():
            return {"counter": [[_encoded(k, tensors, place), n] for k, n in value.items()]}
        case Mapping():
            return {"map": [[_encoded(k, tensors, place), _encoded(v, tensors, f"{place}.{k}")] for k, v in value.items()]}
        case list() | tuple() | set() | frozenset():
            items = [_encoded(v, tensors, f"{place}[{i}]") for i, v in enumerate(value)]
            kind = next((word for word, shape in SHAPES.items() if isinstance(value, shape)), None)
            return {kind: items} if kind else items
        case bytes():
            return {"bytes": value.hex()}
        case torch.dtype():
            return {"dtype": str(value)}
        case torch.device():
            return {"device": str(value)}
        case int() | float() | str():
            return _encoded(_bare(value), tensors, place)
    raise fail(
        "PKC457",
        f"{place.lstrip('.') or 'the state'} is a {type(value).__name__}, which a checkpoint cannot hold",
        "its state_dict() should hold tensors, numbers, texts, lists and mappings of these",
    )


def _bare(value: int | float | str) -> int | float | str:
    """The plain value of an enumeration's member or another subclass."""
    return next(plain for plain in (int, float, str) if isinstance(value, plain))(value)


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "array":
            return _decoded(inner, tensors).numpy()
        case "counter":
            return Counter({_decoded(k, tensors): n for k, n in inner})
        case "map":
            return {_decoded(k, tensors): _decoded(v, tensors) for k, v in inner}
        case "bytes":
            return bytes.fromhex(inner)
        case "dtype":
            return DTYPES[inner]
        case "device":
            return torch.device(inner)
    return SHAPES[kind](_decoded(v, tensors) for v in inner)
