"""Figures of the NTK: alignment, condition, stable step, bound; and what does not fit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from oracle.families import FAMILIES
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.tangent.ntk import ntk


def mlp(*widths: int, gate: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), gate())]
    return nn.Sequential(*layers[:-1]).double()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# targets and alignment


def test_alignment_is_the_cosine_of_two_matrices():
    model, x, y = mlp(4, 8, 3), normal(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    kernel = ntk(model, (x, y))
    matrix = kernel.kernel.numpy()
    onehot = np.eye(3)[y.numpy()].reshape(-1)
    target = np.outer(onehot, onehot)
    expected = (matrix * target).sum() / np.linalg.norm(matrix) / np.linalg.norm(target)
    assert float(kernel.alignment()) == pytest.approx(expected, rel=1e-12)
    centre = np.kron(np.eye(7) - 1 / 7, np.eye(3))
    matrix, onehot = centre @ matrix @ centre, centre @ onehot
    target = np.outer(onehot, onehot)
    expected = (matrix * target).sum() / np.linalg.norm(matrix) / np.linalg.norm(target)
    assert float(kernel.alignment(centred=True)) == pytest.approx(expected, rel=1e-12)


def test_a_kernel_that_is_the_targets_own_is_aligned():
    """f = w x without bias has Theta = x x^T."""
    model, x = nn.Linear(1, 1, bias=False).double(), normal(9, 1)
    assert float(ntk(model, (x, 3 * x)).alignment()) == pytest.approx(1, abs=1e-12)
    assert float(ntk(model, (x, 3 * x)).alignment(centred=True)) == pytest.approx(1, abs=1e-12)
    even = x.abs() - (x.abs() * x).sum() / x.square().sum() * x
    assert float(ntk(model, (x, even)).alignment()) == pytest.approx(0, abs=1e-12)
    assert ntk(model, (x, torch.ones(9, 1))).alignment(centred=True).status == "not predicted"


def test_targets_of_a_sequence_are_classes_at_every_position():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)).double()
    x = torch.tensor([[0, 1], [4, 2], [3, 3]])
    kernel = ntk(model, (x, torch.tensor([[0, 2], [1, 1], [2, 0]])))
    assert kernel.size == 18
    assert torch.equal(kernel.y, torch.eye(3).double()[torch.tensor([[0, 2], [1, 1], [2, 0]])].reshape(3, 6))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 3, 0]), "PKC527.*target 3, but the model has 3 outputs"),
        (torch.tensor([0, -1, 2, 0]), "PKC527.*target -1"),
        (torch.tensor([0, 1, 2]), r"PKC527.*int64 \(3,\) do not fit the output \(4, 3\)"),
        (torch.zeros(4), r"PKC527.*float32 \(4,\) do not fit"),
        ([0, 1, 2, 0], "PKC527.*targets are a list"),
    ],
)
def test_targets_that_do_not_fit(y, message):
    with pytest.raises(PkcError, match=message):
        ntk(mlp(2, 3), (normal(4, 2), y))


def test_alignment_without_targets():
    with pytest.raises(PkcError, match=r"PKC527.*alignment reads targets"):
        ntk(mlp(2, 3), (normal(4, 2), None)).alignment()


# spectrum


def test_condition_number_and_stable_step():
    kernel = ntk(mlp(5, 16, 2), normal(6, 5))
    singular = torch.linalg.eigvalsh(kernel.kernel)
    assert float(kernel.condition_number()) == pytest.approx(float(singular[-1] / singular[0]), rel=1e-6)
    assert float(kernel.largest_stable_step()) == pytest.approx(2 / float(singular[-1]), rel=1e-12)
    assert float(kernel.frobenius()) == pytest.approx(float(singular.square().sum().sqrt()), rel=1e-12)
    assert float(kernel.effective_rank()) == pytest.approx(float(singular.sum() ** 2 / singular.square().sum()), rel=1e-12)
    assert float(kernel.stable_rank()) == pytest.approx(float(singular.sum() / singular[-1]), rel=1e-12)
    pairs = kernel.eigenpairs(50)
    assert torch.allclose(pairs.values, singular.flip(0), rtol=1e-12)
    assert float(pairs.residuals.max()) < 1e-9


@pytest.mark.parametrize(("outputs", "n", "k"), [(101, 5, 12), (40, 12, 6), (300, 3, 5)])
def test_copies_of_an_eigenvalue_are_not_missed_without_the_matrix(outputs, n, k):
    """A linear layer's kernel is (x x^T + 1), once per output."""
    model, x = nn.Linear(3, outputs), normal(n, 3)
    expected = torch.linalg.eigvalsh(x @ x.T + 1).flip(0).repeat_interleave(outputs)[:k]
    pairs = ntk(model, x, memory=(n * outputs) ** 2 * 8 - 1).eigenpairs(k)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-9, atol=0)
    assert float(pairs.residuals.max()) < 1e-6
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-8)


def test_many_outputs_need_no_matrix_for_a_few_eigenpairs():
    model, x = mlp(3, 8, 150), normal(4, 3)
    free = ntk(model, x)
    pairs = free.eigenpairs(3)
    assert pairs.products > 0
    _ = free.kernel
    assert free.eigenpairs(3).products == 0
    torch.testing.assert_close(pairs.values, free.eigenvalues(3), rtol=1e-9, atol=0)


def test_rank_deficient_kernels_say_so():
    linear = nn.Linear(2, 1, bias=False).double()
    few = ntk(linear, normal(5, 2)).condition_number()
    assert math.isinf(few.value) and "2 parameters are fewer than 5 rows" in few.note
    same = ntk(mlp(5, 16, 1), normal(1, 5).repeat(3, 1)).condition_number()
    assert math.isinf(same.value) and "rank 1 of 3" in same.note
    nothing = ntk(linear, torch.zeros(2, 2))
    assert math.isinf(nothing.largest_stable_step().value)
    for rank in (nothing.stable_rank(), nothing.effective_rank()):
        assert (rank.status, rank.note) == ("not predicted", "the kernel is zero")


# the bound


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_bound_holds_for_the_frozen_kernel(name):
    case = FAMILIES[name]()
    kernel = ntk(case.module, case.signed)
    bound = kernel.bound()
    if bound.status == "not predicted":
        assert name == "group_norm" and "group normalisation" in bound.note
        return
    assert bound.status == "bound"
    assert float(kernel.frozen().trace()) <= float(bound) * (1 + 1e-12)
    assert ("Tr Theta" in bound.note) == kernel.frozen().is_ntk


def test_the_bound_is_reached_where_every_output_has_one_path():
    """f = w2 relu(w1 x): one path, so Cauchy and Schwarz lose nothing."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(2.0), model[2].weight.fill_(-3.0)
    kernel = ntk(model, torch.tensor([[1.0], [-1.0], [0.5]]))
    assert float(kernel.trace()) == pytest.approx((4 + 9) * 1.25)
    assert float(kernel.bound()) == pytest.approx((4 + 9) * 1.25)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def test_behind_a_sine_the_ntk_exceeds_the_bound_of_its_frozen_kernel():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), Sine(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(2.5), model[2].weight.fill_(1.0)
    kernel = ntk(model, torch.ones(1, 1))
    slope = math.sin(2.5) / 2.5
    assert float(kernel.trace()) == pytest.approx(math.cos(2.5) ** 2 + math.sin(2.5) ** 2)
    assert float(kernel.frozen().trace()) == pytest.approx(slope**2 * (1 + 2.5**2))
    assert float(kernel.frozen().trace()) <= float(kernel.bound()) < float(kernel.trace())
    assert "may exceed" in kernel.bound().note


def test_the_bound_reads_masks():
    model, x = mlp(4, 6, 3), normal(5, 4)
    masks = {"0.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(3)) < 0.5}
    full, half = ntk(model, x), ntk(model, x, masks)
    assert float(half.trace()) <= float(half.bound()) < float(full.bound())


# what does not fit


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - self.a(x).mean(0)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (Mixing(), torch.randn(4, 3), "PKC526.*not those of each sample alone"),
        (nn.Linear(3, 2).requires_grad_(False), torch.randn(4, 3), "PKC526.*no parameter of the model requires grad"),
        (nn.Linear(3, 2), torch.randn(0, 3), "PKC526.*no sample"),
        (nn.Linear(3, 2), "digits", "PKC505.*data holds a str"),
        (nn.Linear(3, 2), torch.randn(4, 5), "PKC203"),
        ("model", torch.randn(4, 3), "PKC207"),
    ],
)
def test_models_and_data_that_do_not_fit(model, data, message):
    with pytest.raises(PkcError, match=message):
        ntk(model, data)


class Overwritten(nn.Module):
    """Autograd needs what is overwritten here."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h += 1
        return h


def test_a_model_that_autograd_cannot_differentiate():
    with pytest.raises(PkcError, match=r"PKC526.*derivatives cannot be computed: one of the variables"):
        _ = ntk(Overwritten(), torch.randn(4, 3)).kernel


def test_numbers_that_are_none_are_told():
    x = normal(5, 3)
    with pytest.raises(PkcError, match=r"PKC666.*NaN or an infinity in 5 samples"):
        ntk(nn.Linear(3, 2), torch.full_like(x, math.nan))
    x[4] = 1e200
    with pytest.raises(PkcError, match=r"PKC526.*the kernel holds NaN"):
        _ = ntk(nn.Linear(3, 2), x).kernel
    with pytest.raises(PkcError, match=r"PKC501.*not torch.bfloat16"):
        ntk(nn.Linear(3, 2), x, dtype=torch.bfloat16)


def test_samples_and_masks_that_do_not_fit():
    with pytest.raises(PkcError, match=r"PKC505.*samples have shape"):
        ntk(nn.Linear(3, 2), torch.randn(4, 5), example_inputs=torch.randn(1, 3))
    wrong = {"weight": torch.ones(3, 3, dtype=torch.bool), "bais": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(PkcError) as error:
        ntk(nn.Linear(3, 2), torch.randn(4, 3), wrong)
    assert [d.code for d in error.value.diagnostics] == ["PKC401", "PKC401"]


class Two(nn.Module):
    """A second input, which stays the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x) * scale, x


def test_other_inputs_stay_those_of_the_example():
    model, x = Two().double(), normal(4, 3)
    kernel = ntk(model, x, example_inputs=(x[:1], torch.full((1, 1), 2.0)))
    plain = ntk(model.a, x)
    assert torch.allclose(kernel.kernel, 4 * plain.kernel, rtol=1e-12)
    assert float(kernel.difference()) < 1e-12
