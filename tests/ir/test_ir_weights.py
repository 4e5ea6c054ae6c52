"""Where the outputs and inputs of a weight lie, beside what torch's own layers do with each entry of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.frontend.capture import capture
from pkcompiler.ir.weights import Sides, bias_of, groups, joinings, side, sides_of, units_of, windowed
from pkcompiler.paths.reindex import by_unit


class Turned(nn.Module):
    """GPT-2's Conv1D: a linear map that is stored [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(3, 4) + 1), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "linear": (lambda: nn.Linear(3, 4), (2, 3), (0, 1)),
    "turned": (Turned, (2, 3), (1, 0)),
    "convolution": (lambda: nn.Conv2d(4, 6, (2, 3), padding=1), (2, 4, 5, 5), (0, 1)),
    "in groups": (lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False), (2, 4, 7), (0, 1)),
    "depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4), (2, 4, 7), (0, 1)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 3, 3), (1, 0)),
    "transposed in groups": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), (1, 0)),
    "transposed depthwise": (lambda: nn.ConvTranspose1d(4, 8, 3, groups=4), (2, 4, 5), (1, 0)),
}
"""A layer, the shape of its input, and the dimensions of its outputs and inputs. Channels are dimension 1."""


@pytest.fixture(params=MODULES)
def case(request):
    """The layer, its map, a positive input, and the derivative of every output by every entry [output shape, entries]."""
    build, shape, sides = MODULES[request.param]
    module = build()
    x = torch.rand(shape) + 1
    ((_, map),) = joinings(capture(module, x).graph.ops)
    derivative = torch.autograd.functional.jacobian(
        lambda w: torch.func.functional_call(module, {"weight": w}, (x,)), module.weight.detach()
    )
    return module, map, x, derivative.reshape(*derivative.shape[: x.dim()], -1), Sides(*sides)


def test_an_entry_leads_to_the_unit_in_whose_row_it_is(case):
    module, map, _, derivative, _ = case
    reached = (derivative != 0).transpose(0, 1).flatten(1, -2).any(1)  # [units, entries]
    number = torch.arange(module.weight.numel()).reshape(module.weight.shape)
    rows = by_unit(map, number)
    assert rows.shape[0] == units_of(map, module.weight.shape) == reached.shape[0]
    expected = torch.zeros_like(reached)
    expected[torch.arange(len(rows))[:, None].expand_as(rows), rows] = True
    assert torch.equal(reached, expected)


def test_sides_and_groups(case):
    module, map, x, derivative, sides = case
    assert side(map) == sides
    assert sides.ordered(*sides.ordered("outputs", "inputs")) == ("outputs", "inputs")
    shape = module.weight.shape
    assert sides.ordered(shape[0], shape[1] * groups(map)) == (derivative.shape[1], x.shape[1])
    assert groups(map) == getattr(module, "groups", 1)
    assert (bias_of(map) is None) == (module.bias is None)


@pytest.mark.parametrize("name", ["in groups", "depthwise", "transposed", "transposed in groups", "transposed depthwise"])
def test_an_entry_is_read_once_per_window(name):
    """At ones, the derivative of the sum of the outputs by an entry counts the positions at which it is read."""
    build, shape, _ = MODULES[name]
    module, x = build(), torch.ones(shape)
    ((_, map),) = joinings(capture(module, x).graph.ops)
    weight = module.weight.detach().requires_grad_()
    made = torch.func.functional_call(module, {"weight": weight}, (x,))
    (counts,) = torch.autograd.grad(made.sum(), weight)
    inside, outside = x[:, 0].numel(), made[:, 0].numel()
    assert torch.equal(counts, torch.full_like(counts, windowed(map, inside, outside)[0]))
    assert windowed(map, *windowed(map, "inside", "outside")) == ("inside", "outside")


def test_a_table_has_its_units_in_its_columns() -> None:
    module = nn.Embedding(5, 3)
    graph = capture(module, torch.zeros(2, 4, dtype=torch.int64)).graph
    ((_, map),) = joinings(graph.ops)
    assert (side(map), groups(map), bias_of(map), units_of(map, (5, 3))) == (Sides(1, 0), 1, None, 3)
    assert torch.equal(by_unit(map, module.weight), module.weight.T)
    assert sides_of(graph) == {}
