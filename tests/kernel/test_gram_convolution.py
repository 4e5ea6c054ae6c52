"""The twice differentiated convolution against torch's own, in every geometry."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from pkcompiler.ir.maps import Conv
from pkcompiler.kernel.convolution import convolution
from pkcompiler.paths.reindex import convolve

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
PLAIN = [
    Conv("w", None, (s,) * rank, (1,) * rank, (d,) * rank, groups)
    for rank, s, d, groups in product((1, 2, 3), (1, 2), (1, 2), (1, 2))
]
TRANSPOSED = [
    Conv("w", None, (s,) * rank, (1,) * rank, (d,) * rank, groups, True, (0,) * rank)
    for rank, s, d, groups in product((1, 2, 3), (1, 2), (1, 2), (1, 2))
]
UNEQUAL = [Conv("w", None, (2, 1), (0, 2), (1, 3), 4), Conv("w", None, (3, 2), (1, 0), (1, 2), 2, True, (0, 0))]
REACHING = [Conv("w", None, (2,) * rank, (1,) * rank, (1,) * rank, 2, True, (1,) * rank) for rank in (1, 2, 3)]
"""With an output padding, where torch's own second derivative raises."""


def name(map: Conv) -> str:
    kind = "transposed" if map.transposed else "plain"
    return f"{kind} stride {map.stride} padding {map.padding}+{map.output_padding} dilation {map.dilation} groups {map.groups}"


def operands(map: Conv, size: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """x [2, 4, ...], a weight and a bias of 8 output channels."""
    generator = torch.Generator().manual_seed(5)
    rank = len(map.stride)
    kernel = (3, 2, 3)[:rank]
    shape = (4, 8 // map.groups, *kernel) if map.transposed else (8, 4 // map.groups, *kernel)
    sizes = ((2, 4, *(size, size - 1, size)[:rank]), shape, (8,))
    x, weight, bias = (torch.rand(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes)
    return x, weight, bias


def first_derivatives(function, map: Conv) -> list[Tensor]:
    leaves = operands(map)
    y = function(map, *leaves)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def derivatives(function, map: Conv) -> list[Tensor]:
    """The value, its gradients, the gradients of those along fixed directions, and the gradients of these."""
    leaves = operands(map)
    y = function(map, *leaves)
    generator = torch.Generator().manual_seed(6)
    g = torch.rand(y.shape, generator=generator, dtype=torch.float64).requires_grad_()
    first = torch.autograd.grad(y, leaves, g, create_graph=True)
    along = [torch.rand(t.shape, generator=generator, dtype=torch.float64) for t in first]
    second = torch.autograd.grad(first, (*leaves[:2], g), along, create_graph=True)
    third = torch.autograd.grad([s.square().sum() for s in second], (*leaves[:2], g))
    return [y, *first, *second, *third]


@pytest.mark.parametrize("map", [*PLAIN, *TRANSPOSED, *UNEQUAL], ids=name)
def test_three_orders_are_those_of_torch(map):
    for got, wanted in zip(derivatives(convolution, map), derivatives(convolve, map), strict=True):
        torch.testing.assert_close(got / wanted.abs().max(), wanted / wanted.abs().max(), **TOLERANCE)


@pytest.mark.parametrize("map", REACHING, ids=name)
def test_an_output_padding(map):
    for got, wanted in zip(first_derivatives(convolution, map), first_derivatives(convolve, map), strict=True):
        torch.testing.assert_close(got / wanted.abs().max(), wanted / wanted.abs().max(), **TOLERANCE)


@pytest.mark.parametrize("map", [PLAIN[0], PLAIN[-1], TRANSPOSED[0], *UNEQUAL, *REACHING], ids=name)
def test_derivatives_are_those_of_differences(map):
    x, weight, bias = operands(map, size=5)
    leaves = (x.detach()[:1].requires_grad_(), weight, bias)
    assert torch.autograd.gradcheck(lambda *args: convolution(map, *args), leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *args: convolution(map, *args), leaves, fast_mode=True)


def test_operands_without_a_gradient_are_left_alone():
    x, weight, _ = operands(PLAIN[0])
    (only,) = torch.autograd.grad(convolution(PLAIN[0], x.detach(), weight, None).sum(), weight, create_graph=True)
    assert not only.requires_grad, "the gradient in W of a fixed input does not depend on W"
