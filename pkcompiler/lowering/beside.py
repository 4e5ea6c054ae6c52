"""A recorded graph is run beside the model that it was recorded from: where they part in a few calls, the graph is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.frontend.faithful import left_alone, same_outputs
from pkcompiler.lowering.mutations import KEEP_CLASS
from pkcompiler.lowering.outside import ONLY_INPUTS, outputs, refuse_outside
from pkcompiler.lowering.trace import NotTraceable, Trace

CALLS = 3
"""In each mode. What is read after it was swapped shows in the third."""

WRITE = f"write into the buffer where the forward assigns it, self.name.copy_(...); or {KEEP_CLASS}"

Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def beside(model: nn.Module, traces: tuple[Trace, Trace], example: Call) -> None:
    """Raise :class:`NotTraceable` where a graph (of evaluation, of training) has other outputs or buffers than the model."""
    for training, trace in enumerate(traces):
        with left_alone(model):
            if found := _parted(model, trace, bool(training), example):
                raise NotTraceable(found[0].message)


def refuse_parted(model: nn.Module, traces: tuple[Trace, Trace], example: Call) -> None:
    """As :func:`beside`, but ``PKC279``, by the name of what the forward changes where that is found."""
    for training, trace in enumerate(traces):
        with left_alone(model):
            if found := _parted(model, trace, bool(training), example):
                otherwise, reference, again = found
                refuse_outside(reference, again, otherwise)


def _parted(
    model: nn.Module, trace: Trace, training: bool, example: Call
) -> tuple[Diagnostic, nn.Module, Callable[[], object]] | None:
    """How the graph parts from the model, if it does; a copy of the model, and what calls it once more."""
    reference = copy.deepcopy(model).train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about how it copies
        graph = copy.deepcopy(fx.GraphModule(trace.source, copy.deepcopy(trace.graph)))
    own = {name: buffer.detach().clone() for name, buffer in reference.named_buffers()}
    what = f"the forward of {type(model).__name__}"
    for seed in range(CALLS):
        call = partial(outputs, reference, *example, seed)
        try:
            expected = call()
        except (Exception, SystemExit):
            return None  # it is said by who calls the model
        when = f"in call {seed + 1}"
        try:
            found = outputs(graph, *example, seed)
        except PkcError:
            raise
        except Exception as error:
            return _other(f"the graph recorded of {what} fails {when}: {error}", ONLY_INPUTS), reference, call
        if not same_outputs(expected, found):
            message = f"{what} has another output {when} than the graph that was recorded of it"
            return _other(message, ONLY_INPUTS), reference, call
        kept: dict[str, Tensor] = {**own, **{n: b for n, b in graph.named_buffers() if n in own}}
        for name, buffer in reference.named_buffers():
            if name in kept and not same_outputs([buffer.detach()], [kept[name].detach()]):
                message = f"{what} changes the buffer {name!r} {when}, which the graph recorded of it does not"
                return _other(message, WRITE), reference, call
    return None


def _other(message: str, note: str) -> Diagnostic:
    return Diagnostic("PKC279", message, notes=(note,))
