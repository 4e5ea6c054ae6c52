"""What a pass draws afresh or evaluates elsewhere: initial weights (``init``), ``noise()``, ``model(INPUT, theta = E, ...)``.

The user's model, its buffers and the global random state are never touched.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.frontend.precision import in_precision
from pkcompiler.ir.weights import fan_in
from pkcompiler.lang.ast import Call, Expr, Name, Number, Typed
from pkcompiler.paths.sources import data_inputs, data_position, table_rows
from pkcompiler.predict.initial import drawn
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import SWITCH, Leaf, Workspace

# initial weights --------------------------------------------------------------------------------------------------------


def initialised(work: Workspace, init: Expr, draw: Draw) -> Workspace:
    """The workspace of a copy of the model with fresh weights: ``fresh``, ``he()`` or ``normal(std = ...)``.

    ``fresh`` is what ``work.initialise`` builds, else ``reset_parameters`` of every module, else ``he()``. Buffers, such as the
    statistics of a normalisation, are fresh with ``fresh`` and the model's own otherwise.
    """
    module = _module(work, init, draw)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors = {name: named[name].detach() if name in named else t for name, t in work.captured.tensors.items()}
    return replace(work, captured=replace(work.captured, module=module, tensors=tensors), _prepared={})


def _module(work: Workspace, init: Expr, draw: Draw) -> nn.Module:
    model = work.captured.module
    if init == Name("fresh"):
        make = drawn(model, work.initialise, work.captured.example_for(model))
        if not isinstance(make, str):
            made = make(draw.number("init"))
            like = next(model.parameters(), None)
            return made if like is None else in_precision(made.to(like.device), work.dtype)
    std = None
    if isinstance(init, Call) and init.function == "normal":
        (given,) = (value for _, value in init.kwargs)
        assert isinstance(given, Number)
        std = float(given.value)
    module = faithful_copy(model, work.captured.example_for(model))
    named = dict(module.named_parameters())
    with torch.no_grad():
        for slot in work.captured.graph.parameters:
            if slot.prunable and slot.name in named:
                scale = math.sqrt(2 / fan_in(named[slot.name].shape)) if std is None else std
                parameter = named[slot.name]
                parameter.copy_(scale * draw.normal(parameter.shape, "init", slot.name))
    return module


# noise and the model ----------------------------------------------------------------------------------------------------


def noise_like_input(captured: Capture, dtype: torch.dtype, count: int | None, draw: Draw, number: int) -> Tensor:
    """``noise()``: N(0, 1) with the shape of the input that data stands for [count, ...]; of integers, rows of their table."""
    like = captured.call.flat[data_position(captured.call.flat)]
    shape = (like.shape[0] if count is None else count, *like.shape[1:])
    if like.is_floating_point():
        return draw.normal(shape, "noise", number).to(like.device, dtype)
    return draw.rows(shape, _rows(captured), "noise", number).to(like)


def _rows(captured: Capture) -> int:
    position = captured.program.inputs[data_position(captured.call.flat)]
    names = {n for n, placeholder in captured.lifted.inputs if placeholder == position}
    value = next((v for v in captured.graph.inputs if v.name in names), None)
    if value is None:
        raise fail("PKC565", "noise() draws for the model's first input, which lies on no path", "write model(data)")
    return table_rows(captured.graph, value)


def noise_like_parameters(like: Mapping[str, Tensor], draw: Draw, number: int) -> dict[str, Tensor]:
    """``noise(axes = param)``: N(0, 1) for every entry, a stream per parameter name."""
    return {name: draw.normal(t.shape, "noise", number, name).to(t) for name, t in like.items()}


def model_output(work: Workspace, given: Term, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Term:
    """The model's output at an input [sample, input] or [input], at effective weights: [sample, output] or [output].

    ``buffers``: what stands for the model's own.
    """
    sampled = "sample" in given.axes
    samples = _samples(work, given)
    with torch.enable_grad():
        output = work.call(weights, samples, buffers)
    return Term(given.axes - {"input"} | {"output"}, output if sampled else output.squeeze(0))


def _samples(work: Workspace, given: Term) -> Sequence[Any]:
    """The model's flat inputs at an input [sample, input] or [input], the latter as one sample. Raises ``PKC565``."""
    x = given.plain().tensor
    flat = work.captured.call.flat
    like = flat[data_position(flat)]
    if work.samples is not None and x is work.samples[data_position(flat)]:
        return work.samples  # model(data): every input at the data
    if x.is_floating_point() and not like.is_floating_point():
        raise fail("PKC565", "model() is given floating numbers, and the model takes integers", "write model(noise())")
    return data_inputs(work.captured, x if "sample" in given.axes else x.unsqueeze(0))


def statistics(work: Workspace, given: Term) -> dict[str, Tensor]:
    """The model's buffers after the samples [sample, input] have passed at theta * mask.

    Every BatchNorm normalises by the mean and the biased variance over them and keeps, as in training with momentum 1, their mean
    and unbiased variance; everything else is in evaluation mode. Raises ``PKC565`` where a channel has one value alone.
    """
    if work.training:
        message = "statistics = ... and mode = train: there every BatchNorm has those of its own batch"
        raise fail("PKC565", message, "delete one of the two")
    buffers = {n: b.clone() for n, b in work.captured.module.named_buffers()}
    with torch.no_grad(), _Observing():
        work.call(work.effective(), _samples(work, given), buffers)
    return buffers


class _Observing(TorchFunctionMode):
    """Every BatchNorm that would read its statistics takes those of its input and writes them where it would read."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(F.batch_norm).bind(*args, **(kwargs or {})).arguments
        if given["running_mean"] is None or given.get("training"):
            return func(**given)
        try:
            return func(**{**given, "training": True, "momentum": 1.0})
        except ValueError as error:
            note = "write statistics = noise(count = 100)"
            raise fail("PKC565", "statistics of a BatchNorm need two values or more per channel", note) from error


def data_term(work: Workspace) -> Term:
    """``data`` as ``model(data)`` reads it: integers, too."""
    tensor: Tensor = work.need_data()[data_position(work.captured.call.flat)]
    return Term(frozenset({"sample", "input"}), tensor)


def shifted(work: Workspace, value: Term) -> tuple[dict[str, Tensor], Leaf]:
    """The effective weights E * mask of ``theta = E`` (all other parameters as they are), and the leaf of the mask in them.

    The derivative by what E was computed from passes where the mask is 0, too; the one by the mask is E times the derivative by
    the effective weight, everywhere.
    """
    chosen = value.plain()
    switches = {name: mask.clone().requires_grad_() for name, mask in work.mask.items()}
    weights: dict[str, Tensor] = {name: t.detach() for name, t in work.effective().items()}
    with torch.enable_grad():
        for name, t in chosen.tensors.items():
            fixed, switch = t.detach(), switches[name]
            weights[name] = fixed * switch.detach() + (t - fixed) + (switch - switch.detach()) * fixed
    return weights, Leaf(SWITCH, switches, {}, {name: torch.ones_like(t) for name, t in switches.items()})


# bindings ---------------------------------------------------------------------------------------------------------------


def _noise(evaluation: Evaluation, node: Typed) -> Term:
    """Every noise() that is written is one draw, wherever and however often it is read."""
    number, draw, work = evaluation.number_of(node), evaluation.draws, evaluation.work
    if node.words["axes"] == "param":
        return Term(PARAM, noise_like_parameters(work.theta, draw, number))
    size = node.number("count") if "count" in node.words else None
    return Term(frozenset({"sample", "input"}), noise_like_input(work.captured, work.dtype, size, draw, number))


def _model(evaluation: Evaluation, node: Typed) -> Term:
    work, given = evaluation.work, node.named
    x = _entries(evaluation, node.args[0])
    buffers: Mapping[str, Tensor] = {}
    if "statistics" in given:
        buffers = evaluation.once(given["statistics"].value, lambda input: statistics(work, _entries(evaluation, input)))
    if "theta" in given:
        weights, leaf = shifted(work, evaluation.evaluate(given["theta"]))
    else:
        weights = work.effective()
        leaf = work.weights_leaf(weights)
    return evaluation.on_leaf((model_output(work, x, weights, buffers), leaf))


def _entries(evaluation: Evaluation, input: Typed) -> Term:
    """What the model is run on."""
    return data_term(evaluation.work) if input.stands_for("data") else evaluation.evaluate(input)


VALUES: dict[str, Binding] = {"noise": _noise, "model": _model}
