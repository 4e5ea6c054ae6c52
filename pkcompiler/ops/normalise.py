"""Normalisations: BatchNorm in evaluation mode (an affine map), LayerNorm, GroupNorm, InstanceNorm, RMSNorm."""

from __future__ import annotations

import torch

from pkcompiler.ir.maps import Batch, Constant, Fixed, InvSqrt, Literal, Merge, Named, Normalise, Product, Scale
from pkcompiler.ops.shape import permuted
from pkcompiler.ops.table import Known, Path, Ref, Use, path_op

BATCH_STATISTICS = "a BatchNorm without running statistics depends on the batch"


def affine(use: Use) -> Ref:
    """gamma / sqrt(var + eps) * (x - mean) + beta, per channel."""
    x, mean, var, eps = (use[name] for name in ("input", "running_mean", "running_var", "eps"))
    weight, bias = use["weight"], use["bias"]
    if weight is None and bias is None:
        return standardised(use, use.path(x), mean, var, eps)
    match use.fixed(var):
        case Named(slot):
            factor: Fixed = InvSqrt(slot, eps)
        case Literal(value):
            factor = Literal((value + eps) ** -0.5)
        case _:
            raise use.unsupported("its variance is no stored statistic")
    rank = len(x.shape)
    channels = channels_of(use, x)
    shape = (channels, *([1] * (rank - 2)))
    return use.emit(Scale(use.weight(weight), use.weight(bias), shape, factor, use.fixed(mean)), x, shape=x.shape)


def channels_of(use: Use, x: Ref) -> int:
    """The size of dimension 1."""
    size = x.shape[1]
    if isinstance(size, Batch):
        raise use.unsupported("its channels are the batch")
    return int(size)


def standardised(use: Use, x: Path, mean: Ref, var: Ref, eps: float) -> Path:
    """(x - mean) / sqrt(var + eps) per channel, as fixed factors and a constant source."""
    if not (isinstance(mean, Known) and isinstance(var, Known)):
        raise use.unsupported("its statistics depend on the data")
    column = (-1, *([1] * (len(x.shape) - 2)))
    factor = (var.tensor + eps).rsqrt().reshape(column)
    shift = factor * mean.tensor.reshape(column)
    scaled = use.emit(Constant(use.constant(factor)), x, shape=x.shape)
    return use.emit(Merge((1, -1)), scaled, use.path(Known(shift, tuple(shift.shape))), shape=x.shape)


@path_op("aten._native_batch_norm_legit_no_training.default")
def batch_norm_inference(use: Use) -> Ref | list[Ref]:
    return [affine(use)]


@path_op("aten.batch_norm.default")
def batch_norm(use: Use) -> Ref:
    if use["training"] or use["running_mean"] is None:
        raise use.unsupported(BATCH_STATISTICS)
    return affine(use)


@path_op("aten.layer_norm.default")
def layer_norm(use: Use) -> Ref:
    shape = tuple(use["normalized_shape"])
    map = Normalise("layer", shape, use.weight(use["weight"]), use.weight(use["bias"]), use["eps"])
    return use.record("normalise", use.emit(map, use["input"]))


_LIBRARY = torch.library.Library("pkcompiler", "DEF")
_LIBRARY.define("centre(Tensor x, int[] dims) -> Tensor")
_LIBRARY.impl("centre", lambda x, dims: x - x.mean(dims, keepdim=True), "CompositeImplicitAutograd")
CENTRE = torch.ops.pkcompiler.centre.default
"""x minus its mean over ``dims``: the centring of a normalisation that is written out."""


_LIBRARY.define("normalised(Tensor x, Tensor norm) -> Tensor")
_LIBRARY.impl("normalised", lambda x, norm: x * norm, "CompositeImplicitAutograd")
NORMALISED = torch.ops.pkcompiler.normalised.default
"""x times 1 over a norm of it: what is left of a normalisation that is written out."""


@path_op(str(NORMALISED))
def normalised(use: Use) -> Ref:
    return use.emit(Product("mul", norm=True), use.factor(use["x"]), use.factor(use["norm"]))


@path_op(str(CENTRE))
def centre(use: Use) -> Ref:
    x, dims = use["x"], tuple(use["dims"])
    order = (*(d for d in range(len(x.shape)) if d not in dims), *dims)
    turned = use.path(permuted(use, x, order))
    shape = tuple(int(n) for n in turned.shape[-len(dims) :])
    centred = use.emit(Normalise("centre", shape, None, None, 0.0), turned, shape=turned.shape)
    return permuted(use, centred, tuple(order.index(d) for d in range(len(order))))


@path_op("aten.rms_norm.default")
def rms_norm(use: Use) -> Ref:
    machine = torch.finfo(torch.float64 if use.dtype == "f64" else torch.float32).eps  # torch: half precision computes in float32
    eps = use.get("eps", machine)
    map = Normalise("rms", tuple(use["normalized_shape"]), use.weight(use["weight"]), None, eps)
    return use.record("normalise", use.emit(map, use["input"]))


def grouped(use: Use, groups: int) -> Ref:
    """A group normalisation of the input by its gain and bias, to be observed at the data."""
    channels = channels_of(use, use["input"])
    map = Normalise("group", (channels,), use.weight(use["weight"]), use.weight(use["bias"]), use["eps"], groups)
    return use.record("normalise", use.emit(map, use["input"]))


@path_op("aten.group_norm.default")
def group_norm(use: Use) -> Ref:
    return grouped(use, use["num_groups"])


@path_op("aten.instance_norm.default")
def instance_norm(use: Use) -> Ref:
    if not use["use_input_stats"]:
        return affine(use)
    if isinstance(use["input"].shape[1], Batch) and use["weight"] is None and use["bias"] is None:
        map = Normalise("layer", tuple(use["input"].shape[2:]), None, None, use["eps"])  # the rows of the batch as channels
        return use.record("normalise", use.emit(map, use["input"]))
    return grouped(use, channels_of(use, use["input"]))
