"""Estimates against exact figures: norms, densities, traces by independent routes, within their standard errors."""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.kernel import hessian_diagonal
from pkcompiler.kernel.gram import PathKernel
from pkcompiler.kernel.path_kernel import path_kernel

ERRORS = 4


@cache
def mlp() -> PathKernel:
    """576 entries: above the size whose matrix is written out."""
    torch.manual_seed(0)
    return path_kernel(nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 7)).double(), torch.zeros(1, 20))


@cache
def resnet20() -> PathKernel:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    try:
        from resnet20 import model
    finally:
        sys.path.pop(0)
    torch.manual_seed(0)
    return path_kernel(model(), torch.zeros(1, 3, 32, 32))


def within(measured, truth: float) -> None:
    assert measured.status == "estimated" and 0 < measured.standard_error < 0.5 * abs(truth)
    assert abs(float(measured) - truth) <= ERRORS * measured.standard_error


def test_the_norm():
    made = mlp()
    within(made.frobenius(samples=40), float(torch.linalg.matrix_norm(made.dense())))


def test_the_effective_rank():
    made = mlp()
    truth = (float(made.trace()) / float(torch.linalg.matrix_norm(made.dense()))) ** 2
    within(made.effective_rank(samples=40), truth)


def test_the_density_has_the_mass_and_the_mean_of_the_spectrum():
    made = mlp()
    density = made.density(30, probes=10)
    step = float(density.grid[1] - density.grid[0])
    assert float(density.weights.sum()) == pytest.approx(1.0, abs=1e-10)
    at_zero = 0.0 if density.zero.status == "not predicted" else float(density.zero)
    assert float(density.density.sum()) * step + at_zero == pytest.approx(1.0, abs=1e-3)
    assert abs(float(density.mean) - float(made.trace()) / made.size) <= max(ERRORS * density.mean.standard_error, 1e-12)
    values = torch.linalg.eigvalsh(made.dense())
    within(made.density(30, probes=40).zero, float((values < 1e-12 * values.max()).double().mean()))
    upper = density.grid > math.log10(float(values.median()))
    mass, error = float(density.density[upper].sum()) * step, float(density.error[upper].sum()) * step
    assert abs(mass - 0.5) <= ERRORS * error


def test_few_nodes_do_not_claim_that_nothing_is_at_zero():
    """Every hidden unit of a ReLU network brings an eigenvalue 0; so few nodes do not find it, and say so."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    made = path_kernel(net, torch.zeros(1, 16))
    few = made.density(30).zero
    assert few.status == "not predicted" and math.isnan(float(few)) and "more nodes" in few.note


def test_the_density_of_a_small_kernel_is_that_of_all_its_eigenvalues():
    torch.manual_seed(0)
    made = path_kernel(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.zeros(1, 4))
    density, values = made.density(5), torch.linalg.eigvalsh(made.dense())
    assert density.status == "exact" and density.zero.error is None and density.probes == 0
    assert torch.allclose(density.nodes, values, atol=1e-12) and float(density.zero) == pytest.approx(6 / made.size)
    assert float(density.mean) == pytest.approx(float(made.trace()) / made.size)


def test_the_second_moment_of_the_density_is_the_norm():
    made = mlp()
    density = made.density(30, probes=10)
    second = float((density.weights * density.nodes.square()).sum()) * made.size
    norm = made.frobenius(samples=200)
    assert second == pytest.approx(float(norm) ** 2, rel=0.2)


def test_trace_of_resnet20_by_two_routes():
    """The diagonal, and the mean of z^T G z over random signs (Hutchinson)."""
    made = resnet20()
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(8):
        z = torch.randint(0, 2, (made.size,), generator=generator).double() * 2 - 1
        draws.append(float(torch.dot(z, made.matvec(z))))
    mean, error = np.mean(draws), np.std(draws, ddof=1) / math.sqrt(len(draws))
    assert made.trace().status == "exact"
    assert abs(mean - float(made.trace())) <= ERRORS * error
    assert error < 1e-2 * mean


def test_the_leading_eigenvector_of_resnet20_has_the_signs_of_the_parameters():
    """In their frame G has no negative entry: its first vector is positive there (Perron and Frobenius)."""
    made = resnet20()
    pairs = made.eigenpairs(1)
    vector, signs = pairs.vectors[:, 0], made.flatten(made.theta).sign()
    assert float(pairs.residuals[0]) < 1e-6
    assert float((vector * signs).sum().abs()) == pytest.approx(float((vector * signs).abs().sum()), rel=1e-6)


def test_lanczos_and_the_written_out_matrix_agree():
    made = mlp()
    pairs = made.eigenpairs(8)
    truth = torch.linalg.eigvalsh(made.dense()).flip(0)[:8]
    np.testing.assert_allclose(pairs.values, truth, rtol=1e-10)
    for value, vector, residual in zip(pairs.values, pairs.vectors.T, pairs.residuals, strict=True):
        assert float((made.matvec(vector) - value * vector).norm() / value) == pytest.approx(float(residual), rel=1e-3, abs=1e-13)
        assert float(residual) < 1e-6


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(12, 12)

    def forward(self, x):
        return self.a(self.a(x))


def test_the_trace_is_estimated_where_too_many_entries_are_crossed_twice(monkeypatch):
    truth = float(path_kernel(Twice(), torch.zeros(1, 12)).trace())
    monkeypatch.setattr(hessian_diagonal, "MOST", 100)
    made = path_kernel(Twice(), torch.zeros(1, 12))
    within(made.trace(), truth)
    assert "probes" in made.trace().note
    with pytest.raises(PkcError, match="PKC521"):
        made.diagonal()
    assert made.restricted("a.bias").trace().status == "exact"


def test_estimates_of_an_approximate_kernel_stay_approximate() -> None:
    model = nn.Sequential(nn.Linear(8, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, 3))
    made = path_kernel(model, torch.zeros(1, 8))
    assert made.size > 400
    norm = made.frobenius(samples=4)
    assert norm.error is not None and norm.status == "approximate"
    assert made.effective_rank(samples=4).status == made.stable_rank().status == "approximate"
    assert made.density(8).mean.status == "approximate"
