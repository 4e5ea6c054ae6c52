"""What is no computed weight (docs/theory.md, section 1): layers inside, sums and products that share no parameter stay paths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pkcompiler as pk


class Queries(nn.Module):
    """Learned queries through a LayerNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 4))
        self.norm, self.query, self.key, self.value = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(self.norm(self.queries)) @ self.key(x).transpose(-1, -2)
        return (scores.softmax(-1) @ self.value(x)).flatten(1)


class Hyper(nn.Module):
    """A network that makes the weight of a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.randn(4))
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.second(torch.relu(self.first(self.z))).view(3, 4))


class Adapted(nn.Module):
    """A weight and a product of two factors beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.a, self.b = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 4), (2, 4), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + self.b @ self.a)


class Squared(nn.Module):
    """A parameter times itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight @ self.weight)


def lifted(model: nn.Module, x: Tensor) -> pk.PathGraph:
    assert pk.certify(model.eval(), x).holds
    return pk.lift(model, x)


def test_queries_through_a_layer_stay_paths() -> None:
    graph = lifted(Queries(), torch.randn(2, 5, 4))
    assert not graph.computed and {s.name for s in graph.prunable} == {"query.weight", "key.weight", "value.weight"}


def test_weights_made_by_a_network_stay_paths() -> None:
    graph = lifted(Hyper(), torch.randn(2, 4))
    assert not graph.computed and {s.name for s in graph.prunable} == {"first.weight", "second.weight"}


def test_sums_and_products_of_distinct_parameters_stay_paths() -> None:
    assert not lifted(Adapted(), torch.randn(2, 4)).computed


def test_a_product_of_a_parameter_with_itself_is_computed() -> None:
    (slot,) = lifted(Squared(), torch.randn(2, 4)).computed
    assert slot.of == ("weight",)
