"""Norms and frozen BatchNorms that are written out have the functionals of torch's own operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler import certify, path_functional
from pkcompiler.frontend.capture import capture
from pkcompiler.paths.certificate import certify_capture
from pkcompiler.paths.functional import functional_of
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.topology import topology
from tests.frontend.equal_models import Between, Form, figures


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


def by_normalize(z: Tensor) -> Tensor:
    return 2 * F.normalize(z - z.mean(-1, keepdim=True), dim=-1)


def turned(z: Tensor) -> Tensor:
    return (z.mean(-1, keepdim=True) - z) * -torch.rsqrt(z.var(-1, keepdim=True, unbiased=False) + 1e-5)


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
    distributed_and_divided, by_normalize, turned,
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


class Modulated(nn.Module):
    """A function of two hidden values and a gain."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o, self.function = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), function
        self.g = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.function(torch.relu(self.a(x)), self.b(x), self.g))


def light(model: nn.Module) -> list[float | int | None]:
    """R_1, the derivative by b's weight, the number of paths and whether all that is exact, for pairs and value."""
    captured = capture(model, X, dtype=torch.float64)
    assert certify_capture(captured).holds
    found: list[float | int | None] = []
    for products in ("pairs", "value"):
        mass = functional_of(captured, settings(products=products))
        count = functional_of(captured, settings(products=products, edge="1")).count
        found += [mass.value, float(mass.grad["b.weight"].abs().sum()), count, mass.status == "exact"]
    return found


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))

FACTORS: dict[str, list[Callable[..., Tensor]]] = {
    "layer norm": [
        lambda a, z, g: a * F.layer_norm(z, (4,)),
        lambda a, z, g: a * by_power(z),
        lambda a, z, g: by_length(z).clone() * a,
        lambda a, z, g: a * own(z)[1] * (z - own(z)[0]),
        lambda a, z, g: (a * (own(z)[0] - z)) * -own(z)[1],
        lambda a, z, g: a * (z * own(z)[1] - own(z)[0] * own(z)[1]),
    ],
    "root mean square": [
        lambda a, z, g: a * F.rms_norm(z, (4,), eps=1e-6),
        lambda a, z, g: a * (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)),
        lambda a, z, g: (a * z) / z.square().mean(-1, keepdim=True).sqrt(),
        lambda a, z, g: a * (2 * z / z.norm(dim=-1, keepdim=True)),
        lambda a, z, g: F.normalize(z, dim=-1) * 2 * a,
    ],
    "a gain behind": [
        lambda a, z, g: a * F.layer_norm(z, (4,), g),
        lambda a, z, g: a * (by_moments(z) * g),
        lambda a, z, g: a * ((own(z)[1] * g) * (z - own(z)[0])),
    ],
    "a gain before": [
        lambda a, z, g: (a * g) * F.layer_norm(z, (4,)),
        lambda a, z, g: a * g * own(z)[1] * (z - own(z)[0]),
    ],
    "its own factor": [
        lambda a, z, g: z * F.layer_norm(z, (4,)),
        lambda a, z, g: z * by_power(z),
        lambda a, z, g: z * own(z)[1] * (z - own(z)[0]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_a_norm_that_is_written_out_is_a_factor_as_torchs_is(name: str) -> None:
    """Whatever else its product multiplies, in any order: (a r) (z - m) is a ((z - m) r), which modulates a."""
    expected, *found = [light(Modulated(function)) for function in FACTORS[name]]
    for values in found:
        assert values == pytest.approx(expected, rel=1e-9)


def test_a_gate_beside_a_norm_of_its_argument_stays_a_gate() -> None:
    def norm(z: Tensor) -> Tensor:
        return torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-6)

    for one, other in [
        (lambda a, z, g: a * (F.silu(z) * norm(z)), lambda a, z, g: z * torch.sigmoid(z) * norm(z) * a),
        (lambda a, z, g: a * (z**2 * norm(z)), lambda a, z, g: z * z * norm(z) * a),
    ]:
        assert light(Modulated(other)) == pytest.approx(light(Modulated(one)), rel=1e-9)


def test_a_mean_that_is_subtracted_beside_a_layer_norm_stays_paths() -> None:
    forms = [lambda a, z, g, n=n: n(z) + (z - z.mean(-1, keepdim=True)) for n in (layer_norm, by_power)]
    assert light(Modulated(forms[1])) == pytest.approx(light(Modulated(forms[0])), rel=1e-9)


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


def test_a_view_behind_a_norm_over_channels() -> None:
    """The norm is computed with its channels last, and the model's own view would not fit its order in memory."""

    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Conv2d(2, 4, 2), nn.Linear(36, 2)

        def forward(self, x: Tensor) -> Tensor:
            z = self.a(x)
            return self.o((z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-6)).view(len(x), -1))

    assert certify(Viewed(), torch.randn(2, 2, 4, 4)).holds
