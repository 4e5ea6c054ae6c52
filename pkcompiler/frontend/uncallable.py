"""What to say of a model that cannot be called with its example inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler import usercode
from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.frontend.inputs import InputSpec, guess_input

SHAPE_ERRORS = (RuntimeError, IndexError, TypeError)
"""What torch raises where shapes, dtypes or the number of inputs do not fit."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, with its class where that says more than that shapes or dtypes do not fit."""
    first = next(iter(str(error).strip().splitlines()), "")
    return first if first and isinstance(error, SHAPE_ERRORS) else f"{type(error).__name__}: {first}"


def uncallable(model: nn.Module, flat: Sequence[Any], error: BaseException) -> PkcError:
    """``PKC203``, with a likely input and the innermost line of the user's own files that led to the exception."""
    shapes = ", ".join(f"{tuple(t.shape)}" if isinstance(t, Tensor) else repr(t) for t in flat)
    place = usercode.user_line(error)
    likely = guess_input(model) or InputSpec(None, torch.float32, (1, 3, 32, 32))
    give = typed_or_called(f"example_inputs, or --input such as {likely}", likely.call)
    notes = [_apart(model, flat) or f"check the inputs first: {give}"]
    if place is not None:
        notes.append(f"or correct {place[0].name}, line {place[1]}")
    return fail(
        "PKC203",
        f"the model cannot be called with inputs of shape {shapes}: {first_line(error)}",
        *notes,
        span=None if place is None else usercode.span_of(*place),
        label="raised here",
    )


def _apart(model: nn.Module, flat: Sequence[Any]) -> str | None:
    """What to do where an input lies on another device than the model."""
    where = next((p.device for p in model.parameters()), None)
    other = next((t.device for t in flat if isinstance(t, Tensor) and t.device != where), None)
    return None if where is None or other is None else f"an input lies on {other}, the model on {where}: give x.to('{where}')"
