"""Linearised dynamics: exact for linear models, closer to training the wider the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.measured import Measured, not_predicted
from pkcompiler.tangent.dynamics import architecture_curve, dynamics
from pkcompiler.tangent.ntk import ntk


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 3).double()


def wide(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()


def losses_by_torch(model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int, loss) -> Tensor:
    """Training as a user writes it."""
    model = nn.Sequential(model).train(False)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    out = []
    for _ in range(steps + 1):
        optimiser.zero_grad()
        value = loss(model(x), y)
        value.backward()
        out.append(float(value.detach()))
        optimiser.step()
    return torch.tensor(out, dtype=torch.float64)


LOSSES = {
    "sum": lambda f, y: 0.5 * (f - y).square().sum(),
    "mean": lambda f, y: 0.5 * (f - y).square().sum(1).mean(),
    "torch": nn.functional.mse_loss,
}


@pytest.mark.parametrize("reduction", LOSSES)
def test_a_linear_model_does_what_is_predicted(reduction):
    x, y = normal(7, 5), normal(7, 3, seed=2)
    stable = float(dynamics(linear(), (x, y), lr=1.0, steps=1, reduction=reduction).largest_stable_step)
    found = dynamics(linear(), (x, y), lr=0.4 * stable, steps=30, reduction=reduction, verify=True)
    truth = losses_by_torch(linear(), x, y, 0.4 * stable, 30, LOSSES[reduction])
    torch.testing.assert_close(found.predicted_steps, truth, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.trained, truth, rtol=1e-10, atol=0)
    assert float(found.deviation.max()) < 1e-10
    assert not found.diverges


def test_class_targets_are_one_hot():
    x, y = normal(6, 5), torch.tensor([0, 2, 1, 1, 0, 2])
    found = dynamics(linear(), (x, y), lr=0.01, steps=5)
    same = dynamics(linear(), (x, nn.functional.one_hot(y).double()), lr=0.01, steps=5)
    assert torch.equal(found.predicted_steps, same.predicted_steps)


def test_flow_solves_its_equation():
    """dr/dt = -lr Theta r, by Runge and Kutta's steps."""
    x, y, model = normal(5, 4), normal(5, 2, seed=2), wide(6)
    kernel = ntk(model, (x, y))
    lr = 0.3 * float(kernel.largest_stable_step())
    found = dynamics(model, (x, y), lr=lr, steps=4, kernel=kernel)
    residual, h = (model(x).detach() - y).reshape(-1), 1 / 200

    def velocity(r: Tensor) -> Tensor:
        return -lr * kernel.kernel @ r

    for step in range(5):
        assert float(found.predicted_flow[step]) == pytest.approx(0.5 * float(residual.square().sum()), rel=1e-8)
        for _ in range(200):
            a = velocity(residual)
            b = velocity(residual + h / 2 * a)
            c = velocity(residual + h / 2 * b)
            residual = residual + h / 6 * (a + 2 * b + 2 * c + velocity(residual + h * c))


def test_flow_and_steps_meet_at_small_learning_rates():
    x, y = normal(5, 4), normal(5, 2, seed=2)
    gaps = []
    for parts in (10, 20, 40):
        found = dynamics(wide(6), (x, y), lr=0.5 / parts, steps=parts)
        gaps.append(float((found.predicted_flow - found.predicted_steps)[-1].abs()))
    assert gaps[1] / gaps[0] == pytest.approx(0.5, rel=0.2)
    assert gaps[2] / gaps[1] == pytest.approx(0.5, rel=0.1)


def test_wider_networks_follow_more_closely():
    x, y = normal(12, 4), normal(12, 2, seed=2)
    deviations = []
    for width in (32, 256, 2048):
        step = 0.5 * float(ntk(wide(width), x).largest_stable_step())
        found = dynamics(wide(width), (x, y), lr=step, steps=20, verify=True)
        assert float(found.trained[-1]) < 0.8 * float(found.trained[0])
        deviations.append(float(found.deviation.max()))
    assert deviations[2] < 0.25 * deviations[1] < 0.25 * deviations[0]
    assert deviations[2] < 0.01


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_divergence_is_told_at_the_stable_step(factor):
    x, y = normal(7, 5), normal(7, 3, seed=2)
    stable = float(dynamics(linear(), (x, y), lr=1.0, steps=1).largest_stable_step)
    assert stable == pytest.approx(float(ntk(linear(), x).largest_stable_step()), rel=1e-12)
    found = dynamics(linear(), (x, y), lr=factor * stable, steps=200, verify=True)
    assert found.diverges == (factor > 1) == (float(found.trained[-1]) > float(found.trained[0]))
    assert ("exceeds the largest stable step" in found.note) == found.diverges
    assert "diverges" in repr(found) if found.diverges else "diverges" not in repr(found)


def test_what_overflows_is_infinite():
    x, y = normal(7, 5), normal(7, 3, seed=2)
    found = dynamics(linear(), (x, y), lr=1e6, steps=200, verify=True)
    assert math.isinf(float(found.trained[-1])) and math.isinf(float(found.predicted_steps[-1]))
    assert not found.trained.isnan().any() and not found.deviation.isnan().any()


def test_masked_entries_are_neither_read_nor_moved():
    x, y, model = normal(9, 4), normal(9, 2, seed=2), wide(8)
    masks = {"0.weight": torch.rand(8, 4, generator=torch.Generator().manual_seed(3)) < 0.5}
    found = dynamics(model, (x, y), lr=0.01, steps=10, masks=masks, verify=True)
    pruned = wide(8)
    with torch.no_grad():
        pruned[0].weight.mul_(masks["0.weight"])
    pruned[0].weight.register_hook(lambda g: g * masks["0.weight"])
    truth = losses_by_torch(pruned, x, y, 0.01, 10, LOSSES["sum"])
    torch.testing.assert_close(found.trained, truth, rtol=1e-12, atol=0)
    assert not torch.allclose(found.trained, dynamics(model, (x, y), lr=0.01, steps=10, verify=True).trained)


def test_without_the_matrix_steps_are_the_same():
    x, y, model = normal(9, 4), normal(9, 2, seed=2), wide(8)
    whole = dynamics(model, (x, y), lr=0.01, steps=10)
    pieces = dynamics(model, (x, y), lr=0.01, steps=10, memory=2_000)
    torch.testing.assert_close(pieces.predicted_steps, whole.predicted_steps, rtol=1e-10, atol=0)
    assert pieces.predicted_flow is None and pieces.shares is None
    assert "does not fit" in pieces.note
    assert float(pieces.largest_stable_step) == pytest.approx(float(whole.largest_stable_step), rel=1e-9)


def test_shares_add_up_and_nothing_is_changed():
    x, y, model = normal(9, 4), normal(9, 2, seed=2), wide(8).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = dynamics(model, (x, y), lr=0.01, steps=3, verify=True, flow=False)
    assert float(found.shares.sum()) == pytest.approx(1, rel=1e-12)
    assert found.predicted_flow is None
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_the_mean_eigenvalue_bounds_the_curve_from_below():
    """For residuals of no preferred direction: the mean over an orthonormal basis of them is the mean of exp(-2 lr lambda t)."""
    kernel = ntk(wide(16), normal(6, 4))
    values, times = kernel.spectrum()[0], torch.arange(0, 40, dtype=torch.float64)
    curve = architecture_curve(kernel.trace(), kernel.size, 0.05, times)
    mean = torch.exp(-2 * 0.05 * times[:, None] * values).mean(1)
    assert curve.status == "bound"
    assert bool((mean >= curve.lower).all())
    assert float(curve.lower[0]) == 1
    assert curve.shape.status == "not predicted"
    even = architecture_curve(Measured(12.0), 12, 0.05, times)
    torch.testing.assert_close(even.lower, torch.exp(-0.1 * times))
    nothing = architecture_curve(not_predicted("no such draw"), 12, 0.05, times)
    assert nothing.status == "not predicted" and nothing.note == "no such draw" and bool(nothing.lower.isnan().all())


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        ({"lr": 0.0}, {"lr": "PKC528"}),
        ({"lr": -1.0, "steps": 0}, {"lr": "PKC528", "steps": "PKC528"}),
        ({"loss": "cross-entropy", "reduction": "max"}, {"dynamics": "PKC528", "reduction": "PKC528"}),
        ({"lr": "fast", "steps": True}, {"lr": "PKC211", "steps": "PKC211"}),
    ],
)
def test_arguments_that_do_not_fit_are_all_named(given, codes):
    with pytest.raises(PkcError) as error:
        dynamics(linear(), (normal(3, 5), normal(3, 3)), **{"lr": 0.1, "steps": 2, **given})
    assert [d.code for d in error.value.diagnostics] == list(codes.values())
    assert all(word in d.message for word, d in zip(codes, error.value.diagnostics, strict=True))


def test_no_targets_and_no_outputs():
    with pytest.raises(PkcError, match=r"PKC527.*the loss reads targets"):
        dynamics(linear(), normal(3, 5), lr=0.1, steps=2)
    with pytest.raises(PkcError, match=r"PKC528.*at least one output"):
        architecture_curve(Measured(1.0), 0, 0.1, [1.0])
