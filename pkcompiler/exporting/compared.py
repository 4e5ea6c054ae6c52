"""Whether what was written computes what the model does: both are called, at the example and at random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.exporting.content import unchecked
from pkcompiler.frontend.export import evaluating
from pkcompiler.lowering.batch import batch_of, is_batched
from pkcompiler.userstreams import silenced

ROWS = 3
"""Samples of a random input, where their number is free."""
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""The largest difference, of the largest entry of an output: the same operations in another order round otherwise."""
COARSE = 5e-2
"""Of half precision."""

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""
Run = Callable[[Sequence[Given]], Sequence[Sequence[Tensor]]]
"""What is compared: from several calls to the flat outputs of each."""


def compare(model: nn.Module, run: Run, given: Given, *, free: bool, what: str) -> float:
    """The largest difference between ``model`` in evaluation mode and ``run``, in parts of the largest entry.

    Both are called at the example and at random inputs: of another batch where it is ``free``. Random numbers that the model
    itself does not take are left out. Raises ``PKC651`` where the difference is more than rounding, or ``run`` fails.
    """
    calls = [(given, outputs_of(model, *given))]
    with suppress(Exception):  # whatever a model says of numbers that it does not take
        calls.append((drawn := _random_like(given, free), outputs_of(model, *drawn)))
    try:
        found = run([call for call, _ in calls])
    except PkcError:
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _differs(what, f"fails where the model runs: {first}") from error
    return max(
        (
            _difference(a, b, f"output {i}", what)
            for (_, own), other in zip(calls, found, strict=True)
            for i, (a, b) in enumerate(zip(own, other, strict=True))
        ),
        default=0.0,
    )


def outputs_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The flat outputs that are tensors, in evaluation mode, on the CPU."""
    fresh = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, (args, dict(kwargs)))
    with evaluating(model), torch.no_grad(), silenced():
        found = model(*fresh[0], **fresh[1])
    return [leaf.detach().cpu() for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]


def _random_like(given: Given, free: bool) -> Given:
    generator, batch = torch.Generator().manual_seed(0), batch_of(given)
    rows = ROWS if free and batch is not None else None
    found: Given = pytree.tree_map(lambda x: _random(x, rows if is_batched(x, batch) else None, generator), given)
    return found


def _random(value: Any, rows: int | None, generator: torch.Generator) -> Any:
    """Standard normal numbers, or whole ones between the least and the largest of the example; all else is as it is."""
    if not isinstance(value, Tensor) or not value.numel() or value.dtype == torch.bool or value.is_complex():
        return value if rows is None or not isinstance(value, Tensor) else value[:1].expand(rows, *value.shape[1:]).contiguous()
    shape = value.shape if rows is None else (rows, *value.shape[1:])
    if value.is_floating_point():
        return torch.randn(shape, generator=generator).to(value)
    return torch.randint(int(value.min()), int(value.max()) + 1, shape, generator=generator).to(value)


def _difference(own: Tensor, other: Tensor, name: str, what: str) -> float:
    if own.shape != other.shape or own.dtype != other.dtype:
        shapes = f"{tuple(other.shape)} {other.dtype}, the model's is {tuple(own.shape)} {own.dtype}"
        raise _differs(what, f"gives another {name}: {shapes}")
    if not own.is_floating_point():
        if not torch.equal(own, other):
            raise _differs(what, f"gives another {name} than the model")
        return 0.0
    a, b = own.double(), other.double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        raise _differs(what, f"gives {name} infinite or NaN where the model does not")
    largest = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
    worst = float((a - b)[finite].abs().max()) / (largest or 1.0) if bool(finite.any()) else 0.0
    if worst > CLOSE.get(own.dtype, COARSE):
        raise _differs(what, f"gives {name} that differs from the model's by {worst:.1e} of its largest entry")
    return worst


def _differs(what: str, how: str) -> PkcError:
    return fail(
        "PKC651",
        f"{what} {how}: nothing was written",
        "if the model draws random numbers or keeps a state between calls, export the part that does not; else report this",
        f"write it as it is, unchecked: {unchecked()}",
    )
