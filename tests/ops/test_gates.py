"""A functional depends on the function of a region, not on how it is written: gains of gates, and equal forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler import certify, lift, parse_graph, path_functional, path_kernel, prune
from pkcompiler.ir.maps import Gate, Window

Phi = Callable[[Tensor], Tensor]

# worked out by hand: the supremum of abs((phi(z) - phi(0)) / z), over abs(z) <= 1 where that is infinite
EXACT: dict[str, tuple[Phi, float]] = {
    "relu": (F.relu, 1),
    "gelu": (F.gelu, 1),
    "gelu, by tanh": (lambda z: F.gelu(z, approximate="tanh"), 1),
    "silu": (F.silu, 1),
    "silu, written": (lambda z: z * torch.sigmoid(z), 1),
    "mish": (F.mish, 1),
    "hardswish": (F.hardswish, 1),
    "relu6": (F.relu6, 1),
    "elu, by a clamp": (lambda z: torch.relu(z) + torch.clamp(torch.exp(z) - 1, max=0), 1),
    "tanh": (torch.tanh, 1),
    "abs": (torch.abs, 1),
    "softplus": (F.softplus, 1),
    "softplus, written": (lambda z: torch.log(1 + torch.exp(z)), 1),
    "hardshrink": (F.hardshrink, 1),
    "tanhshrink": (F.tanhshrink, 1),
    "sin": (torch.sin, 1),
    "sin(30 z)": (lambda z: torch.sin(30 * z), 30),
    "leaky relu .1": (lambda z: F.leaky_relu(z, 0.1), 1),
    "leaky relu 3": (lambda z: F.leaky_relu(z, 3.0), 3),
    "elu": (F.elu, 1),
    "elu, written": (lambda z: torch.where(z > 0, z, torch.exp(z) - 1), 1),
    "elu 2": (lambda z: F.elu(z, 2.0), 2),
    "selu": (F.selu, 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717),
    "erf": (torch.erf, 2 / math.sqrt(math.pi)),
    "sigmoid": (torch.sigmoid, 1 / 4),
    "sigmoid, written": (lambda z: 1 / (1 + torch.exp(-z)), 1 / 4),
    "hardsigmoid": (F.hardsigmoid, 1 / 6),
    "hardsigmoid, written": (lambda z: F.relu6(z + 3) / 6, 1 / 6),
    "sigmoid(1e-8 z)": (lambda z: torch.sigmoid(1e-8 * z), 1e-8 / 4),
    "1e-30 relu": (lambda z: F.relu(z) * 1e-30, 1e-30),
    "1e6 gelu": (lambda z: F.gelu(z) * 1e6, 1e6),
}
INSIDE: dict[str, tuple[Phi, float]] = {
    "cos": (torch.cos, math.sin(2.331122370414423)),
    "cos(1e6 z)": (lambda z: torch.cos(1e6 * z), 1e6 * math.sin(2.331122370414423)),
    "threshold": (lambda z: F.threshold(z, 0.1, 20), 199),
    "clamp": (lambda z: torch.clamp(z, 0.5, 2), 0.75),
    "exp": (torch.exp, math.e - 1),
    "relu^2": (lambda z: F.relu(z) ** 2, 1),
    "z^3": (lambda z: z**3, 1),
    "z^2": (lambda z: z * z, 1),
    "relu(z - 1)^2": (lambda z: F.relu(z - 1) ** 2, 1 / 2),
    "tan": (torch.tan, math.tan(1)),
}


class Between(nn.Module):
    """A function between two linear layers, or by ``skip`` beside the second."""

    def __init__(self, phi: Phi, *, skip: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o, self.phi, self.skip = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), phi, skip
        self.p = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("tenth", torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.o(z + self.call(self.b(z)) if self.skip else self.call(z))

    def call(self, z: Tensor) -> Tensor:
        return self.phi(z)


X = torch.ones(1, 3)


def gate_of(phi: Phi) -> Gate:
    (gate,) = (op.map for op in lift(Between(phi), X).ops if isinstance(op.map, Gate))
    return gate


@pytest.mark.parametrize("name", EXACT)
def test_gains_that_are_reached_at_0_or_infinity(name: str) -> None:
    phi, gain = EXACT[name]
    gate = gate_of(phi)
    assert gate.gain_exact
    assert gate.gain == pytest.approx(gain, rel=1e-12)


@pytest.mark.parametrize("name", INSIDE)
def test_gains_that_are_reached_inside_or_have_no_bound(name: str) -> None:
    phi, gain = INSIDE[name]
    gate = gate_of(phi)
    assert not gate.gain_exact
    assert gate.gain == pytest.approx(gain, rel=1e-9)
    assert path_functional(Between(phi), X).status == "approximate"
    assert path_functional(Between(phi), X, edge="1").status == "exact"


@pytest.mark.parametrize(
    ("phi", "bounded"),
    [(torch.sigmoid, True), (torch.tanh, True), (lambda z: F.relu6(z + 3) / 6, True), (lambda z: 1 / (1 + torch.exp(-z)), True),
     (F.relu, False), (F.silu, False), (torch.exp, False), (lambda z: torch.log1p(z.abs()), False)],
)  # fmt: skip
def test_bounds_are_those_of_the_function(phi: Phi, bounded: bool) -> None:
    assert gate_of(phi).bounded is bounded


def test_gates_that_differ_in_one_argument_alone_are_told_apart() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.clamp(self.a(x) ** 2, max=4.0)
            return self.c(torch.clamp(self.b(h) ** 2, min=4.0))

    gates = [op.map for op in lift(Two(), X).ops if isinstance(op.map, Gate)]
    assert [g.zero for g in gates] == [0.0, 4.0]
    assert [g.gain for g in gates] == pytest.approx([2.0, 3.0], rel=1e-9)
    assert certify(Two(), torch.randn(3, 3)).holds


@pytest.mark.parametrize(
    "phi", [lambda z: torch.remainder(z, 1.0), lambda z: z - torch.floor(z), lambda z: torch.exp(-(((z - 37.3) * 20) ** 2))]
)
def test_only_a_constant_gate_has_gain_0(phi: Phi) -> None:
    assert gate_of(phi).gain > 0
    assert gate_of(lambda z: torch.relu(z) * 0).gain == 0


def test_the_gain_is_printed_and_parses_back() -> None:
    graph = lift(Between(lambda z: torch.cos(z) * 3), X)
    assert "gain = 2.17383" in str(graph) and "gain_exact = false" in str(graph)
    assert parse_graph(str(graph)) == graph
    assert "gain" not in str(lift(Between(F.relu), X))


@pytest.mark.parametrize("c", [1.0, 0.1, 10.0])
def test_a_factor_behind_a_gate_counts(c: float) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(2, 1, bias=False)
            nn.init.ones_(self.l.weight)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.l(x)) * c

    assert path_functional(Scaled(), torch.ones(1, 2)).value == pytest.approx(2 * c, rel=1e-12)


TENTHS: dict[str, Callable[[Between, Tensor], Tensor]] = {
    "relu(z) * .1": lambda m, z: torch.relu(z) * 0.1,
    "relu(.1 z)": lambda m, z: torch.relu(0.1 * z),
    "clone": lambda m, z: torch.relu(z).clone() * 0.1,
    "dropout": lambda m, z: F.dropout(torch.relu(z), 0.5, m.training) * 0.1,
    "buffer": lambda m, z: torch.relu(z) * m.tenth,
    "parameter": lambda m, z: torch.relu(z) * m.p,
}


class Tenth(Between):
    """A tenth of a ReLU beside a skip, in one of its writings; ``absolute``: the network of absolute values, in plain torch."""

    def __init__(self, writing: str = "") -> None:
        super().__init__(F.relu, skip=True)
        self.writing = writing

    def call(self, z: Tensor) -> Tensor:
        return TENTHS[self.writing](self, z)

    def absolute(self) -> tuple[float, dict[str, Tensor]]:
        """R_1 without constant sources, and theta dR_1/dtheta, by autograd of the absolute-valued network."""
        w = {n: p.detach().abs().double().requires_grad_() for n, p in self.named_parameters() if n != "p"}
        z = F.linear(torch.ones(1, 3).double(), w["a.weight"], w["a.bias"])
        h = z + 0.1 * F.linear(z, w["b.weight"], w["b.bias"])
        total = F.linear(h, w["o.weight"], w["o.bias"]).sum()
        grads = torch.autograd.grad(total, list(w.values()))
        return float(total.detach()), {n: (p * g).detach() for (n, p), g in zip(w.items(), grads, strict=True)}


@pytest.mark.parametrize("writing", TENTHS)
def test_one_function_in_six_writings_has_one_norm_and_one_mask(writing: str) -> None:
    model = Tenth(writing)
    value, scores = model.absolute()
    found = path_functional(model, X)
    assert found.value == pytest.approx(value, rel=1e-7)
    for name, score in scores.items():
        got = model.get_parameter(name).detach().abs() * found.grad[name]
        assert torch.allclose(got, score.to(got.dtype), rtol=1e-6)
    masks = prune(model, X, "synflow", density=0.4).masks
    flat = torch.cat([scores[name].flatten() for name in masks])
    assert sum(int(m.sum()) for m in masks.values()) == round(0.4 * flat.numel())
    reference = prune(Tenth("relu(z) * .1"), X, "synflow", density=0.4).masks
    assert all(torch.equal(masks[name], reference[name]) for name in reference)


def test_one_function_in_five_writings_has_one_trace() -> None:
    traces = {writing: path_kernel(Tenth(writing), X).trace().value for writing in TENTHS}
    extra = traces.pop("parameter")
    assert max(traces.values()) == pytest.approx(min(traces.values()), rel=1e-8)
    assert extra > 1.01 * max(traces.values())  # the parameter's own derivative adds


def test_a_network_without_parameters_has_a_norm() -> None:
    assert path_functional(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.ones(1, 3)).value == 3.0


def test_the_bound_of_the_trace_holds_for_scaled_and_bounded_gates() -> None:
    from pkcompiler import ntk

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    for phi in (lambda z: torch.relu(z) * 0.1, lambda z: torch.relu(z) * 10, torch.sigmoid):
        kernel = ntk(Between(phi), x)
        assert kernel.bound().value >= kernel.frozen().trace().value * (1 - 1e-9)


WRITINGS: dict[str, tuple[Phi, tuple[Phi, ...]]] = {
    "square": (lambda z: z**2, (lambda z: z * z, torch.square, lambda z: z * z.clone(), lambda z: z * (1 * z))),
    "leaky relu": (
        lambda z: F.leaky_relu(z, 0.1),
        (
            lambda z: torch.maximum(z, 0.1 * z),
            lambda z: torch.max(z, 0.1 * z),
            lambda z: F.relu(z) - 0.1 * F.relu(-z),
            lambda z: torch.where(z > 0, z, 0.1 * z),
            lambda z: 0.1 * z + 0.9 * torch.fmax(z, torch.zeros_like(z)),
        ),
    ),
    "relu": (
        F.relu,
        (
            lambda z: z - torch.minimum(z, torch.zeros(())),
            lambda z: z - torch.clamp(z, max=0),
            lambda z: torch.maximum(z, torch.zeros_like(z)),
            lambda z: -torch.min(-z, torch.zeros_like(z)),
            lambda z: (z + z.abs()) / 2,
            lambda z: z * (z > 0),
        ),
    ),
}


@pytest.mark.parametrize("name", WRITINGS)
def test_branches_of_one_tensor_that_are_joined_pointwise_are_one_gate(name: str) -> None:
    phi, others = WRITINGS[name]
    model = Between(phi, skip=True)
    value, count = path_functional(model, X).value, path_functional(model, X, edge="1").count
    for other in others:
        again = Between(other, skip=True)
        assert path_functional(again, X).value == pytest.approx(value, rel=1e-7)
        assert path_functional(again, X, edge="1").count == count
        assert certify(again, torch.randn(3, 3)).holds


@pytest.mark.parametrize("function", [torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.max, torch.min])
def test_the_larger_of_two_tensors_is_a_window_over_both(function: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.q = nn.Linear(3, 4), nn.Linear(3, 4), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return function(function(self.a(x), self.b(x)), self.q)

    assert sum(isinstance(op.map, Window) for op in lift(Two(), X).ops) == 2
    assert certify(Two(), torch.randn(5, 3)).holds
