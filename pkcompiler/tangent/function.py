"""A model on data as a function of its parameters, one sample at a time: what tangent kernels are derivatives of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import PkcError, fail, first_few, raise_all
from pkcompiler.frontend.at_samples import at_samples
from pkcompiler.frontend.capture import bind_copy, cast_inputs
from pkcompiler.frontend.copies import refuse_valueless
from pkcompiler.frontend.export import Call, bind_call
from pkcompiler.frontend.faithful import faithful_in
from pkcompiler.frontend.load_weights import non_finite, not_finite
from pkcompiler.frontend.precision import refuse_complex
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import (
    check_mask_shapes,
    first_sample,
    flat_samples,
    is_batched,
    require_samples,
    samples_of,
)

Theta = Mapping[str, Tensor]
Function = Callable[[Theta, tuple[Tensor, ...]], Tensor]

TOGETHER = 64
"""Samples to a forward pass of the check that the model takes all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class TangentMap:
    """``function(theta, unit)`` gives the ``rows`` outputs of one unit (a sample, or a batch that a trace has baked in), flat.

    ``theta``: the values by name at which it is differentiated (entries that a mask drops have derivative 0: the function masks
    them itself). ``units``: tensors whose dimension 0 runs over the units.
    """

    function: Function
    theta: dict[str, Tensor]
    units: tuple[Tensor, ...]
    rows: int

    @property
    def count(self) -> int:
        """The number of units."""
        return int(self.units[0].shape[0])

    @property
    def size(self) -> int:
        """The number of parameter entries, dropped ones included: the columns of the Jacobian."""
        return sum(t.numel() for t in self.theta.values())

    @property
    def like(self) -> Tensor:
        """A tensor on the device and in the precision of the derivatives."""
        return next(iter(self.theta.values()))

    def unit(self, i: int) -> tuple[Tensor, ...]:
        """The data of unit i: row i of every tensor of ``units``."""
        return tuple(t[i] for t in self.units)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector [size], as a dict of tensors with the parameters' shapes."""
        parts = flat.split([t.numel() for t in self.theta.values()])
        return {n: p.reshape(t.shape) for (n, t), p in zip(self.theta.items(), parts, strict=True)}


@dataclass(frozen=True, slots=True, eq=False)
class ModelAtData:
    """A copy of a model in evaluation mode, with data and masks.

    ``theta``: the parameters that require grad; ``fixed``: the others, masked. ``flat``: the model's flat inputs, tensors with
    dimension 0 running over the ``n`` samples. ``shape``: one sample's output, with ``outputs`` entries.
    """

    module: nn.Module
    call: Call
    theta: dict[str, Tensor]
    fixed: dict[str, Tensor]
    masks: dict[str, Tensor]
    flat: tuple[Any, ...]
    n: int
    shape: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """The number of entries of one sample's output."""
        return torch.Size(self.shape).numel()

    def at(self, theta: Theta, flat: tuple[Any, ...]) -> Tensor:
        """The analysed output at ``theta * mask``."""
        kept = {n: t * self.masks[n] if n in self.masks else t for n, t in theta.items()}
        return self.call.run(self.module, flat, {**self.fixed, **kept})

    def samples(self, start: int, stop: int) -> tuple[Any, ...]:
        """The flat inputs of some samples."""
        return tuple(t[start:stop] if is_batched(t) else t for t in self.flat)

    def map(self) -> TangentMap:
        """The network as a function of ``theta`` and one sample."""
        varying = tuple(t for t in self.flat if is_batched(t))

        def function(theta: Theta, sample: tuple[Tensor, ...]) -> Tensor:
            given = iter(sample)
            return self.at(theta, tuple(next(given)[None] if is_batched(t) else t for t in self.flat)).reshape(-1)

        return TangentMap(function, self.theta, varying, self.outputs)


def at_data(
    model: nn.Module,
    data: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    dtype: torch.dtype = torch.float64,
) -> ModelAtData:
    """A copy of ``model`` (which is never changed) in evaluation mode and ``dtype``, at data = (x, y) or x alone.

    ``example_inputs``: where the model takes more than x; by default its first sample. Raises ``PKC203``-``PKC204`` where it cannot
    be called, ``PKC207`` for what is no module, ``PKC401``, ``PKC501`` and ``PKC505`` for masks, dtype and data that do not fit,
    ``PKC526`` where a sample's output depends on others or is not finite, or nothing requires grad.
    """
    if not isinstance(model, nn.Module):
        raise fail(
            "PKC207", f"expected a torch.nn.Module, not {type(model).__name__}", "pass the module itself, e.g. ntk(Net(), x)"
        )
    refuse_valueless(model)
    refuse_complex(model)
    settings(dtype=dtype)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = pytree.tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, inputs_of(data))
    module = faithful_in(model, first_sample(x) if example_inputs is None else example_inputs, dtype).eval()
    raise_all(not_finite(name, role) for name, role in non_finite(module))
    call = _call(model, module, x, example_inputs, dtype)
    named = dict(module.named_parameters())
    check_mask_shapes({n: tuple(p.shape) for n, p in named.items() if p.is_floating_point()}, masks)
    given = {n: m.to(named[n].device, dtype) for n, m in (masks or {}).items()}
    theta = {n: p.detach() for n, p in named.items() if p.requires_grad}
    if not theta:
        raise fail("PKC526", "no parameter of the model requires grad", "model.requires_grad_(True) makes all of them count")
    fixed = {n: p.detach() * given[n] if n in given else p.detach() for n, p in named.items() if n not in theta}
    flat = tuple(flat_samples(call, (x,)))
    n = next(len(t) for t in flat if is_batched(t))
    probe = ModelAtData(module, call, theta, fixed, {n: m for n, m in given.items() if n in theta}, flat, n, ())
    with at_samples(probe, flat):
        shape = _output_shape(probe)
        _run_all(probe)
    return ModelAtData(module, call, theta, fixed, probe.masks, flat, n, shape)


def _run_all(probe: ModelAtData) -> None:
    """The model runs on every sample: kernels read samples when they are asked for figures, too late to say which one is wrong."""
    with torch.no_grad(), computing():
        for start in range(0, probe.n, TOGETHER):
            probe.at(probe.theta, probe.samples(start, min(start + TOGETHER, probe.n)))


def _call(model: nn.Module, module: nn.Module, x: Any, example_inputs: Any, dtype: torch.dtype) -> Call:
    """The call of one sample. Raises ``PKC526`` where the model takes all samples together, and not one alone."""
    if example_inputs is not None:
        return bind_copy(model, module, example_inputs, None, dtype)
    try:
        return bind_copy(model, module, first_sample(x), None, dtype)
    except PkcError as error:
        try:
            bind_call(module, cast_inputs(several(x), dtype), dtype=dtype)
        except PkcError:
            raise error from None
        reason = error.diagnostics[0].message.partition(": ")[2]
        raise fail("PKC526", f"the model takes these samples together, and not one alone: {reason}", *_alone(module)) from error


def several(x: Any) -> Any:
    """All samples, or the one there is twice."""
    return pytree.tree_map(lambda t: torch.cat([t, t]) if is_batched(t) and len(t) == 1 else t, x)


def _alone(module: nn.Module) -> tuple[str, ...]:
    """What a model has to be for a tangent kernel, and what makes it so."""
    why = "a tangent kernel has one row per sample and output, so a sample's output may depend on that sample alone"
    norms = [n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase) and not m.track_running_stats]
    if norms:
        return why, f"give {first_few(norms)} statistics of their own (track_running_stats=True)"
    return why, "compute nothing from the number of samples (x.shape[0]), and no mean over dimension 0"


def inputs_of(data: Any) -> Any:
    """x of data = (x, y) or x alone: a tensor, or several as the model takes them. Raises ``PKC505``, and ``PKC526`` where there is
    no sample."""
    x = samples_of(data)
    if not isinstance(x, Tensor | tuple | list | Mapping):
        raise fail("PKC505", f"data holds a {type(x).__name__}", "expected a pair (x, y) of tensors, or x alone")
    if not any(isinstance(t, Tensor) for t in pytree.tree_leaves(x)):
        raise fail("PKC505", f"data holds a {type(x).__name__} without a tensor", "expected a pair (x, y) of tensors, or x alone")
    for t in pytree.tree_leaves(x):
        if isinstance(t, Tensor) and (not t.dim() or not len(t)):
            raise fail("PKC526", f"the data have shape {tuple(t.shape)}, and no sample", "dimension 0 runs over the samples")
    require_samples(x)
    return x


def _output_shape(probe: ModelAtData) -> tuple[int, ...]:
    """One sample's output shape, having checked on a few samples that each output depends on its own sample alone."""
    few = min(probe.n, 3)
    with torch.no_grad(), computing():
        together = probe.at(probe.theta, probe.samples(0, few))
        alone = [probe.at(probe.theta, probe.samples(i, i + 1)) for i in range(few)]
    shape = tuple(together.shape)
    close = together.numel() == sum(a.numel() for a in alone)
    if close:
        apart = torch.cat([a.reshape(-1) for a in alone])
        scale = apart.abs().max().clamp(min=torch.finfo(apart.dtype).tiny)
        close = bool(((together.reshape(-1) - apart).abs().max() / scale) < torch.finfo(apart.dtype).eps ** 0.6)
        require_finite(apart, "the model's output at the data")
    if not close:
        raise fail(
            "PKC526",
            f"the outputs of {few} samples together, {shape}, are not those of each sample alone",
            *_alone(probe.module),
        )
    return shape[1:] if shape and shape[0] == few else (together.numel() // few,)


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise ``PKC526`` where a number is NaN or infinite."""
    if not bool(tensor.isfinite().all()):
        raise fail("PKC526", f"{what} holds NaN or infinite values", "look for them in the weights and in the data")


@contextmanager
def computing() -> Iterator[None]:
    """Attention by operators that have every derivative: torch's fused ones lack second and forward derivatives."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
