"""Which pointwise operators are linear, which are gates, which are singular; and what is mere plumbing."""

from __future__ import annotations

import torch

PASS_THROUGH = frozenset(
    [
        "aten.clone.default",
        "aten.alias.default",
        "aten._to_copy.default",
        "aten.dropout.default",
        "aten.contiguous.default",
        "aten.lift_fresh_copy.default",
        "aten.detach_.default",
        "aten.feature_dropout.default",
        "aten.alpha_dropout.default",
        "aten.to.dtype",
        "aten.type_as.default",
    ]
)
"""Operators that hand their tensor on unchanged (in evaluation mode; a change of precision is no change of value)."""

IGNORED = frozenset(
    {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range_for_size.default"}
)

LINEAR = frozenset(
    [
        "aten.add.Tensor",
        "aten.add.Scalar",
        "aten.sub.Tensor",
        "aten.sub.Scalar",
        "aten.rsub.Scalar",
        "aten.rsub.Tensor",
        "aten.mul.Tensor",
        "aten.mul.Scalar",
        "aten.div.Tensor",
        "aten.div.Scalar",
        "aten.neg.default",
    ]
)
"""Pointwise operators that are linear in a path as long as the other operand is no function of the same tensor."""

SINGULAR = frozenset(
    [
        "aten.log.default",
        "aten.log2.default",
        "aten.log10.default",
        "aten.log1p.default",
        "aten.reciprocal.default",
        "aten.rsqrt.default",
        "aten.sqrt.default",
        "aten.logsumexp.default",
    ]
)
"""Functions singular at 0: frozen, unless they are part of an activation that is regular there (softplus written out)."""

NORMS = frozenset(
    [
        "aten.rsqrt.default",
        "aten.sqrt.default",
        "aten.linalg_vector_norm.default",
        "aten.var.correction",
        "aten.std.correction",
        "aten.norm.Scalar",
    ]
)
"""Operators that read the size of their input: what depends on them is a norm, for the ``norms`` argument of a functional."""

UNTAGGED = frozenset(
    ["aten.hardswish.default", "aten.log_sigmoid.default", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar"]
)
"""Pointwise operators that torch does not tag as such."""

FACTORIES = frozenset(["aten.full_like.default", "aten.zeros_like.default", "aten.ones_like.default"])
"""Operators that read the shape of a tensor and nothing else, and fill it with one number."""

FROZEN_LIST = (
    NORMS | SINGULAR | {"aten.pow.Tensor_Scalar", "aten.softmax.int", "aten._softmax.default", "aten._safe_softmax.default"}
)
"""The closed list of floating operators that may be frozen at the data (with what is computed from them alone)."""


def is_pointwise(target: object) -> bool:
    """Whether torch tags the operator as pointwise (or forgot to)."""
    return isinstance(target, torch._ops.OpOverload) and (torch.Tag.pointwise in target.tags or str(target) in UNTAGGED)


def is_random(target: object, arguments: tuple[object, ...]) -> bool:
    """Whether the operator draws random numbers (a dropout does so in training only)."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    return "dropout" not in str(target) or True in arguments[2:3]


def is_singular(name: str, exponent: object = None) -> bool:
    """log, square root, reciprocal, and powers with a negative or a fractional exponent below 1."""
    if name in SINGULAR:
        return True
    return name == "aten.pow.Tensor_Scalar" and isinstance(exponent, int | float) and exponent < 1
