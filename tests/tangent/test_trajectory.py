"""The Loss Path Kernel against sums of outer products along a loop written out, and its identity to first order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.tangent.trajectory import LossPathKernel


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


X, LABELS, NUMBERS = normal(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 1, 0]), normal(8, 3, seed=2)
LOSSES = {
    "cross-entropy": (LABELS, lambda f, y: nn.functional.cross_entropy(f, y)),
    "mse": (NUMBERS, lambda f, y: (f - y).square().sum() / 2),
    "own": (NUMBERS, lambda f, y: (f - y).abs().pow(1.5).sum()),
}


def written_out(lr: float, steps: int, y: Tensor, loss) -> tuple[Tensor, Tensor]:
    """K_T [8, 8] and the losses per sample [steps + 1, 8] of plain gradient descent."""
    model, kernel, losses = net(), torch.zeros(8, 8, dtype=torch.float64), []
    for step in range(steps + 1):
        values = [loss(model(X[i : i + 1]), y[i : i + 1]) for i in range(8)]
        losses.append(torch.stack(values).detach())
        if step == steps:
            break
        gradients = torch.stack([torch.cat([g.reshape(-1) for g in torch.autograd.grad(v, model.parameters())]) for v in values])
        kernel += lr * gradients @ gradients.T
        flat = nn.utils.parameters_to_vector(model.parameters()).detach()
        nn.utils.vector_to_parameters(flat - lr * gradients.mean(0), model.parameters())
    return kernel, torch.stack(losses)


@pytest.mark.parametrize("name", LOSSES)
def test_the_kernel_is_the_sum_over_a_loop(name):
    y, loss = LOSSES[name]
    found = LossPathKernel(net(), (X, y), 0.2, 6, loss=loss if name == "own" else name)
    kernel, losses = written_out(0.2, 6, y, loss)
    torch.testing.assert_close(found.kernel, kernel, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.losses(), losses.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.drops(), losses[0] - losses[-1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.explained(), kernel.mean(1), rtol=1e-10, atol=1e-12)
    assert found.identity().explained == pytest.approx(float(kernel.mean()), rel=1e-10)
    assert found.steps == 6


@pytest.mark.parametrize("name", ["cross-entropy", "mse"])
def test_the_identity_holds_to_first_order(name):
    """Over the same time, half the step halves the defect, of the mean and of every sample."""
    y, _ = LOSSES[name]
    runs = [LossPathKernel(net(), (X, y), 0.8 / parts, 2 * parts, loss=name) for parts in (8, 16, 32, 64)]
    defects = [run.identity().defect for run in runs]
    apart = [float((run.drops() - run.explained()).abs().max()) for run in runs]
    assert 0 < defects[-1] < 0.05
    for series in (defects, apart):
        for coarse, fine in itertools.pairwise(series[1:]):
            assert fine / coarse == pytest.approx(0.5, rel=0.1)


def test_a_few_samples_have_the_same_entries():
    y, _ = LOSSES["mse"]
    whole = LossPathKernel(net(), (X, y), 0.1, 4, loss="mse")
    few = LossPathKernel(net(), (X, y), 0.1, 4, loss="mse", samples=[5, 2])
    torch.testing.assert_close(few.kernel, whole.kernel[[5, 2]][:, [5, 2]], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(few.explained(), whole.explained()[[5, 2]], rtol=1e-12, atol=1e-14)
    assert few.identity() == whole.identity()


def test_a_loop_of_the_users_gives_the_same():
    y, _ = LOSSES["cross-entropy"]
    model, given = net(), net().eval()
    found = LossPathKernel(given, (X, y))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(5):
        found.record(model, 0.2)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimiser.step()
    found.close(model)
    trained = LossPathKernel(net(), (X, y), 0.2, 5)
    torch.testing.assert_close(found.kernel, trained.kernel, rtol=1e-10, atol=1e-13)
    assert found.identity().defect == pytest.approx(trained.identity().defect, rel=1e-8)
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), net().parameters(), strict=True))


def test_buffers_are_read_as_well():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    moved = LossPathKernel(model, (X, LABELS))
    moved.record(model, 0.1)
    model.train()(X)
    moved.record(model, 0.1)
    first = LossPathKernel(model.eval(), (X, LABELS))
    first.record(model, 0.1)
    assert float((moved.kernel - 2 * first.kernel).abs().max()) > 1e-3
    assert moved.losses()[1] == first.losses()[0]


def test_masked_entries_stay_where_they_are():
    masks = {"0.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(3)) < 0.5}
    found = LossPathKernel(net(), (X, NUMBERS), 0.1, 4, loss="mse", masks=masks)
    pruned = net()
    with torch.no_grad():
        pruned[0].weight.mul_(masks["0.weight"])
    pruned[0].weight.requires_grad_(True).register_hook(lambda g: g * masks["0.weight"])
    optimiser = torch.optim.SGD(pruned.parameters(), lr=0.1)
    for loss in found.losses():
        value = (pruned(X) - NUMBERS).square().sum() / 16
        assert float(value.detach()) == pytest.approx(float(loss), rel=1e-12)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


def test_memory_is_asked_for_first():
    with pytest.raises(PkcError, match=r"PKC525.*of 8 samples takes 1.0 kB; the limit is 100 bytes"):
        LossPathKernel(net(), (X, LABELS), 0.1, 2, memory=100)
    pieces = LossPathKernel(net(), (X, LABELS), 0.1, 2, memory=1_100)
    torch.testing.assert_close(pieces.kernel, LossPathKernel(net(), (X, LABELS), 0.1, 2).kernel, rtol=1e-12, atol=1e-14)


def test_twice_the_same_bits():
    assert torch.equal(LossPathKernel(net(), (X, LABELS), 0.1, 3).kernel, LossPathKernel(net(), (X, LABELS), 0.1, 3).kernel)


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"lr": -1, "steps": 0, "loss": "hinge"}, ["lr = -1", "steps = 0", "no loss 'hinge'"]),
        ({"steps": 3}, ["lr = None"]),
        ({"samples": [8]}, ["no indices from 0 to 7"]),
        ({"samples": []}, ["no indices from 0 to 7"]),
        ({"samples": torch.tensor([0.5])}, ["no indices from 0 to 7"]),
    ],
)
def test_arguments_that_do_not_fit(given, messages):
    with pytest.raises(PkcError) as error:
        LossPathKernel(net(), (X, LABELS), **given)
    assert [d.code for d in error.value.diagnostics] == ["PKC529"] * len(messages)
    assert all(m in d.message for m, d in zip(messages, error.value.diagnostics, strict=True))


def test_data_that_do_not_fit():
    with pytest.raises(PkcError, match=r"PKC527.*the loss reads targets"):
        LossPathKernel(net(), X)
    with pytest.raises(PkcError, match=r"PKC527.*the loss reads targets of 8 samples"):
        LossPathKernel(net(), (X, LABELS[:3]), loss=lambda f, y: f.sum())
    with pytest.raises(PkcError, match=r"PKC529.*the loss of one sample is a tuple"):
        LossPathKernel(net(), (X, LABELS), 0.1, 2, loss=lambda f, y: (f.sum(), 1))
    with pytest.raises(PkcError, match=r"PKC529.*the loss of one sample is a tensor of shape"):
        LossPathKernel(net(), (X, LABELS), 0.1, 2, loss=lambda f, y: f)
    with pytest.raises(PkcError, match=r"PKC529.*an output per class"):
        LossPathKernel(nn.Linear(4, 1), (X, LABELS))
    with pytest.raises(PkcError, match=r"PKC529.*not finite after"):
        LossPathKernel(net(), (X, NUMBERS), 1e9, 60, loss="mse")


def test_recording_in_the_wrong_order():
    found = LossPathKernel(net(), (X, LABELS))
    with pytest.raises(PkcError, match=r"PKC529.*no step was recorded"):
        _ = found.kernel
    with pytest.raises(PkcError, match=r"PKC529.*no step was recorded"):
        found.close(net())
    with pytest.raises(PkcError, match=r"PKC529.*no learning rate"):
        found.record(net())
    with pytest.raises(PkcError, match=r"PKC529.*not the model"):
        found.record(nn.Linear(4, 3), 0.1)
    found.record(net(), 0.1)
    with pytest.raises(PkcError, match=r"PKC529.*no end yet"):
        found.identity()
    found.close(net())
    with pytest.raises(PkcError, match=r"PKC529.*is closed"):
        found.record(net(), 0.1)
