"""Where no trace leaves dimension 0 free, functionals are those of one sample: of the same model written so that it is free."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pkcompiler as pkc
from pkcompiler.frontend.capture import capture

SAMPLES = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) + 0.1


class Plain(nn.Module):
    """Two layers with a ReLU, at a free batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Branching(Plain):
    """The same, by a branch on the values of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else self.a(x)


class Fixed(Plain):
    """The same for five samples and no other number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(5, 4)).reshape(5, 2)


class Mixing(Plain):
    """The mean over the rows is taken off; the size of the input is asked for, which fixes it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h - h.mean(0)) if x.sum() > 0 else h


CASES = [(Branching, 1), (Branching, 2), (Branching, 5), (Fixed, 5)]


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_functionals_counts_and_derivatives_are_of_one_sample(kind: type[Plain], batch: int) -> None:
    example = SAMPLES[:batch]
    for edge in ("abs(theta)", "theta^2", "1"):
        found = pkc.path_functional(kind(), example, edge=edge, constants="on")
        expected = pkc.path_functional(Plain(), example, edge=edge, constants="on")
        assert found.value == pytest.approx(expected.value, rel=1e-12) and found.count == expected.count
        for name, grad in expected.grad.items():
            torch.testing.assert_close(found.grad[name], grad)
    each = pkc.path_functional(kind(), example, output="each")
    assert each.mantissa.shape == (1, 2)


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_at_data_the_sum_runs_over_the_samples(kind: type[Plain], batch: int) -> None:
    for gates, source in (("data", "data"), ("open", "mean(data)"), ("data", "ones")):
        options = {"edge": "theta^2", "gates": gates, "input": source, "data": (SAMPLES, None)}
        expected = pkc.path_functional(Plain(), SAMPLES[:batch], **options).value
        assert pkc.path_functional(kind(), SAMPLES[:batch], **options).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_path_kernels_are_of_one_sample(kind: type[Plain], batch: int) -> None:
    found, expected = (pkc.path_kernel(m(), SAMPLES[:batch]) for m in (kind, Plain))
    assert found.trace().value == pytest.approx(expected.trace().value, rel=1e-12)
    assert found.frobenius().value == pytest.approx(expected.frobenius().value, rel=1e-9)
    torch.testing.assert_close(found.eigenvalues(2), expected.eigenvalues(2), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_the_certificate_holds_and_masks_are_those_of_the_free_model(kind: type[Plain], batch: int) -> None:
    assert pkc.certify(kind(), SAMPLES[:batch]).holds
    masks = [pkc.prune(m(), SAMPLES[:batch], "synflow", density=0.4).masks for m in (kind, Plain)]
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in masks[1])


def test_closed_forms_are_of_one_sample() -> None:
    found, expected = (str(pkc.closed_forms(m(), SAMPLES)) for m in (Branching, Plain))
    assert found == expected


def test_rows_that_depend_on_each_other_are_one_sample() -> None:
    captured = capture(Mixing(), SAMPLES[:2], dtype=torch.float64)
    assert captured.whole and captured.static_batch == 2
    assert not capture(Branching(), SAMPLES[:2]).whole
    assert pkc.path_functional(Mixing(), SAMPLES[:2], edge="1").count > 2 * pkc.path_functional(Plain(), SAMPLES, edge="1").count


class Rows(nn.Module):
    """An instance norm that takes the rows of the batch for channels: a layer norm of each."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(4, 8), nn.Linear(8, 2), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_instance_norms_are_of_one_sample(batch: int) -> None:
    def instance(h: Tensor) -> Tensor:
        return F.instance_norm(h.unsqueeze(0)).squeeze(0)

    def layer(h: Tensor) -> Tensor:
        return F.layer_norm(h, (8,))

    found, expected = (pkc.path_functional(Rows(norm), SAMPLES[:batch]) for norm in (instance, layer))
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert pkc.certify(Rows(instance), SAMPLES[:batch]).holds
    images = torch.zeros(batch, 1, 5, 5)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    assert pkc.path_functional(model, images, edge="1").count == 9 * 18 * 2 + 18 * 2 + 2


class Counting(Plain):
    """The number of samples enters the output as a value."""

    def __init__(self, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(super().forward(x), x)


COUNTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "h * x.shape[0]": lambda h, x: h * x.shape[0],
    "h / len(x)": lambda h, x: h / len(x),
    "h * float(len(x))": lambda h, x: h * float(len(x)),
    "h * torch.tensor(len(x))": lambda h, x: h * torch.tensor(len(x)),
    "h / x.shape[0] ** 0.5": lambda h, x: h / x.shape[0] ** 0.5,
    "h / math.sqrt(len(x))": lambda h, x: h / math.sqrt(len(x)),
    "h * (x.shape[0] // 2)": lambda h, x: h * (x.shape[0] // 2 + 1),
    "h + x.numel()": lambda h, x: h + x.numel(),
    "add(alpha)": lambda h, x: torch.add(h, h, alpha=x.shape[0]),
    "slope": lambda h, x: F.leaky_relu(h, 1 / x.shape[0]),
    "full": lambda h, x: h * torch.full((2,), x.shape[0]),
    "full rows": lambda h, x: h * torch.full((x.shape[0], 1), x.shape[0]),
    "recorded": lambda h, x: h / (h.var(-1, keepdim=True) + x.shape[0]).sqrt(),
    "bound": lambda h, x: h.clamp(max=x.shape[0]),
    "a sum of ones": lambda h, x: h / torch.ones_like(x[:, 0]).sum(),
    "scaled alone": lambda h, x: h if len(x) > 1 else 3 * h,
}


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("name", COUNTED)
def test_whatever_computes_with_the_number_of_samples_is_refused(name: str, batch: int) -> None:
    with pytest.raises(pkc.PkcError) as caught:
        pkc.lift(Counting(COUNTED[name]), SAMPLES[:batch])
    (found,) = caught.value.diagnostics
    assert found.code == "PKC201" and "number of samples" in found.message and "x.shape[0]" in found.notes[-1]


SHAPED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "view": lambda h, x: h.view(len(x), -1),
    "view, free": lambda h, x: h.view(x.shape[0], h.numel() // x.shape[0]),
    "ones": lambda h, x: h * torch.ones(x.shape[0], 1),
    "one by one": lambda h, x: torch.cat([h[i : i + 1] for i in range(len(x))]),
    "split": lambda h, x: h[: x.shape[0]].expand(x.shape[0], 2),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", SHAPED)
def test_shapes_may_hold_the_number_of_samples(name: str, batch: int) -> None:
    found = pkc.path_functional(Counting(SHAPED[name]), SAMPLES[:batch])
    assert found.value == pytest.approx(pkc.path_functional(Plain(), SAMPLES).value, rel=1e-12)
