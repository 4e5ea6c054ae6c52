"""What one sample of a model is where no trace leaves its batch free: its first sample alone, or all that it is given."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.export import Call, evaluating, example_batch, repeat_batch
from pkcompiler.frontend.lift.unplaced import LEAVE_OUT

SAME = 1e-4
"""Largest relative difference between one sample's output alone and among others (float32 adds up in another order)."""


def one_sample(model: nn.Module, call: Call, recorded: bool) -> Call | None:
    """The call of ``model`` with the first sample of its example alone; None where that is no function of its own.

    A model is one of single samples where the first one's output depends on no other sample (as batch statistics do, or a
    dimension 0 that is no batch). It is then run on one sample; where it takes no other number of samples than the example's, or
    computes something else for one, on as many copies of one (``Call.copies``). ``recorded``: it branches on its data; one sample
    then takes the branches that it takes alone.
    """
    size = example_batch(call.flat)
    with evaluating(model):
        if not _is_separate(model, call, size):
            return None
        alone = replace(call, flat=tuple(t[:1].clone() if i in _rows(call) else t for i, t in enumerate(call.flat)))
        if _runs_alone(model, call, alone, recorded):
            return alone
    return replace(alone, copies=size, copied=_rows(call))


def refuse_counting(model: nn.Module, call: Call) -> None:
    """Raise ``PKC201`` where how many samples a model is given changes what it computes for one of them.

    The example's first sample is given alone, as often as the example has samples, and once more. Numbers of samples that the
    model does not take say nothing, nor do those at which samples depend on each other, or results have other shapes.
    """
    size, outputs = example_batch(call.flat), dict[int, Tensor]()
    with evaluating(model):
        for count in sorted({1, size, size + 1}):
            among = replace(call, flat=repeat_batch(call.flat, count))
            try:
                if count == 1 or _is_separate(model, among, count):
                    with torch.no_grad():
                        outputs[count] = among.run(model, among.flat)
            except Exception as error:  # whatever a model raises at a number of samples that it is not made for
                logging.getLogger(__name__).debug("no run at %d samples: %s", count, error)
    first = {count: t[: t.shape[0] // count] for count, t in outputs.items() if t.dim() and not t.shape[0] % count}
    for (count, one), (more, other) in pairwise(first.items()):
        if one.shape == other.shape and not _close(one, other):
            raise fail(
                "PKC201",
                f"the model computes with the number of samples (len(x), x.shape[0]), and a sample's output must be its own: "
                f"one sample's output is another where it is given {count} and {more} times",
                LEAVE_OUT,
            )


def _rows(call: Call) -> tuple[int, ...]:
    """Which of the flat inputs have a sample in each row."""
    size = example_batch(call.flat)
    return tuple(i for i, t in enumerate(call.flat) if isinstance(t, Tensor) and t.dim() and t.shape[0] == size)


def _is_separate(model: nn.Module, call: Call, size: int) -> bool:
    """Whether the derivatives of the first sample's output by all other samples are 0 along the model's own run."""
    leaves = {i: call.flat[i].detach().clone().requires_grad_() for i in _rows(call) if call.flat[i].is_floating_point()}
    with torch.enable_grad():
        output = call.run(model, [leaves.get(i, t) for i, t in enumerate(call.flat)])
        if not output.dim() or output.shape[0] % size:
            return False
        first = output[: output.shape[0] // size]
        if not leaves or not first.requires_grad:
            return True
        weights = torch.linspace(1, 2, first.numel(), dtype=first.dtype, device=first.device).reshape(first.shape)
        found = torch.autograd.grad((first * weights).sum(), list(leaves.values()), allow_unused=True)
    return all(g is None or not bool(g[1:].any()) for g in found)


def _runs_alone(model: nn.Module, call: Call, alone: Call, recorded: bool) -> bool:
    """Whether the model takes one sample, and computes for it what it computes for it among others."""
    with torch.no_grad():
        among = call.run(model, call.flat)
        try:
            single = alone.run(model, alone.flat)
        except Exception:  # whatever a model raises at a number of samples that it is not made for
            return False
    first = among[: among.shape[0] // example_batch(call.flat)]
    if single.shape != first.shape:
        return False
    return recorded or _close(single, first)


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=SAME, atol=SAME * float(other.abs().max()) if other.numel() else 0.0)
