"""Autograd of the model beside autograd of its exported program, and how far they are apart: certificate (3) of docs/theory.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import Program, evaluating
from pkcompiler.frontend.lift.classify import op_name
from pkcompiler.frontend.observed import ProgramRun, run_inputs

EMBEDDING = "aten.embedding.default"
SMALLEST = 1e-6
"""A parameter whose derivatives are all below this part of the largest of all is compared against that part."""
ROUNDING = 1e-13
"""Derivatives below this part of the largest of all are 0 up to rounding (a key's bias behind softmax)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two sets of derivatives. ``errors``: per parameter with a derivative on either side, the largest difference over its largest
    derivative; ``untested``: the parameters whose derivatives are 0 on both sides, up to rounding."""

    errors: Mapping[str, float]
    untested: tuple[str, ...]

    @property
    def worst(self) -> float:
        """The largest error, 0 where nothing was compared."""
        return max(self.errors.values(), default=0.0)


class DerivativeRun(ProgramRun):
    """A run of the program whose derivatives are those of its function: an embedding does not divide them by counts of rows, and
    gives them dense."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An operator of the program; an embedding is called without ``scale_grad_by_freq`` and ``sparse``."""
        if target is torch.ops.aten.embedding.default:
            return target(*args[:3], **{name: value for name, value in kwargs.items() if name == "padding_idx"})
        return super().call_function(target, args, kwargs)


def rows_by_frequency(program: Program) -> tuple[str, ...]:
    """The parameters that ``Embedding(scale_grad_by_freq=True)`` reads: autograd divides their rows' gradients by counts."""
    reads = [
        n
        for n in program.module.graph.nodes
        if op_name(n) == EMBEDDING and True in (*n.args[3:4], n.kwargs.get("scale_grad_by_freq"))
    ]
    tables = [n.args[0] for n in reads]
    return tuple(
        dict.fromkeys(program.parameters[t.name] for t in tables if isinstance(t, fx.Node) and t.name in program.parameters)
    )


def certificate_three(captured: Capture, cotangent: Tensor) -> Agreement:
    """Plain autograd of the exported program beside plain autograd of the module, every parameter counting as trainable.

    Raises ``PKC503`` where autograd cannot differentiate the model.
    """
    try:
        return agreement(model_gradients(captured, cotangent), program_gradients(captured, cotangent))
    except (RuntimeError, NotImplementedError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        note = "where an operator is your own, torch.library.register_autograd gives it its derivative"
        raise fail("PKC503", f"autograd cannot differentiate the model: {first}", note) from error


def program_gradients(captured: Capture, cotangent: Tensor) -> dict[str, Tensor]:
    """Plain autograd of the exported program: of the inner product of its output with ``cotangent``, by every parameter."""
    program = captured.program
    leaves = trainable({n: program.tensors[n] for n in sorted(set(program.parameters.values()))})
    with torch.enable_grad():
        (output,) = DerivativeRun(program).run(*run_inputs(program, captured.call.flat, {**program.tensors, **leaves}))
        return derivatives((output * cotangent).sum(), leaves)


def model_gradients(captured: Capture, cotangent: Tensor) -> dict[str, Tensor]:
    """Plain autograd of the module as captured, in evaluation mode, likewise."""
    leaves = trainable(dict(captured.module.named_parameters()))
    with torch.enable_grad(), evaluating(captured.module):
        output = captured.call.run(captured.module, captured.call.flat, leaves)
        return derivatives((output * cotangent).sum(), leaves)


def trainable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors that can be differentiated by, as leaves that require grad, whatever the model's own flags say."""
    floating = {n: t for n, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    return {n: t.detach().clone().requires_grad_() for n, t in floating.items()}


def derivatives(total: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The derivative of ``total`` by each leaf, dense, zeros where it does not depend on it."""
    if not leaves or not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g.to_dense() for (n, leaf), g in zip(leaves.items(), grads, strict=True)}


def agreement(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Agreement:
    """How far two sets of derivatives are apart; a parameter that one side lacks has derivative 0 there."""
    sizes = {n: max(_largest(first.get(n)), _largest(second.get(n))) for n in dict.fromkeys((*first, *second))}
    top = max(sizes.values(), default=0.0)
    untested = tuple(n for n, size in sizes.items() if size <= top * ROUNDING)
    compared = [n for n in sizes if n not in untested]
    return Agreement({n: _apart(first.get(n), second.get(n)) / max(sizes[n], top * SMALLEST) for n in compared}, untested)


def _largest(tensor: Tensor | None) -> float:
    return float(tensor.abs().max()) if tensor is not None and tensor.numel() else 0.0


def _apart(a: Tensor | None, b: Tensor | None) -> float:
    return _largest(a - b) if a is not None and b is not None else max(_largest(a), _largest(b))
