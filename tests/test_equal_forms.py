"""Norms, softmax, masks and frozen BatchNorms that are written out have the functionals of torch's own operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler import certify, lift, path_functional, path_kernel
from pkcompiler.analysis.certificate import certify_capture
from pkcompiler.analysis.functional import functional_of
from pkcompiler.analysis.semiring import settings
from pkcompiler.analysis.topology import topology
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.maps import Softmax
from pkcompiler.kernel.gram import kernel_of

Form = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two linear maps of the last dimension, beside a skip."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.form = nn.Linear(4, 4), nn.Linear(4, 2), form
        self.w, self.v = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.o(z + self.form(z) * self.w + self.v)


def figures(model: nn.Module, x: Tensor, *, softmax: str | None = None) -> list[float]:
    """R_1, R_2, the sizes of their derivatives, the number of paths, and the trace of the Path Kernel, of a graph that is certified
    at ``x``.

    ``softmax``: what one of its softmaxes allows.
    """
    captured = capture(model, x, dtype=torch.float64)
    assert certify_capture(captured).holds
    assert softmax is None or any(isinstance(op.map, Softmax) and op.map.allowed == softmax for op in captured.graph.ops)
    squares = settings(edge="theta^2", pools="sum", constants="on")
    masses = [functional_of(captured, chosen) for chosen in (settings(), squares)]
    slopes = [float(grad.square().sum()) * 4.0**mass.exponent for mass in masses for name, grad in sorted(mass.grad.items())]
    count = functional_of(captured, settings(edge="1")).count
    return [
        *(mass.value for mass in masses),
        *slopes,
        count or 0,
        kernel_of(captured.graph, captured.tensors, squares, {}).trace().value,
    ]


def layer_norm(z: Tensor) -> Tensor:
    return F.layer_norm(z, z.shape[-1:])


def by_power(z: Tensor) -> Tensor:
    u = z.mean(-1, keepdim=True)
    s = (z - u).pow(2).mean(-1, keepdim=True)
    return (z - u) / torch.sqrt(s + 1e-5)


def by_product(z: Tensor) -> Tensor:
    c = z - z.mean(-1, keepdim=True)
    return c * torch.rsqrt((c * c).mean(-1, keepdim=True) + 1e-5)


def by_variance(z: Tensor) -> Tensor:
    return (z - z.mean(-1)[..., None]) * (z.var(-1, keepdim=True, unbiased=False) + 1e-5) ** -0.5


def by_moments(z: Tensor) -> Tensor:
    u = z.mean(-1, keepdim=True)
    return (z - u) / (z.square().mean(-1, keepdim=True) - u.square() + 1e-5).sqrt()


def by_deviation(z: Tensor) -> Tensor:
    return (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + 1e-6)


def by_length(z: Tensor) -> Tensor:
    c = z - z.mean(-1, keepdim=True)
    return 2 * c / torch.linalg.vector_norm(c, dim=-1, keepdim=True)


def by_sum(z: Tensor) -> Tensor:
    u = z.sum(-1, keepdim=True) / 4
    return -(u - z) * torch.rsqrt((z + (-u)).square().mean(-1, keepdim=True) + 1e-5)


def distributed(z: Tensor) -> Tensor:
    v, u = torch.var_mean(z, -1, keepdim=True, correction=0)
    r = torch.rsqrt(v + 1e-5)
    return z * r - u * r


def distributed_and_divided(z: Tensor) -> Tensor:
    u, s = z.mean(-1)[..., None], (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return z / s + (-u) / s


def by_var_mean(z: Tensor) -> Tensor:
    v, u = torch.var_mean(z, -1, keepdim=True, correction=0)
    return (z - u) * torch.rsqrt(v + 1e-5)


LAYER_NORMS = [
    by_sum, by_var_mean, by_power, by_product, by_variance, by_moments, by_deviation, by_length, distributed,
    distributed_and_divided,
]  # fmt: skip


@pytest.mark.parametrize("form", LAYER_NORMS)
def test_a_layer_norm_that_is_written_out(form: Form) -> None:
    x = torch.randn(3, 3, 4)
    scale = (3 / 4) ** 0.5 if form is by_deviation else 1.0  # its N - 1 of N entries
    expected = figures(Between(lambda z: layer_norm(z) * scale), x)
    assert figures(Between(form), x) == pytest.approx(expected, rel=1e-9)


def test_a_mean_that_is_subtracted_without_a_norm_stays_paths() -> None:
    x = torch.randn(1, 3, 4)
    centred = path_functional(Between(lambda z: z - z.mean(-1, keepdim=True)), x, edge="1")
    plain = path_functional(Between(lambda z: 1 * z), x, edge="1")
    assert centred.status == "exact" and centred.count > plain.count


class Affine(nn.Module):
    """A function of a hidden value, a gain, a bias, and the mean and variance of a BatchNorm, behind a ReLU."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.function = nn.Linear(4, 4), nn.Linear(4, 2), function
        self.gamma, self.beta = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.function(self.a(x), self.gamma, self.beta, self.mean, self.var)))


def own(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a layer norm, and 1 over its deviation."""
    return z.mean(-1, keepdim=True), torch.rsqrt(z.var(-1, keepdim=True, unbiased=False) + 1e-5)


AFFINE: dict[str, list[Callable[..., Tensor]]] = {
    "layer norm": [
        lambda z, g, b, *_: F.layer_norm(z, (4,), g, b),
        lambda z, g, b, *_: (z - own(z)[0]) * (g * own(z)[1]) + b,
        lambda z, g, b, *_: z * (g * own(z)[1]) + (b - own(z)[0] * g * own(z)[1]),
        lambda z, g, b, *_: g * z * own(z)[1] - g * own(z)[0] * own(z)[1] + b,
    ],
    "root mean square": [
        lambda z, g, *_: F.rms_norm(z, (4,), g, 1e-6),
        lambda z, g, *_: z * (g * torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-6)),
        lambda z, g, *_: F.normalize(z, dim=-1) * 4**0.5 * g,
        lambda z, g, *_: z / (z.norm(dim=-1, keepdim=True) * 4**-0.5 + 1e-8) * g,
        lambda z, g, *_: 2 * z * torch.rsqrt(z.square().sum(-1, keepdim=True) + 1e-6) * g,
    ],
    "batch norm": [
        lambda x, g, b, m, v: F.batch_norm(x.transpose(1, 2), m, v, g, b).transpose(1, 2),
        lambda x, g, b, m, v: (x - m) / torch.sqrt(v + 1e-5) * g + b,
        lambda x, g, b, m, v: x * (s := g / torch.sqrt(v + 1e-5)) - (m * s - b),
        lambda x, g, b, m, v: x * (s := g / torch.sqrt(v + 1e-5)) - m * s + b,
        lambda x, g, b, m, v: x * (s := g / torch.sqrt(v + 1e-5)) + b + (-m) * s,
        lambda x, g, b, m, v: torch.addcmul(b - m * (s := g * torch.rsqrt(v + 1e-5)), x, s),
        lambda x, g, b, m, v: (
            x.mT * (s := (g * torch.rsqrt(v + 1e-5)).view(1, -1, 1)) - m.view(1, -1, 1) * s + b.view(1, -1, 1)
        ).mT,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", AFFINE)
def test_gains_and_biases_stand_anywhere_in_a_norm(name: str) -> None:
    x = torch.randn(3, 3, 4)
    expected, *found = [figures(Affine(function), x) for function in AFFINE[name]]
    for values in found:
        assert values == pytest.approx(expected, rel=1e-9)


class Grouped(nn.Module):
    """GroupNorm (2 groups) and InstanceNorm, by torch or written out."""

    def __init__(self, writing: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.writing = nn.Conv2d(2, 4, 2), nn.Conv2d(4, 2, 2), writing
        self.g, self.b = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x, g, b = self.a(x), self.g.view(1, 4, 1, 1), self.b.view(1, 4, 1, 1)
        if self.writing == "group_norm":
            return self.o(F.group_norm(x, 2, self.g, self.b))
        if self.writing == "instance_norm":
            return self.o(F.instance_norm(x, weight=self.g, bias=self.b))
        if self.writing == "groups":
            mean, scale = own(z := x.reshape(len(x), 2, -1))
            return self.o(((z - mean) * scale).reshape(x.shape) * g + b)
        mean, scale = x.mean((2, 3))[:, :, None, None], g * torch.rsqrt(x.var((2, 3), keepdim=True, correction=0) + 1e-5)
        return self.o(x * scale + (b - mean * scale))


@pytest.mark.parametrize("names", [("group_norm", "groups"), ("instance_norm", "channels")])
def test_groups_and_instances(names: tuple[str, str]) -> None:
    x = torch.randn(2, 2, 4, 4)
    expected, found = (figures(Grouped(name), x) for name in names)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_unit_vector_is_the_rms_norm_over_the_root_of_its_length() -> None:
    x = torch.randn(3, 3, 4)
    expected = figures(Between(lambda z: 0.5 * F.rms_norm(z, (4,), eps=1e-12)), x)
    for form in (lambda z: F.normalize(z, dim=-1), lambda z: z / torch.linalg.vector_norm(z, dim=-1, keepdim=True)):
        assert figures(Between(form), x) == pytest.approx(expected, rel=1e-9)


RMS: dict[str, Form] = {
    "rsqrt": lambda z: z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6),
    "sqrt": lambda z: z / (z * z).mean(-1, keepdim=True).add(1e-6).sqrt(),
    "power": lambda z: (z.square().mean(-1)[..., None] + 1e-6) ** -0.5 * z,
}


@pytest.mark.parametrize("name", RMS)
def test_an_rms_norm_that_is_written_out_reads_the_units_that_it_reads(name: str) -> None:
    x = torch.randn(1, 3, 4)
    model, reference = Between(RMS[name]), Between(lambda z: F.rms_norm(z, (4,), eps=1e-6))
    assert figures(model, x) == pytest.approx(figures(reference, x), rel=1e-9)
    model.o.weight.data[:, 0] = 0  # unit 0 of a reaches no output but by the deviation of the others
    mask = {"o.weight": model.o.weight != 0}
    captured = capture(model, x)
    before = model(x)
    model.a.weight.data[0] *= 2
    assert not torch.allclose(model(x), before)
    assert bool(topology(captured.graph, captured.tensors, mask).effective["a.weight"][0].all())


class ChannelsFirst(nn.Module):
    """ConvNeXt's LayerNorm over channels, in either writing."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.written = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 4, 2), written
        self.weight, self.bias = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        if not self.written:
            return self.o(F.layer_norm(z.permute(0, 2, 3, 1), (6,), self.weight, self.bias, 1e-6).permute(0, 3, 1, 2))
        u = z.mean(1, keepdim=True)
        s = (z - u).pow(2).mean(1, keepdim=True)
        z = (z - u) / torch.sqrt(s + 1e-6)
        return self.o(self.weight[:, None, None] * z + self.bias[:, None, None])


def test_a_layer_norm_over_channels() -> None:
    x = torch.randn(2, 3, 6, 6)
    assert figures(ChannelsFirst(True), x) == pytest.approx(figures(ChannelsFirst(False), x), rel=1e-9)


SOFTMAX: dict[str, Form] = {
    "exp": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "stable": lambda z: (z - z.amax(-1, keepdim=True)).exp() / (z - z.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True),
    "stable, by max": lambda z: (e := (z - z.max(-1, keepdim=True).values).exp()) / e.sum(-1, keepdim=True),
    "unsqueezed": lambda z: torch.exp(z - 3) / torch.exp(z - 3).sum(-1)[..., None],
    "log": lambda z: F.log_softmax(z, -1).exp(),
    "logsumexp": lambda z: torch.exp(z - torch.logsumexp(z, -1, keepdim=True)),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_that_is_written_out(name: str) -> None:
    x = torch.randn(3, 3, 4)
    expected = figures(Between(lambda z: torch.softmax(z, -1)), x)
    assert figures(Between(SOFTMAX[name]), x) == pytest.approx(expected, rel=1e-9)


def test_what_only_looks_like_a_softmax_is_none() -> None:
    for form in (lambda z: torch.exp(z - 3) / torch.exp(z).sum(-1, keepdim=True), lambda z: z.exp() / (2 * z).exp().sum(-1, True)):
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
        with pytest.raises(PkcError, match=r"not finite: .* at %\S+ \(test_equal_forms.py:\d+\)") as caught:
            call()
        assert [d.code for d in caught.value.diagnostics] == ["PKC510"]


class Frozen(nn.Module):
    """A BatchNorm in evaluation mode, by torch or written out with trained gain and bias."""

    def __init__(self, writing: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.writing = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 2, 2), writing
        self.gamma, self.beta = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(3))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("var", torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(self.norm(self.a(x))))

    def norm(self, x: Tensor) -> Tensor:
        gamma, beta, mean, var = self.gamma, self.beta, self.mean, self.var
        if self.writing == 0:
            return F.batch_norm(x, mean, var, gamma, beta, eps=1e-5)
        if self.writing == 1:
            scale = gamma * (var + 1e-5).rsqrt()
            shift = beta - mean * scale
            return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        if self.writing == 2:
            gamma, beta, mean, var = (t.reshape(1, -1, 1, 1) for t in (gamma, beta, mean, var))
            scale = gamma * (var + 1e-5).rsqrt()
            return x * scale + (beta - mean * scale)
        shift = beta - mean * gamma * torch.rsqrt(var + 1e-5)
        return (gamma * torch.rsqrt(var + 1e-5))[:, None, None] * x + shift[:, None, None]


@pytest.mark.parametrize("writing", [1, 2, 3])
def test_a_frozen_batch_norm_that_is_written_out(writing: int) -> None:
    x = torch.randn(1, 2, 4, 4)
    for edge in ("abs(theta)", "theta^2"):
        for constants in ("off", "on"):
            values = [path_functional(Frozen(w), x, edge=edge, constants=constants).value for w in (0, writing)]
            assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert certify(Frozen(writing), torch.randn(3, 2, 4, 4)).holds
