"""The NTK's trace as a mean over fresh initialisations and Gaussian inputs, with its standard error (docs/theory.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor, nn

from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import evaluating
from pkcompiler.frontend.precision import cast, in_precision
from pkcompiler.paths.sources import device_of, rows_of
from pkcompiler.predict.initial import seeds

EXACT_OUTPUTS = 16
"""Up to as many outputs get a backward pass each; of more, random signs of all outputs are taken."""

PROBES = 4
"""Random signs per draw. Each is unbiased, and draws differ from each other more than probes of one draw do."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Gaussian inputs with independent entries: ``mean`` and ``second`` moment (floats, or tensors of a sample's shape)."""

    mean: float | Tensor = 0.0
    second: float | Tensor = 1.0

    @property
    def centred(self) -> bool:
        """Whether the mean is 0 everywhere."""
        return not bool(torch.as_tensor(self.mean).any())

    @property
    def deviation(self) -> Tensor:
        """sqrt(second - mean^2), float64."""
        mean, second = (torch.as_tensor(m, dtype=torch.float64) for m in (self.mean, self.second))
        return (second - mean.square()).sqrt()

    def draw(self, captured: Capture, seed: int) -> list[Any]:
        """The model's flat inputs: Gaussian where floating, rows uniform where an embedding is read, else the example's."""
        generator = torch.Generator().manual_seed(seed)
        graph = captured.graph
        values = {placeholder: next(v for v in graph.inputs if v.name == name) for name, placeholder in captured.lifted.inputs}
        flat = []
        for placeholder, example in zip(captured.program.inputs, captured.call.flat, strict=True):
            if placeholder not in values:
                flat.append(cast(example, torch.float64))
                continue
            rows = rows_of(graph, values[placeholder])
            shape = example.shape if not captured.batched else (1, *example.shape[1:])
            if rows is None:
                mean = torch.as_tensor(self.mean, dtype=torch.float64)
                drawn = mean + self.deviation * torch.randn(shape, generator=generator, dtype=torch.float64)
            else:
                drawn = torch.randint(rows, shape, generator=generator, dtype=example.dtype)
            flat.append(drawn.to(example.device))
        return [t[:1] if captured.batched and isinstance(t, Tensor) and t.dim() else t for t in flat]


def sampled_traces(
    captured: Capture,
    fresh: Callable[[int], nn.Module],
    inputs: Inputs,
    masks: Mapping[str, Tensor] | None,
    draws: int,
    seed: int,
) -> tuple[Tensor, Tensor | None]:
    """The trace per sample of every draw [draws], and the draws' parts by output [draws, outputs] where those are few."""
    pairs = [seeds(s, 3) for s in seeds(seed, draws)]
    parts = [one_draw(captured, fresh(a), inputs.draw(captured, b), masks, c) for a, b, c in pairs]
    single = parts[0][1] is not None
    return torch.stack([t for t, _ in parts]), torch.stack([p for _, p in parts if p is not None]) if single else None


def one_draw(
    captured: Capture, model: nn.Module, flat: Sequence[Any], masks: Mapping[str, Tensor] | None, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The trace per sample of one model at one input; exact with its parts by output, or unbiased from random signs."""
    model = in_precision(model, torch.float64).to(device_of(captured.graph, captured.tensors))
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        parameter.requires_grad_(True)
        if masks and name in masks:
            parameter.data.mul_(masks[name].to(parameter))
    kept = [(masks or {}).get(name) for name in named]
    with evaluating(model), torch.enable_grad():
        output = captured.call.run(model, flat)
        samples = output.shape[0] if output.dim() else 1
        rows = output.reshape(samples, -1)
        if rows.shape[1] <= EXACT_OUTPUTS:
            entries = [squared_gradient(y, list(named.values()), kept) for y in rows.flatten()]
            parts = torch.stack(entries).cpu().reshape(samples, -1).mean(0)
            return parts.sum(), parts
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (PROBES, *rows.shape), generator=generator).to(rows) * 2 - 1
        probes = [squared_gradient((rows * s).sum(), list(named.values()), kept) for s in signs]
        return torch.stack(probes).cpu().mean() / samples, None


def squared_gradient(value: Tensor, parameters: Sequence[Tensor], kept: Sequence[Tensor | None]) -> Tensor:
    """Sum of (d value / d theta)^2 over the kept entries."""
    total = torch.zeros((), dtype=torch.float64, device=value.device)
    if not value.requires_grad:
        return total
    grads = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    for grad, mask in zip(grads, kept, strict=True):
        if grad is not None:
            total = total + (grad.square() if mask is None else grad.square() * mask.to(grad)).sum()
    return total


def standard_error(values: Tensor) -> float:
    """The standard error of the mean, of positive numbers that spread over orders of magnitude.

    The larger of the sample's own, s / sqrt(n), which misses a tail that was not drawn, and that of the mean of a log-normal law,
    mean * sqrt(v / n + v^2 / (2 (n - 1))), v the sample variance of the logarithms (Cox's method; Zhou & Gao 1997): the trace of a
    wide and deep network is close to log-normal (Hanin & Nica 2019, arXiv:1909.05989).
    """
    plain = float(values.std()) / math.sqrt(len(values))
    log = _log_normal(values)
    return plain if log is None else max(plain, float(values.mean()) * log[1])


def interval(values: Tensor) -> tuple[float, float]:
    """About 95 % for the mean: the hull of Student's interval and of Cox's for a log-normal law, exp(l + v / 2 -+ t se)."""
    t = float(student.ppf(0.975, len(values) - 1))
    mean, reach = float(values.mean()), t * standard_error(values)
    log = _log_normal(values)
    if log is None:
        return mean - reach, mean + reach
    centre, error = log
    return min(mean - reach, math.exp(centre - t * error)), max(mean + reach, math.exp(centre + t * error))


def _log_normal(values: Tensor) -> tuple[float, float] | None:
    """The logarithm of the mean of a log-normal law, and its standard error; None where a value is not positive."""
    if bool((values <= 0).any()):
        return None
    n, logs = len(values), values.log()
    v = float(logs.var())
    return float(logs.mean()) + v / 2, math.sqrt(v / n + v**2 / (2 * (n - 1)))
