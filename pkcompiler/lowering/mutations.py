"""What a forward changes beside what it returns: a graph writes buffers as the forward does, all else is refused by name."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MethodType

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.copies import PLAIN
from pkcompiler.lowering.placed import has_memory, is_placed
from pkcompiler.lowering.reached import is_own

KEEP_CLASS = "keep its class: pkcompiler.apply_masks(model, masks)"
FILL_FIRST = "if it is a constant that the first call fills, call the model once before: model(x)"
OF_TORCH = frozenset(vars(nn.Module())) - {"training"}
"""What every module has. Of its tables those of parameters, buffers and modules are looked at by their entries."""

OF_FX = "_tensor_constant"
"""How the names begin that a trace gives to tensors which it finds, on the module that it traces."""

REDUCED = ("builtins", "itertools", "array")
"""The modules of objects that hold no attributes, but tell a copy what they hold."""

_NONE = (type(None), repr(None))
"""The mark of an attribute that is not filled yet."""


@dataclass(frozen=True, slots=True)
class State:
    """Marks of all that the modules of a model hold, by module and attribute; ``seen``: what the marks are of, kept alive."""

    marks: Mapping[tuple[str, str], object]
    seen: Mapping[int, tuple[object, object]]


def state_of(model: nn.Module) -> State:
    """The state now, to be compared with the one after a run of the forward."""
    seen: dict[int, tuple[object, object]] = {}
    marks = {(path, name): mark(value, seen) for path, module in model.named_modules() for name, value in _attributes(module)}
    return State(marks, seen)


def refuse_changes(model: nn.Module, before: State) -> None:
    """Raise ``PKC279`` for every attribute that a run of the forward has changed, but for the values of buffers."""
    raise_all(_changes(model, before.marks, state_of(model).marks))


def _changes(
    model: nn.Module, before: Mapping[tuple[str, str], object], after: Mapping[tuple[str, str], object]
) -> Iterator[Diagnostic]:
    for place in {**before, **after}:
        if before.get(place) == after.get(place):
            continue
        path, name = place
        owner = f"module {path!r}" if path else type(model).__name__
        note = KEEP_CLASS
        value = vars(dict(model.named_modules()).get(path, model)).get(name)
        if isinstance(value, Tensor | fx.Proxy | int | float):
            note = f"make it a buffer, which a graph keeps: self.register_buffer({name!r}, ...); or {KEEP_CLASS}"
        filled = (FILL_FIRST,) if before.get(place, _NONE) == _NONE else ()
        message = f"the forward changes {name!r} of {owner}, which a lowered graph would not"
        yield Diagnostic("PKC279", message, notes=(note, *filled))


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What is compared: attributes, and which parameters, buffers and modules there are; not what a norm's hook computes."""
    hooks = module._forward_pre_hooks.values()
    computed = {hook.name for hook in hooks if isinstance(hook, WeightNorm | SpectralNorm)}
    for name, value in vars(module).items():
        if name not in OF_TORCH | computed and not name.startswith(OF_FX):
            yield name, value
    yield from ((name, id(value)) for name, value in module._modules.items())
    yield from ((name, _weight_mark(value)) for name, value in module._parameters.items())
    yield from ((name, value is None) for name, value in module._buffers.items())


def mark(value: object, seen: dict[int, tuple[object, object]]) -> object:
    """Equal for what has not changed: plain values by their text, tensors by identity and values, the rest by what it holds."""
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if id(value) not in seen:
        seen[id(value)] = value, "within itself"
        seen[id(value)] = value, _mark_anew(value, seen)
    return seen[id(value)][1]


def _mark_anew(value: object, seen: dict[int, tuple[object, object]]) -> object:
    match value:
        case Tensor():
            return _tensor_mark(value)
        case torch.Generator():
            return value.get_state().numpy().tobytes()
        case np.ndarray() if value.dtype != object:
            return value.shape, str(value.dtype), _digest(value)
        case np.random.Generator():
            return mark(value.bit_generator.state, seen)
        case np.random.RandomState():
            return mark(value.get_state(legacy=False), seen)
        case random.Random() if not isinstance(value, random.SystemRandom):
            return value.getstate()
        case dict():
            return tuple((mark(k, seen), mark(v, seen)) for k, v in value.items())
        case list() | tuple() | deque():
            return type(value), tuple(mark(v, seen) for v in value)
        case set() | frozenset():
            return frozenset(mark(v, seen) for v in value)
        case MethodType():
            return id(value.__func__), mark(value.__self__, seen)
        case functools.partial():
            return mark((value.func, value.args, value.keywords), seen)
        case nn.Module() | type() | fx.Proxy() | fx.Graph() | fx.Node() | logging.Logger():
            return id(value)
    held = {**getattr(value, "__dict__", {}), **_slots(value)}
    if held:
        return type(value), tuple((name, mark(v, seen)) for name, v in held.items())
    return mark(_reduced(value), seen) if type(value).__module__ in REDUCED else id(value)


def _slots(value: object) -> dict[str, object]:
    """What an object of the user's own holds in slots."""
    own = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__ if is_own(kind)]
    names = [name for slots in own for name in ([slots] if isinstance(slots, str) else slots)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _reduced(value: object) -> object:
    """Where an iterator or a generator of random numbers stands, as it would tell a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # iterators of itertools are copied up to Python 3.13
        try:
            return value.__reduce_ex__(2)
        except TypeError:
            return id(value)


def _tensor_mark(tensor: Tensor) -> object:
    """Its values too: writes to ``.data`` count no version."""
    version = 0 if tensor.is_inference() else tensor._version
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or not has_memory(tensor) or tensor.layout != torch.strided:
        return id(tensor), version
    values = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return id(tensor), version, tensor.data_ptr(), _digest(values.view(torch.uint8).numpy())


def _weight_mark(parameter: nn.Parameter | None) -> object:
    """As of any tensor, but by the sum, on its own device. A version is no change: what a graph writes is looked at there."""
    if parameter is None or is_lazy(parameter) or is_placed(parameter) or not has_memory(parameter):
        return id(parameter)
    total = parameter.detach().sum(dtype=torch.complex128 if parameter.is_complex() else torch.float64)
    return id(parameter), parameter.data_ptr(), repr(total.item())


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).data).digest()
