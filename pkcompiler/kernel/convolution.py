"""Convolutions that are cheap to differentiate twice.

A convolution is the trilinear form <conv(x, W), g>. Its three partial derivatives are the convolution itself, the gradient in its
input, and the gradient in its weight, and each one's own derivatives are the two others: here as three functions on torch's own
forward and backward kernels. torch's double backward writes the derivatives of the gradients as convolutions with transposed and
grouped operands instead; its results are the same, for 1.3 to 2.5 times the time in float64 on the CPU (and it refuses transposed
convolutions with an output padding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pkcompiler.ir.maps import Conv
from pkcompiler.paths.sweep import Sweep

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What torch's convolution takes beside its operands, in its order."""

    stride: Shape
    padding: Shape
    dilation: Shape
    transposed: bool
    output_padding: Shape
    groups: int

    def value(self, x: Tensor, weight: Tensor) -> Tensor:
        """conv(x, W)."""
        out: Tensor = torch.ops.aten.convolution(x, weight, None, *self._arguments())
        return out

    def in_input(self, g: Tensor, weight: Tensor, shape: Shape) -> Tensor:
        """The derivative of <conv(x, W), g> in x, of the given shape."""
        blank = g.new_empty(1).expand(shape)
        out: Tensor = torch.ops.aten.convolution_backward(g, blank, weight, None, *self._arguments(), [True, False, False])[0]
        return out

    def in_weight(self, x: Tensor, g: Tensor, shape: Shape) -> Tensor:
        """The derivative of <conv(x, W), g> in W, of the given shape."""
        blank = x.new_empty(1).expand(shape)
        out: Tensor = torch.ops.aten.convolution_backward(g, x, blank, None, *self._arguments(), [False, True, False])[1]
        return out

    def _arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups


def geometry(map: Conv) -> Geometry:
    """The geometry of a path map."""
    still = (0,) * len(map.stride)
    return Geometry(map.stride, map.padding, map.dilation, map.transposed, map.output_padding or still, map.groups)


def _value(how: Geometry, x: Tensor, weight: Tensor) -> Tensor:
    """With a graph behind it only where one is wanted, as below: nodes cost as much as small convolutions."""
    return _Value.apply(x, weight, how) if torch.is_grad_enabled() else how.value(x, weight)


def _in_input(how: Geometry, g: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    return _InInput.apply(g, weight, how, shape) if torch.is_grad_enabled() else how.in_input(g, weight, shape)


def _in_weight(how: Geometry, x: Tensor, g: Tensor, shape: Shape) -> Tensor:
    return _InWeight.apply(x, g, how, shape) if torch.is_grad_enabled() else how.in_weight(x, g, shape)


class _Value(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return how.value(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, _ = ctx.needs_input_grad
        in_x = _in_input(ctx.how, g, weight, x.shape) if by_x else None
        return in_x, _in_weight(ctx.how, x, g, weight.shape) if by_weight else None, None


class _InInput(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, how: Geometry, shape: Shape) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.how = how
        return how.in_input(g, weight, shape)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, weight = ctx.saved_tensors
        by_g, by_weight, *_ = ctx.needs_input_grad
        in_g = _value(ctx.how, v, weight) if by_g else None
        return in_g, _in_weight(ctx.how, v, g, weight.shape) if by_weight else None, None, None


class _InWeight(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, how: Geometry, shape: Shape) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.how = how
        return how.in_weight(x, g, shape)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        by_x, by_g, *_ = ctx.needs_input_grad
        in_x = _in_input(ctx.how, g, v, x.shape) if by_x else None
        return in_x, _value(ctx.how, x, v) if by_g else None, None, None


def convolution(map: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``paths.reindex.convolve`` gives: 1 to 3 spatial dimensions, transposed or not; x [batch, channels, ...]."""
    y = _value(geometry(map), x, weight)
    return y if bias is None else y + bias.reshape(-1, *(1,) * len(map.stride))


class TwiceSweep(Sweep):
    """A sweep that is differentiated twice."""

    def convolve(self, map: Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As :func:`convolution`, with derivatives of every order that are as cheap."""
        return convolution(map, x, weight, bias)
