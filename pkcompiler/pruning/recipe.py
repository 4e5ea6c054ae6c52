"""The recipe of a run: everything that its masks are a function of. One hash; two recipes can be told apart in words."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkcompiler.version import __version__

LABELS = {
    "model.source": "the model's source file",
    "model.weights": "the weights",
    "model.graph": "the model's path graph",
    "model.inputs": "the inputs",
    "model.args": "the arguments (--arg)",
    "model.seed": "the seed of the initialisation",
    "schedule": "the schedule",
    "data": "the data",
    "loss": "the loss",
    "batch": "the batch size",
    "dtype": "the dtype",
    "device": "the device",
    "threads": "the number of threads",
}


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """sha256 of the recipe as JSON with sorted keys."""
    return sha256(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of everything that can change a number."""
    return {
        "pkcompiler": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "safetensors": version("safetensors"),
    }


def state_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, by name."""
    digest = sha256()
    for name in sorted(state):
        plain = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line per entry in which two recipes differ; hashes are not shown, and of a schedule the lines that changed are."""
    left, right = _flat(before), _flat(now)
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return [line for key in keys for line in _difference(key, left.get(key), right.get(key))]


def _difference(key: str, before: Any, now: Any) -> list[str]:
    label = LABELS.get(key, key)
    if key == "schedule":
        return _changed_lines(str(before), str(now))
    if _is_hash(before) or _is_hash(now):
        return [f"{label} {'changed' if before and now else 'was not there' if now else 'is no longer there'}"]
    return [f"{label}: {_shown(before)} before, {_shown(now)} now"]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _changed_lines(before: str, now: str) -> list[str]:
    old, new = (list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())) for text in (before, now))
    gone, come = [line for line in old if line not in new], [line for line in new if line not in old]
    pairs = [(_at(gone, i), _at(come, i)) for i in range(max(len(gone), len(come)))]
    found = [f"the schedule: {was} before, {comes} now" for was, comes in pairs]
    return found[:4] + ([f"the schedule: {len(found) - 4} more lines"] if len(found) > 4 else []) or ["the order of the schedule"]


def _at(lines: list[str], i: int) -> str:
    return f"'{lines[i]}'" if i < len(lines) else "nothing"


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
