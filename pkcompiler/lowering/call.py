"""The functions that lowered graphs call beside torch's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from pkcompiler.diagnostics import fail

Shapes = tuple[tuple[int | str, ...] | None, ...]


def call_with(module: nn.Module, weights: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``module(*args, **kwargs)`` with ``weights`` in place of the parameters of those names (aliases follow)."""
    return functional_call(module, dict(weights), tuple(args), dict(kwargs))


def check_shapes(expected: Shapes, inputs: Sequence[Any]) -> None:
    """Sizes recorded as numbers must be equal, sizes recorded under one letter must agree; None stands for what is no tensor.

    :raises PkcError: PKC276.
    """
    sizes: dict[str, int] = {}
    pairs = [(want, value.shape) for want, value in zip(expected, inputs, strict=True) if want is not None]
    if not all(_fits(want, shape, sizes) for want, shape in pairs):
        raise fail(
            "PKC276",
            f"the graph was recorded for inputs of shape {', '.join(_text(want) for want, _ in pairs)}, "
            f"it was called with {', '.join(_text(shape) for _, shape in pairs)}",
            "lower again for these sizes: lower(model, masks, example_inputs)",
        )


def _fits(want: Sequence[int | str], shape: Sequence[int], sizes: dict[str, int]) -> bool:
    if len(want) != len(shape):
        return False
    return all(size == (x if isinstance(x, int) else sizes.setdefault(x, size)) for x, size in zip(want, shape, strict=True))


def _text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
