"""The minimisation of rescaling, against objectives written out by hand and minimised by torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pkcompiler.rescaling import rescale
from pkcompiler.rescaling.minimise import Problem, balance, closed_form

F64 = torch.float64


# two hidden layers by hand ---------------------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).double()


def squared_norm(weights: list[Tensor]) -> Tensor:
    """R_2 of the network, from the squares of its parameters."""
    first, bias, second, third, last = weights
    hidden = second @ (first @ torch.ones(3, dtype=F64) + bias)
    return (third @ hidden + last).sum()


def incidence() -> Tensor:
    """B [parameters, units] entry by entry: +1 for what enters a unit (its bias too), -1 for what leaves it."""
    rows = []
    for out in range(4):
        rows += [[(out, 1)]] * 3
    rows += [[(out, 1)] for out in range(4)]
    rows += [[(4 + out, 1), (entry, -1)] for out in range(2) for entry in range(4)]
    rows += [[(4 + entry, -1)] for _ in range(2) for entry in range(2)]
    rows += [[], []]
    matrix = torch.zeros(len(rows), 6, dtype=F64)
    for row, entries in enumerate(rows):
        for unit, sign in entries:
            matrix[row, unit] = sign
    return matrix


def diagonal(model: nn.Module) -> Tensor:
    squares = [p.detach().square().requires_grad_() for p in model.parameters()]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(squared_norm(squares), squares)])


def by_hand(z: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """F(z) = p log sum_i g_i exp((Bz)_i) - sum_i (Bz)_i"""
    return len(g) * torch.log((g * (b @ z).exp()).sum()) - (b @ z).sum()


def minimised(objective) -> Tensor:
    """By torch's own optimiser, from 0."""
    z = torch.zeros(6, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS([z], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective(z)
        value.backward()
        return value

    optimiser.step(closure)
    return z.detach()


def found_z(model: nn.Module, **options: object) -> tuple[object, Tensor]:
    found = rescale(model, torch.randn(1, 3, dtype=F64), **options)
    return found, -2 * torch.cat([found.scales["0"], found.scales["2"]]).log()


def test_conditioning_is_stationary_and_minimal() -> None:
    model = mlp()
    g, b = diagonal(model), incidence()
    found, z = found_z(model)
    assert found.objective == pytest.approx((float(by_hand(torch.zeros(6, dtype=F64), g, b)), float(by_hand(z, g, b))), rel=1e-12)
    start = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(by_hand(start, g, b), start)
    assert float(slope.abs().max()) <= 1e-8 * len(g)
    assert torch.allclose(z, minimised(lambda z: by_hand(z, g, b)), rtol=0, atol=1e-5)


def test_the_scaled_network_has_the_diagonal_that_was_minimised() -> None:
    model = mlp()
    found, z = found_z(model)
    assert torch.allclose(diagonal(found.model), diagonal(model) * (incidence() @ z).exp(), rtol=1e-10)


def test_equi_normalisation_is_stationary_and_minimal() -> None:
    model = mlp()
    squares = torch.cat([p.detach().square().reshape(-1) for p in model.parameters()])
    b = incidence()
    found, z = found_z(model, method="equi-norm")
    after = torch.cat([p.detach().square().reshape(-1) for p in found.model.parameters()])
    assert found.objective == pytest.approx((float(squares.sum()), float(after.sum())), rel=1e-12)
    entering, leaving = (b.clamp(min=0).T @ after, (-b).clamp(min=0).T @ after)
    assert torch.allclose(entering, leaving, rtol=1e-8)
    assert torch.allclose(z, minimised(lambda z: (squares * (-b @ z).exp()).sum()), rtol=0, atol=1e-5)


def test_a_zero_weight_counts_and_a_dead_unit_does_not() -> None:
    """p counts what has g > 0: a weight of 0 on a path with a derivative does, what leads to a unit without outputs does not."""
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = 0
        model[2].weight[:, 3] = 0
        model[0].weight[3], model[0].bias[3] = 1.5, 0.5
    g, b = diagonal(model), incidence()
    live = g > 0
    assert int((~live).sum()) == 4
    found, z = found_z(model)
    start = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(by_hand(start, g[live], b[live]), start)
    assert float(slope.abs().max()) <= 1e-8 * len(g)
    assert found.objective[0] == pytest.approx(float(by_hand(torch.zeros(6, dtype=F64), g[live], b[live])), rel=1e-12)
    assert found.checked <= 1e-12


# problems drawn at random ----------------------------------------------------------------------------------------------------


def drawn(seed: int, units: int, wide: float) -> Problem:
    """A chain of units with extra edges, masses over ``wide`` decades, as diag(G) of some network."""
    generator = np.random.default_rng(seed)
    chain = np.arange(units)
    target = np.concatenate([chain, np.full(units, units), generator.integers(0, units + 1, 3 * units)])
    origin = np.concatenate([np.roll(chain, 1), chain, generator.integers(0, units + 1, 3 * units)])
    origin[0] = units
    inner = target != origin
    target, origin = target[inner], origin[inner]
    mass = 10 ** generator.uniform(-wide, wide, target.size)
    counted = generator.integers(1, 10, target.size).astype(float)
    counts = np.bincount(target, counted, units + 1) - np.bincount(origin, counted, units + 1)
    return Problem(units, target, origin, mass, float(generator.random()), counted.sum() + 5, counts[:-1])


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([0.5, 3.0, 8.0]))
def test_a_closed_form_sweep_never_raises_the_objective(seed: int, units: int, wide: float) -> None:
    problem = drawn(seed, units, wide)
    z = np.zeros(units)
    for _ in range(3):
        moved = closed_form(problem, z, problem.shares(z)[1])
        assert problem.value(moved) <= problem.value(z) + 1e-12 * abs(problem.value(z))
        z = moved


@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([0.5, 3.0, 8.0]))
def test_balancing_ends_at_a_stationary_point(seed: int, units: int, wide: float) -> None:
    problem = drawn(seed, units, wide)
    found = balance(problem)
    z = torch.tensor(np.append(found.z, 0.0), requires_grad=True)
    total = (torch.from_numpy(problem.mass) * (z[problem.target] - z[problem.origin]).exp()).sum() + problem.fixed
    value = problem.power * total.log() - (torch.from_numpy(problem.counts) * z[:-1]).sum()
    (slope,) = torch.autograd.grad(value, z)
    assert found.converged
    assert float(slope[:-1].abs().max()) <= 1e-7 * problem.power
    assert found.history[-1] == pytest.approx(float(value.detach()), rel=1e-9)
    assert all(b <= a + 1e-12 * abs(a) for a, b in zip(found.history, found.history[1:], strict=False))


def test_one_unit_is_balanced_by_its_formula() -> None:
    """lambda = (leaving / entering)^(1/4) with squared norms: z = log(leaving / entering) / 2, exchanged for equi-normalisation."""
    problem = Problem(1, np.array([1, 0]), np.array([0, 1]), np.array([3.0, 48.0]), 1.0, 1.0, np.zeros(1))
    assert math.exp(-balance(problem).z[0] / 2) == pytest.approx((48 / 3) ** 0.25, rel=1e-9)


def test_steps_run_out() -> None:
    problem = drawn(7, 20, 8.0)
    found = balance(problem, steps=2)
    assert not found.converged and len(found.history) == 3 and found.residual > 1e-9
