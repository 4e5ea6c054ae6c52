"""One call from a model to everything the analyses need: the program, the path graph, and the tensors of its slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import PkcError, fail, first_few, remark, typed_or_called
from pkcompiler.frontend.copies import refuse_valueless
from pkcompiler.frontend.equal.forms import make_equal
from pkcompiler.frontend.export import Call, Program, bind_call, example_batch, export_program, normalise_inputs
from pkcompiler.frontend.faithful import faithful_in
from pkcompiler.frontend.hooks import hooked_parameters
from pkcompiler.frontend.inputs import Inputs
from pkcompiler.frontend.lift.lift import lift_program
from pkcompiler.frontend.lift.lifted import Lifted
from pkcompiler.frontend.one_sample import one_sample, refuse_counting
from pkcompiler.frontend.precision import cast, check_dtype, in_order, is_ready, refuse_complex, state_of
from pkcompiler.frontend.stops import gradient_stops
from pkcompiler.ir.types import PathGraph
from pkcompiler.modes import in_own_modes


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """A model, traced and lifted. ``module`` is the model given, or its copy in another precision or with its entries in order of
    position (see :func:`capture`); ``tensors`` its slots'.

    Where no trace leaves the batch free, the program is that of one sample (:mod:`pkcompiler.frontend.one_sample`).
    ``hooked``: the parameters of the model given that carry gradient hooks which are not pkcompiler's own. ``stops``: the places
    where the model cuts gradients (:mod:`pkcompiler.frontend.stops`).
    """

    module: nn.Module
    call: Call
    program: Program
    lifted: Lifted
    tensors: dict[str, Tensor]
    hooked: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()

    def example_for(self, model: nn.Module) -> Inputs:
        """The example inputs in the precision of ``model``, of which this is a capture in another one, maybe."""
        floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        return cast_inputs(Inputs(*self.call.arguments(self.call.flat)), floating)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What figures of this capture depend on, in sentences."""
        found = []
        if self.recorded:
            found.append("the model branches on the values of its tensors: the execution at the example inputs was recorded")
        if outside := self.lifted.observed_only:
            found.append(f"on no path: {len(outside)} parameters that enter through recorded factors alone, first '{outside[0]}'")
        if self.stops:
            certify = typed_or_called("pkc certify MODEL", "certify(model, x)")
            found.append(f"gradients stop at {first_few(self.stops)}, and paths go through: {certify} names the parameters")
        if self.whole:
            found.append(f"outputs depend on several of the {self.static_batch} rows of the input: all of it counts as one sample")
        elif not self.batched:
            found.append("the model fixes its batch size: everything is of one sample, and data run through it one by one")
        return tuple(found)

    @property
    def graph(self) -> PathGraph:
        """The path graph."""
        return self.lifted.graph

    @property
    def watched(self) -> frozenset[str]:
        """The values and parameters that recorded factors are computed from."""
        return self.lifted.watched

    @property
    def batched(self) -> bool:
        """Whether the trace leaves dimension 0 of the inputs free."""
        return self.program.batched

    @property
    def recorded(self) -> bool:
        """Whether the model branches on its data, so that the graph is what it did at the example."""
        return self.program.recorded

    @property
    def frozen(self) -> frozenset[str]:
        """The parameters that do not train."""
        return frozenset(name for name, parameter in self.module.named_parameters() if not parameter.requires_grad)

    @property
    def whole(self) -> bool:
        """Whether all that the model is given is one sample, because its dimension 0 is no batch of separate samples."""
        return self.static_batch > 1

    @property
    def static_batch(self) -> int:
        """The number of rows that one sample takes: 1, but for a model whose dimension 0 is no batch of separate samples: there all
        that it is given is one sample."""
        return 1 if self.batched else example_batch(self.call.flat)


@in_own_modes
def capture(
    model: nn.Module,
    example_inputs: Any,
    *,
    dtype: torch.dtype | None = None,
    output: str | int | None = None,
    gates: Sequence[str] = (),
    name: str = "model",
) -> Capture:
    """Trace and lift a model in evaluation mode (in ``dtype``: a copy, the model itself is never changed).

    What lies in memory in another order than that of its positions (``channels_last``, transposed, expanded) is laid out anew in a
    copy, so that scores are those of the contiguous model, to the bit.

    In ``dtype`` means throughout (docs/theory.md, section 1): parameters, buffers, tensors among the modules' attributes and inputs
    are converted, and in every run of the copy a cast to any floating dtype, up or down, is one to ``dtype``, which is also what
    numbers of no dtype of their own are made in. So ``.float()`` costs no digits in float64, and with float32 ``.double()`` gains
    none. ``torch.finfo`` answers for the dtype that it is asked of. With None the model runs as it says.

    Raises PkcError: ``PKC203``-``PKC206`` for models that cannot be called or traced, ``PKC201``/``PKC202`` from the lift,
    ``PKC209`` for complex parameters.
    """
    if not isinstance(model, nn.Module):
        raise fail(
            "PKC207", f"expected a torch.nn.Module, not {type(model).__name__}", "pass the module itself, e.g. lift(Net(), x)"
        )
    if dtype is not None:
        check_dtype(dtype)
    given, hooked = model, hooked_parameters(model)
    refuse_valueless(model)
    refuse_complex(model)
    if not is_ready(model, dtype):
        model = in_order(faithful_in(model, example_inputs, dtype))
    call = bind_copy(given, model, example_inputs, output, dtype)
    program = export_program(model, call)
    if not program.batched and not program.recorded:
        refuse_counting(model, call)
    if not program.batched and example_batch(call.flat) > 1 and (alone := one_sample(model, call, program.recorded)):
        call, program = alone, export_program(model, alone, free=False)
    make_equal(program)
    lifted = lift_program(program, call.flat, frozenset(gates), name)
    where = next((t.device for t in state_of(model)), torch.device("cpu"))
    found = {**program.tensors, **{n: t.to(where) for n, t in lifted.constants.items()}}
    tensors = {slot.name: found[slot.name].detach() for slot in lifted.graph.slots if slot.name in found}
    call = replace(call, computed=bool(lifted.graph.computed))
    stops = gradient_stops(model, call)
    return Capture(model, call, program, lifted, tensors, hooked, stops)


def captured_for_caller(model: nn.Module, example_inputs: Any, **options: Any) -> Capture:
    """:func:`capture` of what a caller of Python gives, who is told (as a warning) what figures depend on."""
    found = capture(model, example_inputs, **options)
    for text in found.remarks:
        remark(text)
    return found


def bind_copy(model: nn.Module, twin: nn.Module, example_inputs: Any, output: str | int | None, dtype: torch.dtype | None) -> Call:
    """The call of ``twin``, the model's copy in ``dtype``. Raises ``PKC214`` where that fails and the model's own call does not."""
    try:
        return bind_call(twin, cast_inputs(example_inputs, dtype), output, dtype)
    except PkcError as error:
        if dtype is None or error.diagnostics[0].code != "PKC203" or not _runs(model, example_inputs):
            raise
        first = error.diagnostics[0]
        reason = first.message.partition(": ")[2]
        kind = str(dtype).removeprefix("torch.")
        raise fail(
            "PKC214",
            f"the model runs in its own precision, and its copy in {kind}, in which this is computed, does not: {reason}",
            "let forward take any floating dtype: make tensors like x or the weights (torch.ones_like, x.new_zeros, dtype=x.dtype)",
            span=first.span,
            label=first.label,
        ) from error


def _runs(model: nn.Module, example_inputs: Any) -> bool:
    """Whether a model can be called."""
    try:
        bind_call(model, example_inputs)
    except PkcError:
        return False
    return True


def cast_inputs(inputs: Any, dtype: torch.dtype | None) -> Any:
    """Example inputs with their floating tensors in another precision."""
    if dtype is None:
        return inputs
    args, kwargs = torch.utils._pytree.tree_map(lambda t: cast(t, dtype), normalise_inputs(inputs))
    return Inputs(args, kwargs)


@checked
@in_own_modes
def lift(model: nn.Module, example_inputs: Any) -> PathGraph:
    """The path graph of a model in evaluation mode.

    ``example_inputs``: a tensor, a tuple of positional inputs, or a dict of keyword inputs; dimension 0 is the batch. Raises
    :class:`~pkcompiler.diagnostics.PkcError` with one diagnostic per operator that has no meaning for paths.
    """
    return captured_for_caller(model, example_inputs).graph
