"""Model specs: ``path/model.py[:name]`` or ``package.module:factory`` -> a module, with everything that a recipe records of it."""

from __future__ import annotations

import ast
import inspect
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.copies import refuse_valueless
from pkcompiler.frontend.precision import defaults
from pkcompiler.modes import keeping_default_device
from pkcompiler.usercode import UserSpec

RESERVED = ("example_inputs", "loss")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that a spec names. ``spec`` has no absolute path; ``sha256`` is that of the source file's bytes."""

    module: nn.Module
    name: str  # the stem of file or module: the default output folder starts with it
    spec: str
    source: Path | None
    python: ModuleType
    sha256: str
    factory: str = "model"  # the name in the file that was taken
    built: bool = False  # whether it is a module already
    dtype: torch.dtype = torch.float32  # torch's default, as the file has set it


def load_model(spec: str, args: Mapping[str, object] = MappingProxyType({}), seed: int = 0) -> LoadedModel:
    """Import the spec and build its model, with ``args`` for the factory (``--arg``).

    Without ``:name``: ``model``, else the only module-level ``nn.Module`` instance, function or ``nn.Module`` subclass that is
    defined there and can be called with ``args``. The seed (torch, numpy, random) is set before the file runs and again before
    the factory is called. Raises ``PkcError``: PKC240 no spec, PKC242 no such file, PKC243 the user's code raised, PKC244 the
    arguments do not fit, PKC245 no or several candidates, PKC246 no such name, PKC247 not a module,
    PKC248 torch's default device is set, PKC212 tensors without values.
    """
    parsed = usercode.parse_spec(spec)
    set_seed(seed)
    with keeping_default_device(f"'{parsed.place}'"):
        python = usercode.import_spec(parsed)
        source = usercode.source_of(python)
        name = parsed.name or _choose(python, source, parsed, args)
        module = _build(python, name, source, parsed, args, seed)
    refuse_valueless(module)
    built = isinstance(getattr(python, name), nn.Module)
    digest, dtype = usercode.source_hash(source), torch.get_default_dtype()
    return LoadedModel(module, parsed.stem, parsed.text, source, python, digest, name, built, dtype)


def rebuilt(loaded: LoadedModel, args: Mapping[str, object], seed: int) -> nn.Module:
    """The factory of a loaded model called once more, with another seed. Raises what :func:`load_model` raises of it."""
    folder = loaded.source.parent if loaded.source else Path()
    set_seed(seed)
    with defaults(loaded.dtype):
        built = usercode.call(getattr(loaded.python, loaded.factory), args, loaded.source, folder, loaded.factory)
    if not isinstance(built, nn.Module):
        raise _not_a_module(f"{loaded.factory}()", built)
    return built


def set_seed(seed: int) -> None:
    """Seed torch, numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _build(python: ModuleType, name: str, source: Path | None, spec: UserSpec, args: Mapping[str, object], seed: int) -> nn.Module:
    if not hasattr(python, name):
        known = [*_candidates(python, source), *(key for key in ("model",) if hasattr(python, key))]
        hint = usercode.nearest(name, known)
        raise fail("PKC246", f"{spec.place} has no '{name}'", hint or f"define {name}() there, returning an nn.Module")
    value = getattr(python, name)
    if isinstance(value, nn.Module):
        return _given(value, name, args)
    if not callable(value):
        raise _not_a_module(name, value)
    set_seed(seed)
    built = usercode.call(value, args, source, spec.folder, name)
    if not isinstance(built, nn.Module):
        raise _not_a_module(f"{name}()", built)
    return built


def _given(module: nn.Module, name: str, args: Mapping[str, object]) -> nn.Module:
    if not args:
        return module
    flags = " ".join(f"--arg {key}={value}" for key, value in args.items())
    raise fail("PKC244", f"'{name}' is a model already and takes no arguments", f"leave out {flags}")


def _not_a_module(label: str, value: object) -> PkcError:
    hint = f"make {label} {'return' if label.endswith(')') else 'be'} an nn.Module, or name another: model.py:name"
    return fail("PKC247", f"'{label}' is a {type(value).__name__}, not a torch.nn.Module", hint)


def _choose(python: ModuleType, source: Path | None, spec: UserSpec, args: Mapping[str, object]) -> str:
    """The one name that can be meant by a spec without a name."""
    if hasattr(python, "model"):
        return "model"
    candidates = _candidates(python, source)
    fitting = [name for name, value in candidates.items() if isinstance(value, nn.Module) or _binds(value, args)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        specs = [f"{spec.text}:{name}" for name in fitting]
        raise fail(
            "PKC245", f"{spec.text} holds {len(fitting)} possible models", *specs[1:], f"name one of them, such as {specs[0]}"
        )
    needing = [
        f"{spec.text}:{name} takes {name}{inspect.signature(value)}" for name, value in candidates.items() if callable(value)
    ]
    last = "give its arguments with --arg key=value" if needing else "add to it: def model(): return ..."
    raise fail("PKC245", f"{spec.text} holds no model that can be built without arguments", *needing, last)


def _candidates(python: ModuleType, source: Path | None) -> dict[str, object]:
    """Module instances, functions and module classes that are defined (not imported) at the top of the file, in order."""
    imported = _imported_names(source)
    return {
        name: value
        for name, value in vars(python).items()
        if not name.startswith("_") and name not in RESERVED and name not in imported and _is_model_like(value, python.__name__)
    }


def _is_model_like(value: object, home: str) -> bool:
    if isinstance(value, nn.Module):
        return True
    if inspect.isfunction(value):
        return value.__module__ == home and value.__annotations__.get("return", "") not in (None, "None")
    return inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == home


def _imported_names(source: Path | None) -> set[str]:
    """The names that the file's own top-level imports bind."""
    if source is None or source.suffix != ".py":
        return set()
    statements = ast.parse(source.read_bytes()).body
    aliases = [alias for node in statements if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return {alias.asname or alias.name.partition(".")[0] for alias in aliases}


def _binds(value: Any, args: Mapping[str, object]) -> bool:
    try:
        inspect.signature(value).bind(**args)
    except (TypeError, ValueError):
        return False
    return True
