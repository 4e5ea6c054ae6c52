"""What a reader of a report should know first: each finding says what it means and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pkcompiler.diagnostics import typed_or_called
from pkcompiler.ir.types import PathGraph
from pkcompiler.paths.topology import Layer, Topology, crossed
from pkcompiler.report.computed import computed_weights

LARGE = 38.0
"""log10 of the largest float32."""
UNFED = 1e-6
"""A part of R_2 below this reaches the output from the inputs: the rest begins at biases."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind``: ``non-finite``, ``collapsed``, ``near-collapse``, ``dead-units``, ``dead-outputs``, ``all-zero``,
    ``unmasked-zeros``, ``vanishing-mass``, ``exploding-mass``,
    ``computed-weights``. ``subject``: what it is about (a parameter, ``model``)."""

    kind: str
    subject: str
    message: str
    help: str

    def to_json(self) -> dict[str, str]:
        """Plain data, a string for each field."""
        return {"kind": self.kind, "subject": self.subject, "message": self.message, "help": self.help}


def find(
    graph: PathGraph,
    tensors: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    left: Topology,
    found: tuple[Layer, ...],
    totals: Mapping[str, Any],
) -> tuple[Finding, ...]:
    """All findings, the gravest first. ``totals``: the figures of the report."""
    return (
        *_non_finite(graph, tensors),
        *_connection(left),
        *_collapse(found),
        *_zeros(graph, tensors, masks),
        *_mass(totals),
        *_dead(found),
        *_computed(graph, tensors, masks),
    )


def _computed(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Iterator[Finding]:
    names = computed_weights(graph, masks)
    if names:
        entries = sum(tensors[n].numel() for n in names)
        what = "a parameter" if len(names) == 1 else f"{len(names)} parameters"
        message = f"weights are computed from {entries:,} entries of {what}, which are no candidates of pruning"
        yield Finding("computed-weights", names[0], message, f"prune them too: {_include(names[0])}, or a glob")


def _non_finite(graph: PathGraph, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    for slot in (s for s in graph.slots if s.role != "computed"):
        tensor = tensors[slot.name]
        bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if bad:
            message = f"{bad:,} of {tensor.numel():,} entries are NaN or infinite, so norms and tau are undefined"
            yield Finding("non-finite", slot.name, message, _other_weights())


def _connection(left: Topology) -> Iterator[Finding]:
    dead, whole = int((~left.outputs).sum()), left.outputs.numel()
    if not left.connected:
        message = "no path leads from an input to an output: the network is a constant"
        yield Finding(
            "collapsed", "model", message, "keep more weights: a higher density, or the pass synflow, which keeps layers alive"
        )
    elif dead:
        message = f"{dead:,} of {whole:,} output entries depend on no input"
        yield Finding("dead-outputs", "model", message, f"keep the last layer: {_except('GLOB')}, or a higher density")


def _collapse(found: tuple[Layer, ...]) -> Iterator[Finding]:
    for layer in found:
        if layer.collapsed:
            message = f"none of {layer.units:,} units lies on a path from an input to an output ({layer.kept:,} weights kept)"
            yield Finding("collapsed", layer.weight, message, f"protect it: {_except(layer.weight)}, or keep more weights")
        elif layer.at_risk:
            message = (
                f"{layer.alive:,} of {layer.units:,} units and {layer.fed:,} of {layer.entries:,} weights carry all that is left"
            )
            yield Finding("near-collapse", layer.weight, message, f"prune it less: {_except(layer.weight)}, or {_erk()}")


def _zeros(graph: PathGraph, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Iterator[Finding]:
    zeros, prunable = 0, 0
    factors = crossed(graph)
    for slot in graph.parameters:
        tensor = tensors[slot.name]
        kept = tensor[masks[slot.name].to(tensor.device)] if slot.name in masks else tensor
        if slot.name in factors and kept.numel() and not kept.any():
            message = f"all {kept.numel():,} kept entries are 0: paths through it carry no mass"
            yield Finding(
                "all-zero",
                slot.name,
                message,
                f"meant so at initialisation (zero-init residuals); else {_other_weights()}",
            )
        if slot.prunable:
            zeros, prunable = zeros + int((kept == 0).sum()), prunable + kept.numel()
    if zeros * 100 > prunable:
        message = f"{zeros:,} of {prunable:,} kept prunable weights are 0, but counted as kept: values are no mask"
        yield Finding(
            "unmasked-zeros", "model", message, "analyze(model, inputs, masks={n: p != 0 for n, p in model.named_parameters()})"
        )


def _mass(totals: Mapping[str, Any]) -> Iterator[Finding]:
    sizes = {"R_1": totals["l1"].value, "R_2": totals["l2_squared"].value}
    large = [f"{name} = 10^{mass.log10:.1f}" for name, mass in sizes.items() if mass is not None and mass.log10 > LARGE]
    small = [
        f"{name} = 10^{mass.log10:.1f}" for name, mass in sizes.items() if mass is not None and -LARGE > mass.log10 > float("-inf")
    ]
    if large:
        message = f"{', '.join(large)} exceeds the range of float32 (10^38)"
        yield Finding(
            "exploding-mass",
            "model",
            message,
            "nothing to do here (exponents are carried); rescale weights before a plain float32 sum",
        )
    if small:
        message = f"{', '.join(small)} lies below the range of float32 (10^-38)"
        yield Finding(
            "vanishing-mass",
            "model",
            message,
            "nothing to do here (exponents are carried); rescale weights before a plain float32 sum",
        )
    share = totals["fed_share"].value
    if share is not None and share < UNFED:
        message = (
            f"paths from the inputs carry {share:.1g} of R_2, the rest begins at biases: the output hardly depends on the input"
        )
        yield Finding("vanishing-mass", "model", message, "use a wider initialisation (He), a norm, or skip connections")


def _dead(found: tuple[Layer, ...]) -> Iterator[Finding]:
    idle = sorted((layer for layer in found if layer.dead + layer.constant), key=lambda layer: layer.alive / layer.units)
    if not idle:
        return
    units, dead, constant = (sum(getattr(layer, key) for layer in found) for key in ("units", "dead", "constant"))
    worst = ", ".join(f"{layer.weight} ({layer.alive:,} of {layer.units:,} left)" for layer in idle[:3])
    message = f"of {units:,} units {dead:,} are dead (on no path) and {constant:,} constants (no input feeds them); worst: {worst}"
    advice = "they can be removed and the function stays the same (a constant goes into the next bias)"
    yield Finding("dead-units", "model", message, advice)


# what to do about it ----------------------------------------------------------------------------------------------------


def _include(glob: str) -> str:
    return typed_or_called(f"--include {glob!r}", f'include = "{glob}" in a schedule')


def _except(glob: str) -> str:
    return typed_or_called(f"--except {glob!r}", f'except = "{glob}" in a schedule')


def _erk() -> str:
    return typed_or_called("--scope erk", 'scope="erk"')


def _other_weights() -> str:
    return typed_or_called("load other weights: --weights FILE", "load other weights: model.load_state_dict(...)")
