"""The facts of a graph that several readers share: which factor of a product modulates, who reads a value, what depends on data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.frontend.capture import capture
from pkcompiler.ir.graphs import data_dependent, modulators, only_reader, readers
from pkcompiler.ir.maps import Product
from pkcompiler.ir.types import PathGraph
from pkcompiler.ir.walk import last_uses
from pkcompiler.ir.weights import Sides, carried, fan_in, kinds_of, sides_of, units_of
from pkcompiler.symbolic.closed import closed_forms


class Two(nn.Module):
    """A function of two linear maps of the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.a(x), self.b(x))


def graph_of(function: Callable[[Tensor, Tensor], Tensor]) -> PathGraph:
    return capture(Two(function), torch.zeros(2, 3, 4)).graph


def turned(t: Tensor) -> Tensor:
    return t.transpose(1, 2)


MODULATED = {
    "sigmoid": (lambda a, b: a * torch.sigmoid(b), 1),
    "sigmoid first": (lambda a, b: torch.sigmoid(b) * a, 0),
    "scaled, spread": (lambda a, b: (2 * torch.sigmoid(b.mean(1, keepdim=True))).expand(a.shape) * a, 0),
    "written out": (lambda a, b: a * (nn.functional.relu6(b + 3) / 6), 1),
    "one minus": (lambda a, b: (1 - torch.sigmoid(b)) * a, 0),
    "softmax": (lambda a, b: torch.softmax(a @ turned(b), -1) @ b, 0),
    "norm": (lambda a, b: a * b.norm(dim=-1, keepdim=True), 1),
    "normalised": (lambda a, b: nn.functional.layer_norm(a, (4,)) * b, 0),
    "sum of bounded": (lambda a, b: (torch.tanh(a) - torch.sigmoid(b)) * b, 0),
    "sum of bounded and not": (lambda a, b: (torch.tanh(a) + b) * b, None),
    "neither": (lambda a, b: a * b, None),
    "neither bounded": (lambda a, b: nn.functional.silu(a) * b, None),
    "scores": (lambda a, b: a @ turned(b), None),
    "both": (lambda a, b: torch.tanh(a) * torch.sigmoid(b), None),
}


@pytest.mark.parametrize("name", MODULATED)
def test_the_modulator_is_behind_a_softmax_a_bounded_gate_or_a_norm_in_any_order(name: str) -> None:
    function, expected = MODULATED[name]
    graph = graph_of(function)
    last = [op.name for op in graph.ops if isinstance(op.map, Product)][-1]
    assert modulators(graph)[last] == expected


def test_a_product_by_a_parameter_has_no_modulator() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l, self.g = nn.Linear(3, 3), nn.Parameter(torch.ones(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.l(x) @ self.g.sum(0)

    graph = capture(Scaled(), torch.zeros(2, 3)).graph
    assert any(isinstance(op.map, Product) for op in graph.ops) and modulators(graph) == {}


def test_who_reads_what() -> None:
    graph = graph_of(lambda a, b: torch.relu(a) + a.flip(1))
    first, gate, times, merge = graph.ops
    assert readers(graph)[first.name] == (gate, times)
    assert only_reader(graph) == {"x": first, gate.name: merge, times.name: merge}
    assert last_uses(graph) == {0: ["x"], 2: [first.name], 3: [gate.name, times.name]}
    assert data_dependent(graph) == {"x", *(op.name for op in graph.ops)}


LAYERS = [
    nn.Linear(3, 5),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.ConvTranspose2d(2, 5, 3),
    nn.ConvTranspose1d(4, 6, 2, groups=2),
    nn.Bilinear(2, 3, 4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_fan_in_is_that_of_torch(layer: nn.Module) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    assert fan_in(weight.shape) == nn.init._calculate_fan_in_and_fan_out(weight)[0]


def test_closed_forms_have_the_fan_in_of_torch() -> None:
    model = nn.ConvTranspose2d(2, 5, 3, bias=False)
    forms = closed_forms(model, torch.zeros(1, 2, 4, 4), variances="he")
    assert forms.r2.subs() == 2 * 16 * 5 * 9 * 2 / 45  # every input entry reaches 9 places of 5 channels


def test_layouts_and_kinds_of_parameters() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = nn.ConvTranspose1d(4, 6, 2, groups=2), nn.BatchNorm1d(6)
            self.packed, self.scale = nn.Parameter(torch.ones(3, 6, 6)), nn.Parameter(torch.ones(6, 1))

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.up(x)) * self.scale
            return (0.5 * self.packed.sum(0)) @ h

    graph = capture(Many().eval(), torch.zeros(2, 4, 3)).graph
    kinds = {
        "up.weight": "conv",
        "up.bias": "bias",
        "norm.weight": "gain",
        "norm.bias": "bias",
        "packed": "value",
        "scale": "scale",
    }
    assert {n: kind for n, kind in kinds_of(graph).items() if n in kinds} == kinds
    assert sides_of(graph) == {"up.weight": Sides(1, 0)}
    (up,) = (op.map for op in graph.ops if op.name == "up")
    assert units_of(up, (4, 3, 2)) == 6  # type: ignore[arg-type]
    assert {s.name for s in graph.prunable} == {"up.weight", "packed"}
    assert "packed" in carried(graph.ops).values()
