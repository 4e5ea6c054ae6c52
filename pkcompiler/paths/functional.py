"""``path_functional``: a sum over paths and its derivatives (docs/theory.md, section 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail, typed_or_called
from pkcompiler.frontend.at_samples import at_samples
from pkcompiler.frontend.capture import Capture, captured_for_caller
from pkcompiler.frontend.export import example_batch
from pkcompiler.ir.graphs import centres, has_approximate_gains
from pkcompiler.ir.types import PathGraph
from pkcompiler.measured import LOG2, scaled_float
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.record import observe
from pkcompiler.paths.scaled import Scaled, times_power
from pkcompiler.paths.semiring import Settings, settings
from pkcompiler.paths.sources import check_finite, check_masks, check_range, data_inputs, input_sources, unit_sources
from pkcompiler.paths.sweep import Sweep


@dataclass(frozen=True, slots=True, eq=False)
class Functional:
    """value = mantissa * 2**exponent, and its derivative by the edge transform of every parameter, at the same exponent.

    ``mantissa``: a Python float, or a tensor with the shape of the output for ``output="each"``. ``grad[name]`` has the
    parameter's shape (derivative by |theta|, by w = theta^2, or by theta; for edge "1" the number of paths through the entry,
    counted with multiplicity). ``count``: the exact number of paths, for edge "1" without data. ``status``: ``exact`` up to
    rounding, or ``approximate`` (an unsigned functional through a normalisation, whose centring it drops).
    """

    mantissa: Any
    exponent: int
    grad: Mapping[str, Tensor]
    count: int | None = None
    status: str = "exact"

    def __repr__(self) -> str:
        each = isinstance(self.mantissa, Tensor) and self.mantissa.numel() != 1
        shown = f"outputs of shape {tuple(self.mantissa.shape)}, exponent {self.exponent}" if each else f"log10 {self.log10:.6g}"
        return f"Functional({shown}, {self.status}, derivatives by {len(self.grad)} parameters)"

    @property
    def value(self) -> float:
        """The value as a float (inf or 0 where it does not fit)."""
        return scaled_float(float(self.mantissa), self.exponent)

    @property
    def log10(self) -> float:
        """log10 of the absolute value (-inf for 0)."""
        size = abs(float(self.mantissa))
        return math.log10(size) + self.exponent * LOG2 if size else float("-inf")


@checked
@in_own_modes
def path_functional(
    model: nn.Module,
    example_inputs: Any,
    *,
    edge: str = "abs(theta)",
    input: str = "ones",
    gates: str = "open",
    pools: str = "max",
    norms: str = "unit",
    products: str = "pairs",
    constants: str = "off",
    output: Any = "ones",
    masks: Mapping[str, Tensor] | None = None,
    data: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Functional:
    """R = sum over paths of |c_p|^q prod t(theta_i)^n_ip (slopes / gains)^r (input weight) (output weight), docs/theory.md, 2.

    ``edge``: ``abs(theta)``, ``theta^2``, ``theta``, ``1``. ``input``: ``ones``, ``data``, ``data^2``, ``mean(data)``,
    ``mean(data^2)``. ``output``: ``ones``, ``each``, or a tensor of weights with the output's shape (without the batch).
    ``data``: a pair (x, y) of tensors, used whole; un-averaged data are summed over the samples. ``masks``: boolean tensors by
    parameter name. The other arguments are those of ``paths(...)`` in the language. Raises ``PKC501`` for a value that does not
    exist, ``PKC502`` for missing data, ``PKC4xx`` for masks that do not fit.
    """
    chosen = settings(edge=edge, gates=gates, pools=pools, norms=norms, products=products, constants=constants, dtype=dtype)
    captured = captured_for_caller(model, example_inputs, dtype=dtype)
    return functional_of(captured, chosen, input=input, output=output, masks=masks, data=data)


@in_own_modes
def functional_of(
    captured: Capture,
    chosen: Settings,
    *,
    input: str = "ones",
    output: Any = "ones",
    masks: Mapping[str, Tensor] | None = None,
    data: Any = None,
    gradients: bool = True,
) -> Functional:
    """The functional of a model that is captured already. Raises ``PKC502`` where it reads data and none is given."""
    check_finite(captured.graph, captured.tensors)
    check_masks(captured.graph, masks)
    check_range(captured.graph, captured.tensors, chosen)
    samples = data_inputs(captured, data) if data is not None else None
    if samples is None and (chosen.reads_data or input != "ones"):
        reader = f"input = {input}" if input != "ones" else "gates, pools or norms = data"
        raise fail(
            "PKC502",
            f"this functional reads data ({reader}), and none was given",
            typed_or_called("give data: --data digits", "give data=(x, y)"),
        )
    tensors = masked(captured, masks)
    whole = input in ("ones", "mean(data)", "mean(data^2)") and not chosen.reads_data
    with at_samples(captured, samples):
        parts = [
            one_sweep(captured, tensors, chosen, chunk, samples, input=input, output=output, masks=masks, gradients=gradients)
            for chunk in chunks(captured, samples, whole=whole)
        ]
    exact = chosen.edge == "1" and not chosen.reads_data and input == "ones" and _is_ones(output)
    count = count_paths(captured.graph, captured.tensors, chosen, masks, captured.static_batch) if exact else None
    return total(parts, count, "approximate" if is_approximate(captured.graph, chosen) else "exact")


@in_own_modes
def open_functional(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    chosen: Settings,
    *,
    masks: Mapping[str, Tensor] | None = None,
    gradients: bool = True,
    count: bool = False,
) -> Functional:
    """A functional without data, input and output all ones, from a graph and its tensors alone (no model is needed).

    ``count``: also the exact number of paths (edge "1").
    """
    check_masks(graph, masks)
    check_range(graph, tensors, chosen)
    batch = static_batch(graph)
    sweep = Sweep(graph, tensors, chosen, batch=batch)
    part = differentiate(sweep, masks, unit_sources(graph, batch, chosen.dtype), "ones", gradients)
    exact = count_paths(graph, tensors, chosen, masks, batch) if count else None
    return total([part], exact, "approximate" if is_approximate(graph, chosen) else "exact")


def static_batch(graph: PathGraph) -> int:
    """The batch size that a static trace has baked in; 1 where the batch is free."""
    first = graph.inputs[0].type.shape[0] if graph.inputs and graph.inputs[0].type.shape else 1
    return first if isinstance(first, int) else 1


def differentiate(
    sweep: Sweep, masks: Mapping[str, Tensor] | None, sources: Mapping[str, Tensor], output: Any, gradients: bool
) -> tuple[Scaled, dict[str, Tensor]]:
    """One forward and (with ``gradients``) one backward sweep; the value, and the gradients at its exponent.

    Raises ``PKC510`` for a derivative that is not finite.
    """
    edges = sweep.edges(masks)
    for edge in edges.values():
        edge.requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        weighted = weigh(sweep.run(edges, sources), output)
        if not gradients or not edges:
            return Scaled(weighted.tensor.detach(), weighted.exponent), {}
        grads = torch.autograd.grad(weighted.tensor.sum(), list(edges.values()), allow_unused=True)
    named = {n: torch.zeros_like(e) if g is None else g for (n, e), g in zip(edges.items(), grads, strict=True)}
    if wrong := [n for n, g in named.items() if not bool(g.isfinite().all())]:
        help = "its entries, or what they are multiplied by, are too large or too far apart: rescale the weights"
        raise fail("PKC510", f"the derivative of the sum over paths by '{wrong[0]}' is not finite", help)
    return Scaled(weighted.tensor.detach(), weighted.exponent), named


def _is_ones(output: Any) -> bool:
    return isinstance(output, str) and output == "ones"


def masked(captured: Capture, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """All slots' tensors with the masks multiplied in (what the model's own run is observed at)."""
    if not masks:
        return captured.tensors
    return {n: t * masks[n].to(t.device, t.dtype) if n in masks else t for n, t in captured.tensors.items()}


def chunks(captured: Capture, samples: Sequence[Any] | None, whole: bool) -> list[Sequence[Any] | None]:
    """The samples in pieces that the trace accepts (all at once where its batch is free, or where only means are read).

    Raises ``PKC504`` where they do not divide into batches of the size that the trace has baked in.
    """
    if samples is None or whole or captured.batched:
        return [samples]
    step = captured.static_batch
    n = example_batch(samples)
    if n % step:
        raise fail(
            "PKC504",
            f"the model's batch size is baked in as {step}, and {n} samples do not divide into batches of {step}",
            "give example inputs with batch 1",
        )
    return [[s[i : i + step] for s in samples] for i in range(0, n, step)]


def one_sweep(
    captured: Capture,
    tensors: Mapping[str, Tensor],
    chosen: Settings,
    samples: Sequence[Any] | None,
    everything: Sequence[Any] | None,
    *,
    input: str | Tensor,
    output: Any,
    masks: Mapping[str, Tensor] | None,
    gradients: bool,
) -> tuple[Scaled, dict[str, Tensor]]:
    """One forward and one backward sweep over ``samples``, a piece of ``everything`` (which means are taken over)."""
    sweep, batch = prepare(captured, tensors, chosen, samples, input)
    read = everything if isinstance(input, str) and input.startswith("mean") else samples
    sources = input_sources(captured, read, input, batch, chosen.dtype)
    return differentiate(sweep, masks, sources, output, gradients)


def prepare(
    captured: Capture,
    tensors: Mapping[str, Tensor],
    chosen: Settings,
    samples: Sequence[Any] | None,
    input: str | Tensor,
    kind: type[Sweep] = Sweep,
) -> tuple[Sweep, int]:
    """The sweep of a functional with what it observes at the samples (``tensors``: masked), and the batch that it carries."""
    observed, batch = None, captured.static_batch
    if samples is not None and chosen.reads_data:
        observed, _ = observe(captured.program, captured.lifted, samples, {**captured.program.tensors, **tensors}, chosen)
    if samples is not None and (chosen.reads_data or (isinstance(input, str) and input in ("data", "data^2"))):
        batch = example_batch(samples)
    if isinstance(input, Tensor) and captured.batched and input.shape[0] > 1:
        batch = int(input.shape[0])
    sweep = kind(captured.graph, captured.tensors, chosen, observed=observed, batch=batch)
    return sweep, batch


def weigh(value: Scaled, output: Any) -> Scaled:
    """The output entries summed (``ones``), kept (``each``), or weighted. Raises ``PKC501`` for anything else."""
    if isinstance(output, str) and output == "ones":
        return Scaled(value.tensor.sum(), value.exponent)
    if isinstance(output, str) and output == "each":
        return value
    if isinstance(output, Tensor):
        if output.is_complex() or not _spreads(output.shape, value.tensor.shape):
            raise fail(
                "PKC501",
                f"output is {output.dtype} of shape {tuple(output.shape)}",
                f"give weights of shape {tuple(value.tensor.shape[1:])}",
            )
        return Scaled((value.tensor * output.to(value.tensor)).sum(), value.exponent)
    raise fail("PKC501", f"path_functional has no output = {output!r}", "expected 'ones', 'each', or a tensor of weights")


def _spreads(shape: torch.Size, over: torch.Size) -> bool:
    """Whether a tensor of one shape broadcasts to another."""
    return len(shape) <= len(over) and all(a in (1, b) for a, b in zip(shape[::-1], over[::-1], strict=False))


def total(parts: Sequence[tuple[Scaled, dict[str, Tensor]]], count: int | None, status: str) -> Functional:
    """Pieces of the data added up at one exponent: the largest of those that are not 0, with derivatives that are 0."""
    live = [value.exponent for value, grads in parts if any(bool(t.any()) for t in (value.tensor, *grads.values()))]
    exponent = max(live or [value.exponent for value, _ in parts])
    powers = [min(0, value.exponent - exponent) for value, _ in parts]
    pieces = [times_power(value.tensor, power) for (value, _), power in zip(parts, powers, strict=True)]
    mantissa = torch.cat(pieces) if pieces[0].dim() else torch.stack(pieces).sum()
    grads = parts[0][1]
    if len(parts) > 1:
        grads = {n: torch.stack([times_power(g[n], p) for (_, g), p in zip(parts, powers, strict=True)]).sum(0) for n in grads}
    return Functional(float(mantissa) if mantissa.dim() == 0 else mantissa, exponent, grads, count, status)


def is_approximate(graph: PathGraph, chosen: Settings) -> bool:
    """Unsigned functionals drop the centring of a normalisation, and some gains are found to 1e-9, or are those of a bounded range
    (docs/theory.md, sections 1 and 2)."""
    return (not chosen.transform.signed and centres(graph)) or (chosen.gain_power != 0 and has_approximate_gains(graph))
