"""Input that kernels refuse, by code; figures that are not predicted; leading eigenvalues that a careless search would miss."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pkcompiler.analyses.run import run_analysis
from pkcompiler.diagnostics import PkcError
from pkcompiler.kernel import spectrum
from pkcompiler.kernel.path_kernel import path_kernel
from pkcompiler.predict.mean_trace import predict_trace
from pkcompiler.symbolic import closed_forms
from pkcompiler.tangent.dynamics import dynamics
from pkcompiler.tangent.ntk import ntk


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def code(call) -> str:
    with pytest.raises(PkcError) as error:
        call()
    return error.value.diagnostics[0].code


@pytest.mark.parametrize(("widths", "k"), [((30, 30, 2), 10), ((20, 20, 10), 20), ((20, 20, 10), 40), ((16, 32, 8), 40)])
@pytest.mark.parametrize("seed", range(2, 5))
def test_no_leading_eigenvalue_is_missed(widths, k, seed, monkeypatch):
    monkeypatch.setattr(spectrum, "DENSE", 0)
    made = path_kernel(mlp(*widths, seed=seed), torch.zeros(1, widths[0]))
    truth = torch.linalg.eigvalsh(made.dense()).flip(0)[:k]
    np.testing.assert_allclose(made.eigenvalues(k), truth, rtol=1e-9)


def test_sizes_that_make_no_sense():
    made, data = path_kernel(mlp(4, 3, 2), torch.zeros(1, 4)), torch.randn(5, 4).double()
    for call in (
        lambda: made.eigenvalues(0),
        lambda: made.eigenpairs(-2),
        lambda: made.density(0),
        lambda: made.density(probes=0),
        lambda: made.frobenius(1),
        lambda: made.effective_rank(samples=1),
        lambda: ntk(mlp(4, 3, 2), (data, None)).eigenvalues(-2),
    ):
        assert code(call) == "PKC534"


def test_more_eigenpairs_than_memory_holds():
    made = path_kernel(mlp(30, 30, 2), torch.zeros(1, 30))
    assert code(lambda: made.eigenpairs(600, memory=1 << 20)) == "PKC525"


def test_parameters_that_are_not_finite():
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    assert code(lambda: path_kernel(model, torch.zeros(1, 4))) == "PKC405"
    assert code(lambda: predict_trace(model, torch.zeros(1, 4))) == "PKC405"


def test_targets_that_do_not_fit():
    model, x = mlp(4, 3), torch.randn(6, 4).double()
    assert code(lambda: ntk(model, (x, torch.randn(3, 6).double()))) == "PKC527"
    missing = torch.zeros(6, 3).double()
    missing[1, 2] = math.nan
    assert code(lambda: dynamics(model, (x, missing), lr=0.01, steps=3)) == "PKC527"


def test_training_that_overflows_deviates_infinitely():
    found = dynamics(mlp(4, 8, 3), (torch.randn(6, 4).double(), torch.zeros(6, 3).double()), lr=1e3, steps=100, verify=True)
    assert found.trained is not None and found.deviation is not None
    over = ~found.trained.isfinite()
    assert bool(over.any()) and bool((found.deviation[over] == math.inf).all())


def test_replaced_statistics_are_approximate():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    assert closed_forms(model, torch.zeros(1, 2, 4, 4)).r2.status == "exact"
    model[1].running_var = torch.tensor([0.1, 0.2, 9.0, 16.0])
    assert closed_forms(model, torch.zeros(1, 2, 4, 4)).r2.status == "approximate"


def test_a_network_without_a_path():
    model, x = mlp(4, 3, 2), torch.randn(6, 4)
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in model.named_parameters()}
    data = (x.double(), torch.arange(6) % 2)
    assert ntk(model, data, masks).effective_rank().status == ntk(model, data, masks).stable_rank().status == "not predicted"
    report = run_analysis(model, x[:1].double(), "dynamics", data=data, masks=masks)
    assert any(row.status == "not predicted" and "inf" in row.note for row in report.rows)
    margins = run_analysis(model, x[:1].double(), "generalisation", data=data, masks=masks)
    assert float(margins.rows[0].value) == 0.0
