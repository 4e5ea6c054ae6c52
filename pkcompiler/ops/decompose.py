"""Which operators are written as others before they are read, and how: those that have no entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pkcompiler.ops.table import TABLE

aten = torch.ops.aten

WHOLE = """
silu hardswish hardsigmoid mish celu selu softplus relu6 log_sigmoid softshrink hardshrink threshold clamp_min clamp_max square sinc
logsumexp std.correction
"""
"""Operators without an entry that are read whole, as gates or frozen, although torch would decompose them."""

FIRST = frozenset({"aten.div.Tensor"})
"""Rewritten although they have an entry: that of a quotient reads what the rewriting leaves, a tensor divided by a number."""


def is_decomposed(target: Any) -> bool:
    """Whether an operator is written as others before it is read: what has an entry, shipped or plugged in, never is."""
    return _entryless(target) and (target in REWRITES or target in _torch_decompositions())


def is_rewritten(target: Any) -> bool:
    """Whether a rewriting of this file applies, wherever the operator stands."""
    return _entryless(target) and target in REWRITES


def decompositions() -> dict[Any, Callable[..., Any]]:
    """How each operator that is decomposed is written, by torch's default or by the rewritings of this file."""
    return {target: how for target, how in {**_torch_decompositions(), **REWRITES}.items() if _entryless(target)}


def is_composed(target: torch._ops.OpOverload) -> bool:
    """Whether torch decomposes an operator wherever it decomposes anything, without a look into the table: views made of others,
    and what may be one. Entries of these say what those of the others say."""
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    views = composite and any(argument.alias_info for argument in target._schema.arguments)
    return views or torch.Tag.maybe_aliasing_or_mutating in target.tags


def _entryless(target: Any) -> bool:
    return str(target) not in TABLE or str(target) in FIRST


@cache
def _torch_decompositions() -> dict[Any, Callable[..., Any]]:
    """torch's default table without :data:`WHOLE` (made once: do not change it)."""
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions().items())
    for name in WHOLE.split():
        packet, _, overload = name.partition(".")
        del table[getattr(getattr(aten, packet), overload or "default")]
    return table


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention written out: scores, mask, softmax, values (so that its softmax can be recorded)."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor
    if is_causal:
        allowed = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """PReLU as two gates, the second scaled by its parameter: max(x, 0) + a min(x, 0)."""
    shape = [1, -1] + [1] * (x.dim() - 2) if weight.numel() > 1 else [1] * x.dim()
    return torch.relu(x) + weight.reshape(shape) * torch.clamp_max(x, 0)


def divide(x: Any, y: Any) -> Any:
    """x / y of two floating tensors as x times the reciprocal of y (which is frozen where y depends on the data)."""
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.is_floating_point() and y.is_floating_point():
        return x * torch.reciprocal(y)
    return NotImplemented


def log_softmax(x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """x minus the logarithm of its sum of exponentials, which is frozen."""
    x = x if not isinstance(dtype, torch.dtype) else x.to(dtype)
    return x - torch.logsumexp(x, dim, True)


def smallest(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``min`` along a dimension, by ``max`` of -x: values and indices."""
    values, indices = torch.max(-x, dim, keepdim)
    return -values, indices


def rrelu(x: Tensor, noise: Tensor, lower: float = 0.125, upper: float = 1 / 3, *rest: Any) -> tuple[Tensor, Tensor]:
    """In evaluation mode the slope is the middle of its range."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2), noise


def clamp(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds that are tensors, one after the other."""
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


REWRITES: dict[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: attention,
    aten.prelu.default: prelu,
    aten._prelu_kernel.default: lambda x, weight: torch.relu(x) + weight * torch.clamp_max(x, 0),
    aten.div.Tensor: divide,
    aten.log_softmax.int: log_softmax,
    aten._log_softmax.default: log_softmax,
    aten.min.dim: smallest,
    aten.amin.default: lambda x, dim=(), keepdim=False: -torch.amax(-x, dim, keepdim),
    aten.rrelu_with_noise_functional.default: rrelu,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.Tensor: torch.maximum,
    aten.clamp_max.Tensor: torch.minimum,
    aten.copy.default: lambda x, source, non_blocking=False: source.to(x.dtype).expand(x.shape),
    aten.addcmul.default: lambda x, a, b, *, value=1: x + (a * b if value == 1 else value * (a * b)),
    aten.var_mean.correction: lambda x, dim=None, *, correction=None, keepdim=False: (
        torch.var(x, dim, correction=correction, keepdim=keepdim),
        torch.mean(x, [] if dim is None else dim, keepdim),
    ),
    aten.std_mean.correction: lambda x, dim=None, *, correction=None, keepdim=False: (
        torch.std(x, dim, correction=correction, keepdim=keepdim),
        torch.mean(x, [] if dim is None else dim, keepdim),
    ),
    aten.glu.default: lambda x, dim=-1: x.chunk(2, dim)[0] * torch.sigmoid(x.chunk(2, dim)[1]),
}
