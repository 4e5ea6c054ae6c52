"""Softmax and masks that are written out have the functionals of torch's own operators, and nothing infinite is a number."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler import certify, lift, path_functional, path_kernel
from pkcompiler.diagnostics import PkcError
from pkcompiler.ir.maps import Softmax
from tests.frontend.equal_models import Between, Form, figures

SOFTMAX: dict[str, Form] = {
    "exp": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "stable": lambda z: (z - z.amax(-1, keepdim=True)).exp() / (z - z.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True),
    "stable, by max": lambda z: (e := (z - z.max(-1, keepdim=True).values).exp()) / e.sum(-1, keepdim=True),
    "unsqueezed": lambda z: torch.exp(z - 3) / torch.exp(z - 3).sum(-1)[..., None],
    "by a share": lambda z: z.exp() * (1 / z.exp().sum(-1, keepdim=True)),
    "by its norm": lambda z: z.exp() / torch.linalg.vector_norm(z.exp(), 1, -1, keepdim=True),
    "apart": lambda z: 2 * z.exp() * torch.ones(4) / z.exp().sum(-1, keepdim=True) / 2,
    "log": lambda z: F.log_softmax(z, -1).exp(),
    "logsumexp": lambda z: torch.exp(z - torch.logsumexp(z, -1, keepdim=True)),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_that_is_written_out(name: str) -> None:
    x = torch.randn(3, 3, 4)
    expected = figures(Between(lambda z: torch.softmax(z, -1)), x)
    assert figures(Between(SOFTMAX[name]), x) == pytest.approx(expected, rel=1e-9)


def test_what_only_looks_like_a_softmax_is_none() -> None:
    for form in (
        lambda z: torch.exp(z - 3) / torch.exp(z).sum(-1, keepdim=True),
        lambda z: z.exp() / (2 * z).exp().sum(-1, True),
        lambda z: z.exp() / (z.exp().sum(-1, True) + 1e-9),
    ):
        model = Between(form)
        assert not any(isinstance(op.map, Softmax) for op in lift(model, torch.randn(1, 3, 4)).ops)
        assert certify(model, torch.randn(3, 3, 4)).holds


class Attention(nn.Module):
    """Causal attention, its mask written in one of several ways."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.mask = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), mask
        self.register_buffer("tril", torch.ones(5, 5).tril())

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 3**0.5
        return torch.softmax(self.mask(scores, self.tril), -1) @ self.v(x)


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product and difference": lambda s, t: s * t - 1e9 * (1 - t),
    "product and sum": lambda s, t: s * t + -1e10 * (1 - t),
    "difference": lambda s, t: s - 1e9 * (1 - t),
    "smallest float": lambda s, t: s + (1 - t) * torch.finfo(s.dtype).min,
    "infinity": lambda s, t: s + torch.zeros(5, 5).masked_fill(t == 0, -torch.inf),
    "where": lambda s, t: torch.where(t.bool(), s, torch.full_like(s, -1e9)),
    "where, a tensor": lambda s, t: torch.where(t > 0, s, torch.tensor(-1e4)),
    "then divided": lambda s, t: (2 * s + (1 - t) * -1e9) / 2,
    "behind views": lambda s, t: (s.view(-1, 1, 5, 5) + (1 - t) * torch.finfo(s.dtype).min).view(-1, 5, 5),
    "infinity, then divided": lambda s, t: (2 * s).masked_fill(t == 0, -torch.inf) / 2,
    "then scaled": lambda s, t: (s * 2 - 1e9 * (1 - t)) * 0.5,
    "floored": lambda s, t: torch.max(s + (1 - t) * SMALLEST, torch.tensor(SMALLEST)),
    "clamped": lambda s, t: (s.view(-1, 1, 5, 5) + (1 - t) * SMALLEST).clamp(min=SMALLEST).view(-1, 5, 5),
    "infinity made finite": lambda s, t: torch.nan_to_num(s.masked_fill(t == 0, -torch.inf)),
    "transposed": lambda s, t: s.transpose(1, 2).masked_fill(t.T == 0, -torch.inf).transpose(1, 2),
    "permuted": lambda s, t: (s.permute(2, 1, 0) + ((1 - t).T * -1e9)[:, :, None]).permute(2, 1, 0),
    "negated": lambda s, t: -((1 - t) * 1e9 - s),
    "twice": lambda s, t: s.masked_fill(t == 0, -torch.inf) + (1 - t) * -1e9,
    "less the maximum": lambda s, t: (m := s.masked_fill(t == 0, -torch.inf)) - m.amax(-1, keepdim=True),
    "half by the keys": lambda s, t: (s.masked_fill(HALF & (t == 0), -torch.inf)) + (1 - t) * ~HALF * -1e4,
}

SMALLEST = torch.finfo(torch.float32).min
HALF = torch.arange(5) < 3


@cache
def masked_attention() -> tuple[float, ...]:
    return tuple(figures(Attention(lambda s, t: s.masked_fill(t == 0, -torch.inf)), torch.zeros(1, 5, 3)))


@pytest.mark.parametrize("name", MASKS)
def test_attention_masks_as_numbers(name: str) -> None:
    found = figures(Attention(MASKS[name]), torch.randn(3, 5, 3), softmax="causal")
    assert found == pytest.approx(list(masked_attention()), rel=1e-9)


class Exponentials(Attention):
    """The same, the mask in place of the softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.q(x) @ self.k(x).transpose(1, 2) / 3**0.5, self.tril) @ self.v(x)


def share(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


MASKED_EXPONENTIALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda s, t: (s.exp() * t) / (s.exp() * t).sum(-1, keepdim=True),
    "stable": lambda s, t: share((t > 0) * (s - s.amax(-1, keepdim=True)).exp()),
    "filled": lambda s, t: share(s.exp().masked_fill(t == 0, 0.0)),
    "chosen": lambda s, t: share(torch.where(t.bool(), s.exp(), 0.0)),
    "triangle": lambda s, t: share(s.exp().tril()),
    "again": lambda s, t: share(torch.softmax(s, -1) * t),
    "of a mask": lambda s, t: share((s - 1e9 * (1 - t)).exp()),
    "across": lambda s, t: s.masked_fill(t == 0, -torch.inf).transpose(1, 2).softmax(1).transpose(1, 2),
}


@pytest.mark.parametrize("name", MASKED_EXPONENTIALS)
def test_exponentials_times_a_mask(name: str) -> None:
    found = figures(Exponentials(MASKED_EXPONENTIALS[name]), torch.randn(3, 5, 3))
    assert found == pytest.approx(list(masked_attention()), rel=1e-9)


class Divided(Attention):
    """The values are summed before the sum of the exponentials divides them."""

    def forward(self, x: Tensor) -> Tensor:
        e = self.mask((self.q(x) @ self.k(x).transpose(1, 2) / 3**0.5).exp(), self.tril)
        return (e @ self.v(x)) / e.sum(-1, keepdim=True)


@pytest.mark.parametrize("mask", [lambda e, t: e * t, lambda e, t: e.masked_fill(t == 0, 0.0)])
def test_exponentials_are_divided_after_they_have_weighed(mask: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert figures(Divided(mask), torch.randn(3, 5, 3)) == pytest.approx(list(masked_attention()), rel=1e-9)


def test_exponentials_times_weights_are_a_softmax_with_a_bias() -> None:
    decay = torch.exp(-torch.arange(5.0))
    weighed = figures(Exponentials(lambda s, t: share(s.exp() * decay)), torch.randn(1, 5, 3))
    biased = figures(Exponentials(lambda s, t: torch.softmax(s + decay.log(), -1)), torch.randn(1, 5, 3))
    assert weighed == pytest.approx(biased, rel=1e-9)


def test_a_mask_of_rows_shares_among_all_columns() -> None:
    """Row 2 sees nothing; the others see all 5 positions, 1/5 each, whether the mask says so for each of them or for the row."""
    rows = (torch.arange(5) != 2)[:, None]
    values = [
        figures(Attention(lambda s, t, m=m: s.masked_fill(~m, -1e9)), torch.zeros(1, 5, 3))
        for m in (rows, rows.expand(5, 5).clone())
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize(
    "form",
    [
        lambda z: z + torch.tensor([0.0, 0, 0, torch.finfo(torch.float64).min], dtype=torch.float64),
        lambda z: z * 1e200,
        lambda z: z * (z + torch.zeros(4).index_fill(0, torch.tensor(1), -torch.inf)).amax(-1, keepdim=True),
    ],
)
def test_what_is_not_finite_is_refused_by_name(form: Form) -> None:
    model, x = Between(form), torch.zeros(1, 3, 4)
    calls = [
        lambda: path_functional(model, x, edge="theta^2", constants="on"),
        lambda: path_kernel(model, x).trace(),
    ]
    for call in calls:
        with pytest.raises(PkcError, match=r"not finite: .* at %\S+ \(equal_models.py:\d+\)") as caught:
            call()
        assert [d.code for d in caught.value.diagnostics] == ["PKC510"]


def test_a_part_that_is_taken_twice_is_one_value() -> None:
    """LLaMA's gate, its first half written twice, and the product from the other side."""
    x = torch.randn(3, 3, 4)
    forms = [
        lambda z: (F.silu(z[..., :2]) * z[..., 2:]).repeat(1, 1, 2),
        lambda z: (z[..., :2] * torch.sigmoid(z[..., :2]) * z[..., 2:]).repeat(1, 1, 2),
        lambda z: (z[..., 2:] * (torch.sigmoid(z[..., :2]) * z[..., :2])).repeat(1, 1, 2),
    ]
    expected, *found = [figures(Between(form), x) for form in forms]
    for values in found:
        assert values == pytest.approx(expected, rel=1e-9)


class Gained(nn.Module):
    """A function of a hidden value, a constant and a parameter for each of its entries, and one number of either kind."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.function = nn.Linear(4, 4), nn.Linear(4, 2), function
        self.g, self.s = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.rand(1) + 0.5)
        self.register_buffer("v", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.function(self.a(x), self.v, self.g, self.s))


GAINED: dict[str, list[Callable[..., Tensor]]] = {
    "constant": [
        lambda z, v, g, s: F.silu(z) * v,
        lambda z, v, g, s: v * z * torch.sigmoid(z),
        lambda z, v, g, s: torch.sigmoid(z) * (z * v),
    ],
    "parameter": [
        lambda z, v, g, s: F.silu(z) * g * s,
        lambda z, v, g, s: s * z * (torch.sigmoid(z) * g),
    ],
    "square": [
        lambda z, v, g, s: z**2 * v * g,
        lambda z, v, g, s: (g * z) * (z * v),
    ],
    "before the gate": [
        lambda z, v, g, s: F.silu(z * v),
        lambda z, v, g, s: z * v * torch.sigmoid(z * v),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GAINED)
def test_factors_of_channels_stand_anywhere_in_a_gate(name: str) -> None:
    expected, *found = [figures(Gained(function), torch.randn(3, 4)) for function in GAINED[name]]
    for values in found:
        assert values == pytest.approx(expected, rel=1e-9)
