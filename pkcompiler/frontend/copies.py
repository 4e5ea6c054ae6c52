"""Copies of a model, which analyses change instead of the model: that there is one, and that it is the model."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pkcompiler import usercode
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, first_few, raise_all, remark

CORRECT = "correct its __deepcopy__ or __setstate__: the copy must be the model"
WHOLE = (
    "analyse and prune the model before fully_shard(model), which keeps the masks that it has",
    "or compute the masks of a whole model of its class and weights: pkcompiler.apply_masks(model, masks)",
)
PLAIN = (type(None), bool, int, float, complex, str, bytes)
LEFT_TO_TORCH = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy; tensors computed from parameters and kept as attributes (``nn.utils.weight_norm``) or buffers lose their
    history.

    ``memo``: that of ``copy.deepcopy``. Raises ``PKC213`` where there is no copy, or one with other weights; warns of attributes
    that the copy lacks, and of generators of random numbers that it has in another state.
    """
    held = (v for m in model.modules() for v in (*vars(m).values(), *m._buffers.values()))
    shared = {} if memo is None else memo
    shared |= {id(v): v.detach().clone() for v in held if isinstance(v, Tensor) and not v.is_leaf and id(v) not in shared}
    try:
        twin = copy.deepcopy(model, shared)
    except Exception as error:  # whatever __deepcopy__ or __reduce_ex__ of the user's raises
        raise _uncopyable(model, error) from error
    raise_all(_changed(model, twin))
    for lost in _lost(model, twin):
        remark(f"analyses work on a copy of the model, and {lost}: what depends on it is the copy's")
    return twin


def copied_unseen(model: nn.Module) -> nn.Module:
    """:func:`copied`, for callers without an example at which outputs could be compared
    (:func:`~pkcompiler.frontend.faithful.faithful_copy` does): warns of numbers and texts that the copy has another value of.
    """
    twin = copied(model)
    for other in _other_values(model, twin):
        remark(f"the copy that is lowered has {other}; give example_inputs, at which the outputs are compared")
    return twin


def refuse_valueless(model: nn.Module) -> None:
    """Raise ``PKC212`` for parameters and buffers that hold no values, all at once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    meta = [name for name, tensor in named if not is_lazy(tensor) and tensor.is_meta]
    found = []
    if lazy:
        found.append(
            _without_values(lazy, "no shape yet: their module is lazy and has not been called", "call the model once: model(x)")
        )
    if meta:
        remedy = "model.to_empty(device='cpu'), then load_state_dict(...) or initialise it"
        found.append(_without_values(meta, "no values: they are on the meta device", remedy))
    raise_all(found)


def _without_values(names: list[str], why: str, remedy: str) -> Diagnostic:
    return Diagnostic("PKC212", f"{len(names)} parameters and buffers have {why}: {first_few(names)}", notes=(remedy,))


def _uncopyable(model: nn.Module, error: Exception) -> PkcError:
    """``PKC213`` of a model without a copy: the module and the attribute that refuse, and the user's line."""
    if _is_sharded(model):
        return fail(
            "PKC213", "the model is sharded over processes, of which torch gives no copy, and analyses work on a copy", *WHOLE
        )
    place = usercode.user_line(error)
    where = next(_refusing(model), f"'{type(model).__name__}'")
    return fail(
        "PKC213",
        f"the model cannot be copied, and analyses work on a copy: {where} raised {type(error).__name__}: {error}",
        "let the module give a copy without it: def __deepcopy__(self, memo)",
        "or give pkcompiler a model without it: set it after the analysis",
        span=None if place is None else usercode.span_of(*place),
        label="raised here",
    )


def _is_sharded(model: nn.Module) -> bool:
    """Whether ``fully_shard`` or ``FullyShardedDataParallel`` holds the model; nothing is before their module has been imported."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(m, fsdp.FSDPModule | fsdp.FullyShardedDataParallel) for m in model.modules())


def _refusing(model: nn.Module) -> Iterator[str]:
    """The attributes that cannot be copied, each with its module."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in LEFT_TO_TORCH:
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                yield f"attribute '{name}' of {_module(path, module)} (a {type(value).__name__})"


def _changed(model: nn.Module, twin: nn.Module) -> list[Diagnostic]:
    """``PKC213`` where the copy is another model: another class, other parameters or buffers, or other values in them."""
    if type(twin).__name__ != type(model).__name__:  # a graph module has a class of its own, and so has its copy
        return [Diagnostic("PKC213", f"the copy of the model is a {type(twin).__name__}", notes=(CORRECT,))]
    mine, other = _state(model), _state(twin)
    names = [n for n in mine.keys() | other.keys() if n not in mine or n not in other or not same_values(mine[n], other[n])]
    if not names:
        return []
    shown = first_few(sorted(names))
    return [Diagnostic("PKC213", f"the copy of the model has other parameters or buffers: {shown}", notes=(CORRECT,))]


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, NaNs at the same places included."""
    if is_lazy(a) or is_lazy(b):
        return is_lazy(a) and is_lazy(b)
    if a.shape != b.shape or a.dtype != b.dtype or a.is_meta:
        return a.shape == b.shape and a.dtype == b.dtype
    a, b = a.detach(), b.detach()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _lost(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """What the copy lacks beside parameters and buffers, in words."""
    twins = dict(twin.named_modules())
    for path, module in model.named_modules():
        here = vars(twins.get(path, module))
        lacking = [name for name in vars(module) if name not in here]
        if lacking:
            yield f"that of {_module(path, module)} lacks {first_few([repr(n) for n in lacking])}"
        for name in (n for n, v in vars(module).items() if n in here and _drawing(v) != _drawing(here[n])):
            yield f"the generator '{name}' of {_module(path, module)} has another state there"


def _other_values(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """Attributes of numbers or texts that are others in the copy, in words."""
    twins = dict(twin.named_modules())
    for path, module in model.named_modules():
        here = vars(twins.get(path, module))
        for name, value in vars(module).items():
            if isinstance(value, PLAIN) and name in here and repr(here[name]) != repr(value):
                yield f"{name} = {here[name]!r} in {_module(path, module)}, where the model has {value!r}"


def _drawing(value: Any) -> Any:
    """The state of a generator of random numbers, comparable; None for anything else."""
    match value:
        case torch.Generator():
            return value.get_state().tolist()
        case random.Random():
            return value.getstate()
        case np.random.Generator():
            return repr(value.bit_generator.state)
        case np.random.RandomState():
            return repr(value.get_state())
    return None


def _module(path: str, module: nn.Module) -> str:
    return f"'{path}'" if path else f"'{type(module).__name__}'"
