"""The signed path sum at data as a function of the parameters: the frozen-gate tangent kernel (docs/theory.md, section 3).

J_f = J_v(X) d v / d theta, and Theta = J_v Pi J_v^T: the derivative by theta of the sum over paths of v_p(theta) a_p(x) x_s, where
slopes, winners, deviations and frozen factors were recorded from the model's own run. Paths are never enumerated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import example_batch
from pkcompiler.ir.graphs import maps_of
from pkcompiler.ir.maps import Gate, Window
from pkcompiler.paths.certificate import SIGNED
from pkcompiler.paths.functional import chunks, masked
from pkcompiler.paths.record import observe
from pkcompiler.paths.reindex import window_max
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import data_inputs, input_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.tangent.function import TangentMap, Theta
from pkcompiler.tangent.jacobian import shown_bytes


@dataclass(frozen=True, slots=True)
class Plain:
    """No exponent is carried: signed sums at data are the model's own activations, which its precision holds."""

    def settle(self, value: Scaled) -> Scaled:
        """The value as it is."""
        return value

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        """The largest entry of each window."""
        return window_max(map, x)


def frozen_map(
    captured: Capture, data: Any, masks: Mapping[str, Tensor], wanted: Collection[str], dtype: torch.dtype, memory: int
) -> TangentMap:
    """The signed sweep with what is recorded at the data, as a function of the parameters in ``wanted``.

    A unit is a sample, or a batch that the trace has baked in (``PKC504`` where the samples do not divide into such). Raises
    ``PKC525`` where what is recorded does not fit into ``memory``.
    """
    size = captured.static_batch
    samples = data_inputs(captured, data)
    given = masked(captured, masks)
    seen = []
    for piece in one_by_one(captured, samples):
        observed, _ = observe(captured.program, captured.lifted, piece, {**captured.program.tensors, **given}, _signed(dtype))
        sources = input_sources(captured, piece, "data", size, dtype)
        seen.append((observed, sources))
        _require_room(seen[0], example_batch(samples) // size, memory)
    observed_names, source_names = tuple(seen[0][0]), tuple(seen[0][1])
    stacked = [torch.stack([o[n] for o, _ in seen]) for n in observed_names]
    stacked += [torch.stack([s[n] for _, s in seen]) for n in source_names]
    edges = Sweep(captured.graph, captured.tensors, _signed(dtype)).edges(masks)
    theta = {n: captured.tensors[n].to(dtype) for n in edges if n in wanted}

    def function(theta: Theta, unit: tuple[Tensor, ...]) -> Tensor:
        observed = dict(zip(observed_names, unit, strict=False))
        sources = dict(zip(source_names, unit[len(observed_names) :], strict=True))
        kept = {n: t * masks[n].to(t) if n in masks else t for n, t in theta.items()}
        sweep = Sweep(captured.graph, captured.tensors, _signed(dtype), observed=observed, batch=size, arithmetic=Plain())
        return sweep.run({**edges, **kept}, sources).tensor.reshape(-1)

    rows = function(theta, tuple(t[0] for t in stacked)).numel()
    return TangentMap(function, theta, tuple(stacked), rows)


def _signed(dtype: torch.dtype) -> Any:
    return settings(**{f: getattr(SIGNED, f) for f in ("edge", "gates", "pools", "norms", "products", "constants")}, dtype=dtype)


def one_by_one(captured: Capture, samples: Sequence[Any]) -> list[Sequence[Any]]:
    """The samples one unit at a time (a batch that the trace has baked in, else one sample)."""
    if not captured.batched:
        return [piece for piece in chunks(captured, samples, whole=False) if piece is not None]
    n = example_batch(samples)
    return [[t[i : i + 1] if isinstance(t, Tensor) and t.dim() else t for t in samples] for i in range(n)]


def _require_room(first: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], units: int, memory: int) -> None:
    """``PKC525`` where the recorded slopes of all units do not fit."""
    needed = units * sum(t.numel() * t.element_size() for part in first for t in part.values())
    if needed > memory:
        raise fail(
            "PKC525",
            f"what is recorded of the gates at {units} samples takes {shown_bytes(needed)}; the limit is {shown_bytes(memory)}",
            f"take fewer samples, or give memory={needed * 2}",
        )


def is_piecewise(captured: Capture) -> bool:
    """Whether every slope is locally constant and nothing is frozen: then the frozen-gate kernel is the NTK."""
    gates = all(map.piecewise for map in maps_of(captured.graph, Gate).values())
    return gates and all(r.kind in ("gate", "window", "factor") for r in captured.lifted.records.values())
