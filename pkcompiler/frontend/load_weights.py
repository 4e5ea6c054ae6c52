"""Weights from disk into a model, strictly: tensors only, every name and shape accounted for."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pkcompiler.diagnostics import Diagnostic, PkcError, fail, first_few, raise_all
from pkcompiler.files import barred
from pkcompiler.usercode import FILES, nearest

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)


def load_weights(module: nn.Module, path: str | Path) -> str:
    """Copy the tensors of ``path`` into ``module``; returns the sha256 of the file in hexadecimal.

    ``.safetensors``, or ``.pt``/``.pth``/``.bin`` with ``weights_only=True``. Every name and shape must agree, except that one
    name of a tied parameter is enough. On an error the module is left as it was. Raises ``PkcError``: PKC640 no such file or not
    readable, PKC641 holds pickled objects, PKC642 wrapped or prefixed (with the line that converts it), PKC643 missing, PKC644
    unexpected, PKC645 misshapen or complex entries (all reported at once).
    """
    path = Path(path)
    load_state(module, read_state(path), path)
    return sha256(path.read_bytes()).hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name. Raises ``PKC640``, ``PKC641`` and ``PKC642`` as :func:`load_weights`."""
    return _tensors(_read(path), path)


def load_state(module: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors that ``path`` held into a module. Raises ``PKC642`` to ``PKC645`` as :func:`load_weights`."""
    expected = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    raise_all(_differences(expected, found, path))
    module.load_state_dict(dict(found), strict=False)


def non_finite(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """The parameters and buffers that hold a NaN or an infinity, each with what it is (see :func:`odd_entries`)."""
    named = [*((n, p, "parameter") for n, p in module.named_parameters()), *((n, b, "buffer") for n, b in module.named_buffers())]
    return tuple((name, role) for name, tensor, role in named if bool(odd_entries(name, tensor, role).any()))


def not_finite(name: str, role: str) -> Diagnostic:
    """The ``PKC405`` of a parameter, buffer or constant."""
    return Diagnostic("PKC405", f"{role} '{name}' holds NaN or infinite values", notes=("load other weights, or initialise it",))


def odd_entries(name: str, tensor: Tensor, role: str) -> Tensor:
    """Where a tensor holds a NaN or an infinity. Beside parameters and running statistics -inf is no fault: masks of attention are
    written with it."""
    if not tensor.is_floating_point():
        return torch.zeros((), dtype=torch.bool, device=tensor.device)
    tensor = tensor.detach()
    finite = role == "parameter" or name.rpartition(".")[2].startswith("running_")
    return ~(tensor.isfinite() if finite else tensor < float("inf"))


def _read(path: Path) -> object:
    if os.path.isdir(path):
        raise _folder(path)
    if path.suffix not in SUFFIXES:
        raise fail(
            "PKC640", f"'{path}' is not a weights file", f"expected one of {' '.join(SUFFIXES)}", "try --weights model.safetensors"
        )
    if (fault := barred(path)) is not None:
        raise fail("PKC640", fault, "give a file of weights that can be read: --weights model.safetensors")
    if not os.path.isfile(path):
        beside = [file.name for file in path.parent.glob("*") if file.suffix in SUFFIXES] if os.path.isdir(path.parent) else []
        raise fail("PKC640", f"there is no file '{path}'", nearest(path.name, beside, FILES) or f"run 'ls {path.parent}'")
    try:
        if path.suffix == ".safetensors":
            return dict(sorted(load_safetensors(path.read_bytes()).items()))  # it gives them in any order
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _pickled(path, error) from None
    except Exception as error:  # a damaged file can make either reader raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        remedy = f"save it again: torch.save(model.state_dict(), '{path.with_suffix('.pt').name}')"
        raise fail("PKC640", f"'{path}' cannot be read: {reason}", remedy) from None


def _folder(path: Path) -> PkcError:
    """``PKC640`` for a folder, with the file of an artifact that holds weights."""
    files = sorted(file.name for file in path.glob("*") if file.suffix in SUFFIXES)
    if "weights.safetensors" in files:
        remedy = f"give the file in it: --weights {path / 'weights.safetensors'}"
    else:
        remedy = f"there are: {first_few([str(path / name) for name in files])}" if files else f"run 'ls {path}'"
    return fail("PKC640", f"'{path}' is a folder, not a weights file", remedy)


def _pickled(path: Path, error: Exception) -> PkcError:
    line = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
    notes = [line[:200]] if line else []
    return fail(
        "PKC641",
        f"'{path}' holds pickled objects, which could run code; they are never loaded",
        *notes,
        f"where the file was made, save tensors alone: torch.save(model.state_dict(), '{path.name}')",
    )


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The flat mapping of names to tensors, or the error that says how to get one."""
    if not isinstance(content, Mapping):
        raise fail(
            "PKC642",
            f"'{path}' holds a {type(content).__name__}, not a mapping of names to tensors",
            f"save it so: torch.save(model.state_dict(), '{path.name}')",
        )
    wrappers = [key for key, value in content.items() if _is_state(value)]
    if wrappers:
        key = "state_dict" if "state_dict" in wrappers else wrappers[0]
        line = f"torch.save(torch.load('{path}', weights_only=True)['{key}'], '{path.with_suffix('')}-plain.pt')"
        raise fail("PKC642", f"'{path}' wraps its weights in the key '{key}'", f'convert it: python -c "import torch; {line}"')
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise fail("PKC642", f"'{path}' holds entries that are not tensors: {', '.join(odd)}", "save model.state_dict() alone")
    return {str(key): value for key, value in content.items()}


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> list[Diagnostic]:
    if prefix := _extra_prefix(expected, found):
        return [_prefixed(path, prefix)]
    covered = {id(expected[name]) for name in found if name in expected}
    missing = [name for name, tensor in expected.items() if id(tensor) not in covered]
    unexpected = sorted((name for name in found if name not in expected), key=_numbered)
    shared = [(name, expected[name], found[name]) for name in expected if name in found]
    misshapen = [
        f"{name} is {_shape(have)}, the model's is {_shape(want)}"
        for name, want, have in shared
        if want.shape != have.shape or want.is_complex() != have.is_complex()
    ]
    last = "give the weights of this very model (and its --arg), or leave out --weights"
    if any(name.endswith("_mask") for name in unexpected):
        last = f"they hold masks of a network that is pruned already: pkc import MODEL --weights {path} -o DIR"
    kinds = (
        ("PKC643", f"'{path}' lacks {len(missing)} of the model's tensors", missing),
        ("PKC644", f"'{path}' holds {len(unexpected)} tensors that the model does not have", unexpected),
        ("PKC645", f"'{path}' holds {len(misshapen)} tensors of other shapes", misshapen),
    )
    return [
        Diagnostic(code, f"{message}: {first_few(names, between='; ')}", notes=(last,)) for code, message, names in kinds if names
    ]


def _numbered(name: str) -> list[tuple[int, str]]:
    """Sorts ``layers.2`` before ``layers.10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _shape(tensor: Tensor) -> str:
    return ("complex " if tensor.is_complex() else "") + ("x".join(map(str, tensor.shape)) or "a scalar")


def _extra_prefix(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """``module.`` where every name in the file has it and without it the names would be the model's."""
    for prefix in ("module.", "_orig_mod.", "model.", "network."):
        if found and all(name.startswith(prefix) for name in found):
            bare = {name.removeprefix(prefix) for name in found}
            if bare & expected.keys() and not found.keys() & expected.keys():
                return prefix
    return ""


def _prefixed(path: Path, prefix: str) -> Diagnostic:
    plain = f"{path.with_suffix('')}-plain{path.suffix}"
    if path.suffix == ".safetensors":
        read, write = f"load_file('{path}')", f"save_file(s, '{plain}')"
        imports = "from safetensors.torch import load_file, save_file"
    else:
        read, write, imports = f"torch.load('{path}', weights_only=True)", f"torch.save(s, '{plain}')", "import torch"
    line = f"s = {{k.removeprefix('{prefix}'): v for k, v in {read}.items()}}; {write}"
    origin = (
        " (saved from DataParallel or DDP)"
        if prefix == "module."
        else " (saved from torch.compile)"
        if prefix == "_orig_mod."
        else ""
    )
    return Diagnostic(
        "PKC642",
        f"every name in '{path}' starts with '{prefix}'{origin}, the model's do not",
        notes=(f'convert it: python -c "{imports}; {line}"',),
    )
