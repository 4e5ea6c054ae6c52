"""What one sample of a model is where no trace leaves its batch free: its first sample alone, or all that it is given."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pkcompiler.frontend.export import Call, evaluating, example_batch

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
    rows = tuple(i for i, t in enumerate(call.flat) if isinstance(t, Tensor) and t.dim() and t.shape[0] == size)
    with evaluating(model):
        if not _is_separate(model, call, rows, size):
            return None
        alone = replace(call, flat=tuple(t[:1].clone() if i in rows else t for i, t in enumerate(call.flat)))
        if _runs_alone(model, call, alone, recorded):
            return alone
    return replace(alone, copies=size, copied=rows)


def _is_separate(model: nn.Module, call: Call, rows: tuple[int, ...], size: int) -> bool:
    """Whether the derivatives of the first sample's output by all other samples are 0 along the model's own run."""
    leaves = {i: call.flat[i].detach().clone().requires_grad_() for i in rows if call.flat[i].is_floating_point()}
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
    return recorded or torch.allclose(single, first, rtol=SAME, atol=SAME * float(first.abs().max()) if first.numel() else 0.0)
