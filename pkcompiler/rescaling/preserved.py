"""Is it the same function? The true model run with both sets of weights, on random inputs, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import evaluating, repeat_batch

TOLERANCE = 1e-9
"""The largest deviation in float64, relative to the largest entry of the output."""

SAMPLES = 4
"""How many random inputs, where the batch is free."""


@dataclass(frozen=True, slots=True)
class Deviations:
    """The largest relative deviations of any output: ``exact`` with the factors applied in float64, ``stored`` with the weights
    rounded to the model's own precision. ``where``: the output with the largest (its position); ``analysed``: the one of the graph.
    """

    exact: float
    stored: float
    where: int = 0
    analysed: int = 0


def deviations(captured: Capture, copy: nn.Module, factors: Mapping[str, Tensor], seed: int) -> Deviations:
    """Compare ``captured.module`` (float64) with itself times ``factors`` and with the weights of ``copy``, in evaluation mode."""
    flat = random_inputs(captured, seed)
    old = dict(captured.module.named_parameters())
    exact = {n: t * factors[n].to(t.device) if n in factors else t for n, t in old.items()}
    stored = {n: t.to(old[n].dtype) for n, t in copy.named_parameters() if n in old}
    plain, first, second = (_outputs(captured, parameters, flat) for parameters in (old, exact, stored))
    found = {i: (_deviation(plain[i], first[i]), _deviation(plain[i], second[i])) for i in plain}
    worst = max(found, key=lambda i: found[i])
    return Deviations(found[worst][0], max(pair[1] for pair in found.values()), worst, captured.call.output)


def random_inputs(captured: Capture, seed: int) -> tuple[Any, ...]:
    """The example's flat inputs with standard normal numbers in place of its floating ones; several samples where it can be."""
    generator = torch.Generator().manual_seed(seed)
    flat = repeat_batch(captured.call.flat, SAMPLES) if captured.batched else captured.call.flat

    def drawn(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)

    return tuple(drawn(x) for x in flat)


def _outputs(captured: Capture, parameters: Mapping[str, Tensor], flat: Sequence[Any]) -> dict[int, Tensor]:
    """Every floating output by its position."""
    with evaluating(captured.module), torch.no_grad():
        outputs = captured.call.outputs(captured.module, flat, parameters)
    return {i: t for i, t in enumerate(outputs) if isinstance(t, Tensor) and t.is_floating_point()}


def _deviation(old: Tensor, new: Tensor) -> float:
    size = float(old.abs().max()) if old.numel() else 0.0
    wrong = float((old - new).abs().max()) if old.numel() else 0.0
    found = wrong / size if size else wrong
    return found if found == found else float("inf")


def require_preserved(seen: Deviations, copy: nn.Module) -> None:
    """``PKC541`` where the function is another: in float64, or by what the model's own precision can hold."""
    if not seen.exact <= TOLERANCE:
        raise fail(
            "PKC541",
            f"output {seen.where} of the rescaled network differs from the model's by {seen.exact:.1e} of its size, more than 1e-9",
            "is the graph the model? pkc certify MODEL says so"
            if seen.where == seen.analysed
            else "the units that it shows stay as they are "
            + typed_or_called(f"with --output {seen.where}", "where forward returns it first"),
        )
    kinds = {t.dtype for t in copy.parameters() if t.is_floating_point()}
    coarse = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    if not seen.stored <= max(TOLERANCE, 1e4 * coarse):
        raise fail(
            "PKC541",
            f"stored in the model's own precision the rescaled weights change output {seen.where} by {seen.stored:.1e} of its size",
            "rescale it in float64, model.double(), or by powers of two: "
            + typed_or_called("--powers-of-two", "powers_of_two=True"),
        )
