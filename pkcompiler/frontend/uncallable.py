"""What to say of a model that cannot be called with its example inputs."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError, fail, first_few, typed_or_called
from pkcompiler.frontend.inputs import InputSpec, guess_input

SHAPE_ERRORS = (RuntimeError, IndexError, TypeError)
"""What torch raises where shapes, dtypes or the number of inputs do not fit."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, with its class where that says more than that shapes or dtypes do not fit."""
    first = next(iter(str(error).strip().splitlines()), "")
    return first if first and isinstance(error, SHAPE_ERRORS) else f"{type(error).__name__}: {first}"


def uncallable(model: nn.Module, inputs: tuple[Any, Any], error: BaseException) -> PkcError:
    """``PKC203``, with a likely input and the innermost line of the user's own files that led to the exception."""
    place = usercode.user_line(error)
    likely = guess_input(model) or InputSpec(None, torch.float32, (1, 3, 32, 32))
    give = typed_or_called(f"example_inputs, or --input such as {likely}", likely.call)
    notes = [_apart(model, pytree.tree_leaves(inputs)) or _together(model, error) or f"check the inputs first: {give}"]
    if place is not None:
        notes.append(f"or correct {place[0].name}, line {place[1]}")
    return fail(
        "PKC203",
        f"the model cannot be called with {_described(inputs)}: {first_line(error)}",
        *notes,
        span=None if place is None else usercode.span_of(*place),
        label="raised here",
    )


def _described(inputs: Any) -> str:
    """What the model was given: shapes where it is tensors, else each argument by its kind."""
    given = [*inputs[0], *inputs[1].values()]
    if all(isinstance(t, Tensor) for t in pytree.tree_leaves(inputs)):
        return f"inputs of shape {', '.join(str(tuple(t.shape)) for t in pytree.tree_leaves(inputs))}"
    return f"{len(given)} argument{'s' if len(given) > 1 else ''}, not all of them tensors ({first_few(list(map(_kind, given)))})"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Sized) and not isinstance(value, str | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)


def _together(model: nn.Module, error: BaseException) -> str | None:
    """What to do where a norm has nothing but the batch to take its statistics of, and the batch is one sample."""
    norms = [
        f"'{n}'" for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase) and not m.track_running_stats
    ]
    if not norms or "more than 1 value per channel" not in str(error):
        return None
    return f"give {first_few(norms)} statistics of its own: track_running_stats=True (those of the batch take two samples or more)"


def _apart(model: nn.Module, flat: list[Any]) -> str | None:
    """What to do where an input lies on another device than the model."""
    where = next((p.device for p in model.parameters()), None)
    other = next((t.device for t in flat if isinstance(t, Tensor) and t.device != where), None)
    return None if where is None or other is None else f"an input lies on {other}, the model on {where}: give x.to('{where}')"
