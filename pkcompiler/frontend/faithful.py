"""A copy made by the user's own code computes what the model does: both are called with the example, and compared."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.copies import CORRECT, copied
from pkcompiler.frontend.export import bind_call, evaluating
from pkcompiler.frontend.precision import in_precision

COPYING = ("__deepcopy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__")
LIBRARIES = {"torch", "numpy", "pkcompiler", *sys.stdlib_module_names}

CLOSE = 1e-4
"""Of the largest entry: the same operations at another place of memory may round otherwise."""


def faithful_copy(model: nn.Module, example_inputs: Any) -> nn.Module:
    """:func:`~pkcompiler.frontend.copies.copied`, whose output at the example is the model's own, in evaluation mode.

    Only where the user's own code takes part in copying is there a doubt, and are both called: the copy first. Raises ``PKC213``
    where they differ, and the model does not differ from itself; else as ``copied`` does.
    """
    twin = copied(model)
    if not _has_own_copying(model):
        return twin
    try:
        own = _outputs(model, example_inputs)
    except PkcError:
        return twin  # it is said where the copy is called
    note = "give the copy every attribute that forward reads"
    try:
        other = _outputs(twin, example_inputs)
    except PkcError as error:
        why = error.diagnostics[0].message
        raise fail("PKC213", f"the copy of the model fails where the model runs: {why}", CORRECT, note) from error
    if not same_outputs(own, other) and same_outputs(own, _outputs(model, example_inputs)):
        raise fail("PKC213", "the copy of the model has another output at the example than the model itself", CORRECT, note)
    return twin


def faithful_in(model: nn.Module, example_inputs: Any, dtype: torch.dtype | None) -> nn.Module:
    """:func:`faithful_copy` in another precision."""
    twin = faithful_copy(model, example_inputs)
    return twin if dtype is None else in_precision(twin, dtype)


def _has_own_copying(model: nn.Module) -> bool:
    held = [v for m in model.modules() for v in (m, *pytree.tree_leaves(list(vars(m).values())))]
    kinds = {kind for value in held for kind in type(value).__mro__}
    return any(name in vars(kind) for kind in kinds if kind.__module__.split(".")[0] not in LIBRARIES for name in COPYING)


def _outputs(model: nn.Module, example_inputs: Any) -> list[Any]:
    """The flat outputs. The model is afterwards as it was before, but for what hangs below its attributes."""
    seen: list[Any] = []
    with left_alone(model), evaluating(model):
        handle = model.register_forward_hook(lambda module, args, output: seen.extend(pytree.tree_leaves(output)))
        try:
            bind_call(model, example_inputs)
        finally:
            handle.remove()
    return [value.detach().clone() if isinstance(value, Tensor) else value for value in seen]


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Afterwards the attributes of the modules are bound as before, and generators of random numbers draw what they would have."""
    held = {module: dict(vars(module)) for module in model.modules()}
    values = [value for attributes in held.values() for value in attributes.values()]
    restored: list[Callable[[], object]] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
    ]
    for source in values:
        match source:
            case torch.Generator():
                restored.append(partial(source.set_state, source.get_state()))
            case np.random.Generator():
                restored.append(partial(setattr, source.bit_generator, "state", source.bit_generator.state))
            case random.Random():
                restored.append(partial(source.setstate, source.getstate()))
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for module, attributes in held.items():
                vars(module).clear()
                vars(module).update(attributes)
            for restore in restored:
                restore()


def same_outputs(mine: list[Any], theirs: list[Any]) -> bool:
    """Whether flat outputs are the same but for rounding, NaN and infinities included."""
    return len(mine) == len(theirs) and all(map(_close, mine, theirs))


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()) or not a.numel():
        return torch.equal(a, b)
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True)
