"""State that is kept outside of the modules (by a class, a global name, an enclosing function), which no graph records.

What a forward counts there and never reads, and what it caches there, changes no output: it is left alone. So a forward is run, or
recorded, twice from the same state of the model; only where the two differ is it asked what has changed. What shows later than in
the second call is not seen.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.faithful import left_alone, same_outputs
from pkcompiler.lowering.mutations import KEEP_CLASS, mark, refuse_changes, state_of
from pkcompiler.lowering.reached import reached

BUFFER = f"make it a buffer of the module, which a graph keeps: self.register_buffer(...); or {KEEP_CLASS}"
ONLY_INPUTS = f"let the forward depend on inputs, parameters and buffers alone; or {KEEP_CLASS}"


def refuse_unrepeatable(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ``PKC279`` where the output at the example is another the second time, from the same buffers and random states.

    In both modes, on copies. A mode in which the model cannot be called is left to who records it.
    """
    with left_alone(model):
        for training in (False, True):

            def run(training: bool = training) -> list[Any]:
                return outputs(copy.deepcopy(model).train(training), args, kwargs, 0)

            try:
                alike = same_outputs(run(), run())
            except (Exception, SystemExit):
                continue
            if not alike:
                refuse_outside(model, run)


def refuse_outside(model: nn.Module, again: Callable[[], object], otherwise: Diagnostic | None = None) -> None:
    """Raise ``PKC279`` for all that a call of ``again``, one more run of the forward, changes within the modules or outside.

    ``otherwise``: what is said where nothing is found; default: that the output is another each time.
    """
    state, before = state_of(model), _marks(model)
    again()
    refuse_changes(model, state)
    after = _marks(model)
    changed = [place for place in before if place in after and before[place] != after[place]]
    raise_all(
        Diagnostic("PKC279", f"the forward changes {name!r} of {owner}, which a lowered graph would not", notes=(BUFFER,))
        for owner, name in changed
    )
    message = f"the forward of {type(model).__name__} computes something else each time it is called, from one state of the model"
    raise_all([otherwise or Diagnostic("PKC279", message, notes=(ONLY_INPUTS,))])


def _marks(model: nn.Module) -> dict[tuple[str, str], object]:
    seen: dict[int, tuple[object, object]] = {}
    values = {**reached(model).values, ("the process", "os.environ"): dict(os.environ)}
    return {place: mark(value, seen) for place, value in values.items()}


def outputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int) -> list[Any]:
    """The flat outputs of a call with copies of what is given, where random numbers are drawn from ``seed``."""
    tensors = {id(v): v.detach().clone() for v in tree_leaves((args, dict(kwargs))) if isinstance(v, Tensor)}
    given, named = copy.deepcopy((args, dict(kwargs)), dict(tensors))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)  # a draw of Python's is told when the forward is recorded
        found = tree_leaves(model(*given, **named))
    return [value.detach().clone() if isinstance(value, Tensor) else value for value in found]
