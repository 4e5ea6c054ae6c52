"""How paths cross products of activations: pairs, the factor that does not modulate, either factor (docs/theory.md, section 1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracle.enumerate import path_jacobian
from oracle.families import FAMILIES
from torch import Tensor, nn
from torch.nn import functional as F

import pkcompiler
from pkcompiler import closed_forms, path_functional, path_kernel, polynomials
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.kernel.explicit import explicit
from pkcompiler.lang.library import library_names
from pkcompiler.lang.plan import plan_of
from pkcompiler.paths.functional import functional_of
from pkcompiler.paths.semiring import settings
from pkcompiler.symbolic.enumerate import indexed

PRODUCTS = ("pairs", "value", "either")
EDGES = ("abs(theta)", "theta^2", "1")
WITH_PRODUCTS = sorted(n for n in FAMILIES if FAMILIES[n]().products)


class Two(nn.Module):
    """A function of two linear maps of [batch, 3, 4], behind a third."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out, self.function = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.a(x), self.b(x)))


X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 3, 4).sin()


def mass(function: Callable[[Tensor, Tensor], Tensor], products: str, edge: str = "abs(theta)") -> float:
    return path_functional(Two(function).double(), X, edge=edge, products=products).value


# what a product is


def test_the_order_of_operands_says_nothing() -> None:
    """Neither factor modulates: with value the paths of both, as with either."""
    for edge in EDGES:
        either = mass(lambda a, b: a * b, "either", edge)
        assert mass(lambda a, b: a * b, "value", edge) == mass(lambda a, b: b * a, "value", edge) == either
        assert mass(lambda a, b: b * a, "either", edge) == either


@pytest.mark.parametrize("turned", [False, True])
def test_a_bounded_gate_a_softmax_or_a_norm_modulates_on_either_side(turned: bool) -> None:
    def gated(gate: Callable[[Tensor], Tensor]) -> Two:
        return Two(lambda a, b: gate(b) * a if turned else a * gate(b)).double()

    plain = path_functional(Two(lambda a, b: a).double(), X)
    for gate in (torch.sigmoid, F.hardsigmoid, torch.tanh, F.softsign, lambda b: 1 - torch.sigmoid(b), lambda b: b.softmax(-1) * 3):
        found = path_functional(gated(gate), X, products="value")
        assert not found.grad["b.weight"].any() and not found.grad["b.bias"].any()
        assert path_functional(gated(gate), X, products="either").grad["b.weight"].all()
    assert path_functional(gated(torch.sigmoid), X, products="value").value == plain.value


def test_each_factor_is_crossed_alone_and_the_other_counts_one() -> None:
    """R = R(a) + R(b), as of a model that adds them."""
    for edge in EDGES:
        assert mass(lambda a, b: a * b, "either", edge) == pytest.approx(mass(lambda a, b: a + b, "pairs", edge), rel=1e-15)


def test_a_matrix_product_by_ones_sums() -> None:
    """y_ij = sum over k of a_ik b_kj: a path through a_ik leaves at every j, one through b_kj at every i."""
    model, captured = Two(lambda a, b: a @ b.transpose(1, 2)).double(), []
    for edge in EDGES:
        ones = {"1": lambda p: torch.ones_like(p), "abs(theta)": torch.abs, "theta^2": torch.square}[edge]
        with torch.no_grad():
            a, b = (F.linear(torch.ones(3, 4, dtype=torch.float64), ones(m.weight), ones(m.bias)) for m in (model.a, model.b))
            y = a.sum(1, keepdim=True).expand(3, 3) + b.sum(1).expand(3, 3)
            captured.append(F.linear(y, ones(model.out.weight), ones(model.out.bias)).sum())
    found = [path_functional(model, X, edge=edge, products="either", input="ones").value for edge in EDGES]
    np.testing.assert_allclose(found, captured, rtol=1e-14)


def test_a_convolution_by_a_computed_kernel_is_crossed_on_either_side() -> None:
    """The kernel is computed from the input: the same as the products written out."""

    class Computed(nn.Module):
        def __init__(self, written: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.k, self.written = nn.Linear(6, 3, bias=False), written

        def forward(self, x: Tensor) -> Tensor:
            kernel = self.k(x[:, 0])
            if not self.written:
                return F.conv1d(x, kernel.unsqueeze(0), padding=1)
            windows = F.pad(x, (1, 1)).unfold(2, 3, 1)
            return (windows * kernel.unsqueeze(1)).sum(-1)

    x = torch.rand(1, 1, 6, dtype=torch.float64)
    for edge in EDGES:
        for more in ({}, {"gates": "data", "data": (x, torch.zeros(1)), "input": "data"}):
            found = [
                path_functional(Computed(written).double(), x, edge=edge, products="either", **more).value
                for written in (False, True)
            ]
            assert found[0] == pytest.approx(found[1], rel=1e-14) and found[0] > 0


def spread(t: Tensor) -> Tensor:
    return t.unsqueeze(-1)


V = torch.tensor([1.0, -2.0, 3.0])

WRITINGS = {
    "factors": [lambda a, b: 0.3 * (a * b), lambda a, b: (0.3 * a) * b, lambda a, b: a * (b * 0.3)],
    "vectors": [lambda a, b: V * (a * b), lambda a, b: (V * a) * b, lambda a, b: a * (b * V)],
    "sums": [lambda a, b: a * b.sum(-1, keepdim=True), lambda a, b: (spread(a) * b.unsqueeze(-2)).sum(-1)],
    "means": [lambda a, b: a * b.mean(1, keepdim=True), lambda a, b: (a.unsqueeze(2) * b.unsqueeze(1)).mean(2)],
    "additions": [lambda a, b: a * (b + a.flip(1)), lambda a, b: a * b + a * a.flip(1)],
    "views": [
        lambda a, b: a * b,
        lambda a, b: (a.flip(-1) * b.flip(-1)).flip(-1),
        lambda a, b: (spread(a) * spread(b)).squeeze(-1),
    ],
    "associates": [lambda a, b: a @ (b.transpose(1, 2) @ a), lambda a, b: (a @ b.transpose(1, 2)) @ a],
    "dot products": [lambda a, b: a @ b.transpose(1, 2), lambda a, b: (a.unsqueeze(2) * b.unsqueeze(1)).sum(-1)],
    "attention": [
        lambda a, b: F.scaled_dot_product_attention(a, b, b, scale=0.5),
        lambda a, b: (0.5 * (a @ b.transpose(1, 2))).softmax(-1) @ b,
        lambda a, b: ((0.5 * a) @ b.transpose(1, 2)).softmax(-1).unsqueeze(1).squeeze(1) @ b,
        lambda a, b: 0.5 * ((a @ (0.5 * b).transpose(1, 2)).softmax(-1) * 2 @ b),
    ],
}


@pytest.mark.parametrize("products", ["value", "either"])
@pytest.mark.parametrize("name", WRITINGS)
def test_a_functional_is_one_of_the_function(name: str, products: str) -> None:
    """Without data, and at the data with either power of the slopes: constants have the power of the edge wherever they stand."""
    models = [Two(function).double() for function in WRITINGS[name]]
    captures = [capture(model, X, dtype=torch.float64) for model in models]
    for edge in EDGES:
        for gates in ("open", "data", "data^2"):
            more = {} if gates == "open" else {"input": "data", "data": (X, torch.zeros(2))}
            chosen = settings(edge=edge, products=products, gates=gates)
            masses = [functional_of(c, chosen, **more).value for c in captures if edge != "1" or gates == "open"]
            np.testing.assert_allclose(masses, masses[:1] * len(masses), rtol=1e-13)


def test_a_constant_inside_a_frozen_factor_has_the_power_of_the_edge() -> None:
    """By hand, at the data: 3 a [b] + 3 [a] b with 3^2, and |a| and |b| to the first power."""
    model = Two(lambda a, b: a * (3 * b)).double()
    with torch.no_grad():
        a, b, ones = model.a(X).abs(), model.b(X).abs(), torch.ones_like(X)
        through = [F.linear(ones, m.weight.square(), m.bias.square()) for m in (model.a, model.b)]
        y = 9 * (through[0] * b + a * through[1])
        expected = F.linear(y, model.out.weight.square(), model.out.bias.square()).sum()
    found = path_functional(model, X, edge="theta^2", products="either", gates="data", data=(X, torch.zeros(2)))
    assert found.value == pytest.approx(float(expected), rel=1e-13)


def test_counts_of_many_products_are_exact() -> None:
    """x^61 as sixty products: one pair, and 61 single paths, each of one factor x."""

    class Power(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            y = x = x * self.gain
            for i in range(60):
                y = y * (x if i % 2 else x.flip(-1))
            return y

    found = {p: path_functional(Power(), torch.ones(1, 1), edge="1", products=p).count for p in PRODUCTS}
    assert found == {"pairs": 1, "value": 61, "either": 61}


# attention


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(4, 4, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


def test_queries_and_keys_are_crossed_without_data_and_get_nothing_at_the_data() -> None:
    model = Head().double()
    there = {p: path_functional(model, X, products=p).grad for p in PRODUCTS}
    assert not there["value"]["q.weight"].any() and not there["value"]["k.weight"].any()
    assert there["either"]["q.weight"].all() and there["either"]["k.weight"].all()
    torch.testing.assert_close(there["either"]["v.weight"], there["value"]["v.weight"], rtol=1e-14, atol=0)
    for products in PRODUCTS:
        found = path_functional(model, X, products=products, gates="data", input="data", data=(X, torch.zeros(2))).grad
        assert not found["q.weight"].any() and not found["k.weight"].any() and found["v.weight"].all()


def test_scores_enter_at_their_share_with_the_values_at_one() -> None:
    """By hand: the share of each of 3 positions is 1/3, the scale 1/2; a score leaves at all 4 channels of the values."""
    model = Head().double()
    with torch.no_grad():
        q, k, v = (F.linear(torch.ones(3, 4, dtype=torch.float64), m.weight.abs()) for m in (model.q, model.k, model.v))
        scores = (q.sum(1)[:, None] + k.sum(1)[None, :]) / 2
        mixed = v.mean(0).expand(3, 4) + (scores / 3).sum(1)[:, None].expand(3, 4)
        expected = F.linear(mixed, model.out.weight.abs()).sum()
    assert path_functional(model, X, products="either").value == pytest.approx(float(expected), rel=1e-14)


# at the data


def at_data(model: nn.Module, products: str) -> pkcompiler.Functional:
    more = {"gates": "data", "pools": "data", "norms": "data", "input": "data", "constants": "on"}
    return path_functional(model, X, edge="theta", products=products, data=(X, torch.zeros(2)), **more)


def test_the_signed_value_of_a_product_is_twice_the_product() -> None:
    model = Two(lambda a, b: a * b).double()
    with torch.no_grad():
        product = model.a(X) * model.b(X)
        assert at_data(model, "pairs").value == pytest.approx(float(model.out(product).sum()), rel=1e-13)
        assert at_data(model, "either").value == pytest.approx(float(model.out(2 * product).sum()), rel=1e-13)


def test_parameters_before_every_product_get_the_gradient_of_the_model() -> None:
    """The product rule: the derivative of certificate (2), recorded factors detached; ReLU has none that plain autograd misses."""
    model = Two(lambda a, b: F.relu(a) * b.flip(1) + a).double()
    model(X).sum().backward()
    found = at_data(model, "either").grad
    for name in ("a.weight", "a.bias", "b.weight", "b.bias"):
        torch.testing.assert_close(found[name], model.get_parameter(name).grad, rtol=1e-12, atol=1e-13)


class Gated(nn.Module):
    """Products in series beside a skip: ``times`` is what multiplies."""

    def __init__(self, times: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers, self.out = nn.ModuleList(nn.Linear(4, 4) for _ in range(5)), nn.Linear(4, 2)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.layers
        x = x + self.times(F.relu(a(x)), b(x))
        x = c(x) + self.times(d(x), F.relu(e(x)))
        return self.out(x)


def test_the_derivative_is_that_of_the_model_with_each_frozen_factor_detached() -> None:
    """d/dtheta of the sum over paths: every product a b read as a [b] + [a] b, with [.] recorded from the model's own run."""
    seen: list[tuple[Tensor, Tensor]] = []
    plain = Gated(lambda a, b: a * b).double()
    with torch.no_grad():
        recording = Gated(lambda a, b: (seen.append((a, b)), a * b)[1]).double()
        recording(X)

    def twice(a: Tensor, b: Tensor) -> Tensor:
        left, right = seen[0] if len(done) == 0 else seen[1]
        done.append(1)
        return a * right + left * b

    class Slopes(Gated):
        """The gates' slopes are those of the model's own run, too."""

        def forward(self, x: Tensor) -> Tensor:
            a, b, c, d, e = self.layers
            x = x + self.times(a(x) * (seen[0][0] > 0), b(x))
            x = c(x) + self.times(d(x), e(x) * (seen[1][1] > 0))
            return self.out(x)

    done: list[int] = []
    read = Slopes(twice).double()
    value = read(X).sum()
    value.backward()
    found = at_data(plain, "either")
    assert found.value == pytest.approx(float(value.detach()), rel=1e-13)
    for name, parameter in read.named_parameters():
        torch.testing.assert_close(found.grad[name], parameter.grad, rtol=1e-12, atol=1e-13)


def test_a_factor_that_was_not_recorded_is_named() -> None:
    captured = capture(Two(lambda a, b: a * b).double(), X, dtype=torch.float64)
    records = {n: r for n, r in captured.lifted.records.items() if r.kind != "factor"}
    object.__setattr__(captured.lifted, "records", records)
    with pytest.raises(PkcError, match="value of %"):
        functional_of(captured, settings(gates="data", products="either"), input="data", data=(X, torch.zeros(2)))


# other witnesses


@pytest.mark.parametrize("products", ["value", "either"])
@pytest.mark.parametrize("name", WITH_PRODUCTS)
def test_listed_paths_are_the_oracles(name: str, products: str) -> None:
    """Enumerated on the scalar graph, symbolically, and by the oracle: the same values; G of the operator is theirs."""
    case = FAMILIES[name]()
    values, jacobian = path_jacobian(case.dag, case.theta, products=products)
    made = explicit(case.module, case.example_inputs, products=products)
    np.testing.assert_allclose(np.sort(made.values), np.sort(values[values != 0]), rtol=1e-12)
    np.testing.assert_allclose(float(made.gram.trace()), (jacobian**2).sum(), rtol=1e-12)
    kernel = path_kernel(case.module, case.example_inputs, products=products)
    np.testing.assert_allclose(float(kernel.trace()), float(made.gram.trace()), rtol=1e-12)
    named = {
        indexed(n, (0, *at), (1, *p.shape)): float(p.detach()[at])
        for n, p in case.module.named_parameters()
        for at in np.ndindex(*p.shape)
    }
    listed = polynomials(case.module, case.example_inputs, products=products)
    numbers = {s: named[s.name] for s in listed.parameters}
    np.testing.assert_allclose(float(listed.r2.subs(numbers)), float((values**2).sum()), rtol=1e-12)


@pytest.mark.parametrize(("products", "form"), [("value", "8*n1*n2*sigma_l**2"), ("either", "8*n1*n2*sigma_l**2")])
def test_the_closed_form_of_a_gram_matrix(products: str, form: str) -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(2, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.l(x)
            return h @ h.transpose(1, 2)

    found = closed_forms(Gram(), torch.zeros(1, 2, 2), products=products)
    assert (str(found.r2.expression), found.r2.status) == (form, "exact")
    assert closed_forms(Gram(), torch.zeros(1, 2, 2)).r2.status == "bound"


# passes


def test_synflow_passes_read_products_as_either_and_others_by_their_names() -> None:
    readings = {name: plan_of(name, target=("density", 0.5)).products for name in library_names() if name.startswith("synflow")}
    assert {n: next(iter(read.values())) for n, read in readings.items()} == {
        n: n.rsplit("-", 1)[1] if n.endswith(("-pairs", "-value")) else "either" for n in readings
    }
    assert plan_of("path-kernel-trace", target=("density", 0.5)).products == {"path-kernel-trace": "pairs"}
    assert plan_of("magnitude", target=("density", 0.5)).products == {}


def test_scores_of_each_reading_are_those_of_its_functional() -> None:
    model = Two(lambda a, b: F.relu(a) * torch.sigmoid(b)).double()
    for products, name in (("either", "synflow"), ("pairs", "synflow-pairs"), ("value", "synflow-value")):
        found, grad = pkcompiler.score(model, X, name), path_functional(model, X, products=products).grad
        for n, p in model.named_parameters():
            torch.testing.assert_close(found[n] * 2.0**found.exponent, p.detach().abs() * grad[n], rtol=1e-12, atol=0)
