"""Prediction of the NTK's trace without data, against plain autograd over independent initialisations and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.predict.expected import ExpectedSweep, gate_functions, gate_moments
from pkcompiler.predict.initial import laws, seeds
from pkcompiler.predict.mean_trace import closed_form, predict_trace
from pkcompiler.predict.montecarlo import Inputs, interval, standard_error

TABLE: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (F.relu, 0.5, 0.5),
    "leaky": (lambda x: F.leaky_relu(x, 0.1), 0.505, 0.505),
    "gelu": (F.gelu, 0.4252, 0.4559),
    "silu": (F.silu, 0.3558, 0.3795),
    "tanh": (torch.tanh, 0.3943, 0.4644),
    "elu": (F.elu, 0.6449, 0.6681),
    "hardswish": (F.hardswish, 0.3316, 0.3585),
    "mish": (F.mish, 0.4523, 0.4791),
}


def mlp(act: type[nn.Module], depth: int, width: int = 128) -> nn.Module:
    widths = [64, *[width] * (depth - 1)]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 3))


def cnn(act: type[nn.Module], depth: int, width: int = 128, pool: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in zip([3, *[width] * (depth - 2)], [width] * (depth - 1), strict=True):
        layers += [nn.Conv2d(a, b, 3, padding=1), act()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)] if pool else [nn.Flatten(), nn.Linear(width * 36, 3)]
    return nn.Sequential(*layers, *end)


VECTOR, IMAGE = torch.zeros(1, 64), torch.zeros(1, 3, 6, 6)


def he(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def truth(make: Callable[[], nn.Module], like: Tensor, draws: int = 20, mean: float = 0.0) -> tuple[float, float]:
    """Mean and standard error of the trace over initialisations, each at an input of its own (plain autograd)."""
    found = []
    for seed in range(draws):
        torch.manual_seed(10_000 + seed)
        model = make().double().eval()
        outputs = model(mean + torch.randn(like.shape, dtype=torch.float64))[0]
        rows = [torch.autograd.grad(y, list(model.parameters()), retain_graph=True) for y in outputs]
        found.append(sum(float(g.square().sum()) for row in rows for g in row))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(draws)


def agrees(predicted: float, expected: tuple[float, float]) -> bool:
    """Within 15 % or 2 standard errors of the mean (the criterion of the closed form)."""
    return abs(predicted / expected[0] - 1) < 0.15 or abs(predicted - expected[0]) < 2 * expected[1]


# gates ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_moments_of_gates_at_unit_variance(name: str) -> None:
    phi, square, slope = TABLE[name]
    found = gate_moments(phi, torch.ones(()))
    assert float(found.square) == pytest.approx(square, abs=6e-5)
    assert float(found.slope) == pytest.approx(slope, abs=6e-5)


@pytest.mark.parametrize("q", [1e-8, 0.3, 1.0, 7.0, 1e6])
def test_moments_of_relu_and_erf_are_known_at_every_variance(q: float) -> None:
    """E[erf(z)^2] = (2 / pi) asin(2q / (1 + 2q)), and E[erf'(z)^2] = (4 / pi) / sqrt(1 + 4q) (Williams 1997)."""
    relu, erf = (gate_moments(phi, torch.tensor(q)) for phi in (torch.relu, torch.erf))
    assert (float(relu.square), float(relu.slope), float(relu.joint)) == pytest.approx((q / 2, 0.5, q / 2), rel=1e-5)
    assert float(erf.square) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-5)
    assert float(erf.slope) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-5)


def test_moments_at_zero_and_at_many_variances() -> None:
    at_zero = gate_moments(torch.sigmoid, torch.zeros(1))
    assert (float(at_zero.square), float(at_zero.slope), float(at_zero.joint)) == (0.25, 0.0625, 0.0)
    q = torch.cat([torch.zeros(1), torch.logspace(-6, 2, 400, dtype=torch.float64)])
    many, few = gate_moments(torch.tanh, q), gate_moments(torch.tanh, q[::40])
    for together, alone in ((many.square, few.square), (many.slope, few.slope), (many.joint, few.joint)):
        assert torch.allclose(together[::40], alone, rtol=2e-3, atol=1e-12)


# the closed form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.Tanh])
@pytest.mark.parametrize("depth", [3, 10])
@pytest.mark.parametrize("init", ["torch", "he"])
def test_mlps_follow_the_closed_form(act: type[nn.Module], depth: int, init: str) -> None:
    make = (lambda: he(mlp(act, depth))) if init == "he" else (lambda: mlp(act, depth))
    found = predict_trace(make(), VECTOR, initialise=(lambda seed: make()) if init == "he" else None)
    assert found.method == "closed form"
    assert found.trace.status == ("estimated" if act is nn.ReLU else "approximate")
    assert agrees(float(found.trace), truth(make, VECTOR, draws=60 if init == "he" else 20))


def test_a_deep_tanh_network_carries_its_variances() -> None:
    found = predict_trace(mlp(nn.Tanh, 20, 256), VECTOR)
    assert (found.method, found.trace.status) == ("closed form", "approximate")
    assert agrees(float(found.trace), truth(lambda: mlp(nn.Tanh, 20, 256), VECTOR, draws=5))


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.Tanh])
def test_flattened_convolutional_networks_follow_the_closed_form(act: type[nn.Module]) -> None:
    found = predict_trace(cnn(act, 4), IMAGE)
    assert found.method == "closed form"
    assert agrees(float(found.trace), truth(lambda: cnn(act, 4), IMAGE, draws=10))
    assert found.per_output is not None
    assert float(found.per_output.sum()) == pytest.approx(float(found.trace))


def test_relu_networks_have_a_known_mean_trace() -> None:
    """He, zero biases: a unit's mean square is 2 before its ReLU and 1 after it, of a derivative 1/w before it; by hand."""
    w, k = 32, 3
    make = lambda seed=0: he(nn.Sequential(nn.Linear(64, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, k)))  # noqa: E731
    found = predict_trace(make(), VECTOR, initialise=make)
    back = [2 / w * 0.5, 2 / w * 0.5, 1.0]  # of a unit before layers 1, 2 (through a ReLU), and of the output
    forward = [1.0, 1.0, 1.0]  # mean squares of what the layers read
    units, fans = [w, w, 1], [64, w, w]
    expected = k * sum(n * g * (fan * h + 1) for n, g, fan, h in zip(units, back, fans, forward, strict=True))
    error = found.trace.standard_error
    assert error is not None
    assert 0 < error < 0.02 * expected
    assert abs(float(found.trace) - expected) < 4 * error


@pytest.mark.parametrize(("act", "status"), [(nn.Tanh, "approximate"), (nn.ReLU, "estimated")])
def test_what_is_right_as_the_width_grows_has_no_interval(act: type[nn.Module], status: str) -> None:
    found = predict_trace(nn.Sequential(nn.Linear(64, 64), act(), nn.Linear(64, 3)), VECTOR)
    assert (found.method, found.trace.status) == ("closed form", status)
    assert (found.trace.standard_error is None) == ("+-" not in repr(found)) == (status == "approximate")


def test_batchnorm_gains_before_smooth_gates_count_their_correlation() -> None:
    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for a in (3, 64):
            layers += [nn.Conv2d(a, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.Tanh()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 36, 3))

    found = predict_trace(make(), IMAGE)
    assert found.method == "closed form"
    assert agrees(float(found.trace), truth(make, IMAGE))


def test_the_gain_of_a_gate_is_not_independent_of_its_input() -> None:
    """f = v . tanh(g * W x): the gains alone, E[dg^2] summed = E[tanh'(z)^2 z^2] with z ~ N(0, 1), v and W of unit rows."""

    class Gains(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(256, eps=0.0)
            self.first, self.last = nn.Linear(256, 256, bias=False), nn.Linear(256, 1, bias=False)
            for layer in (self.first, self.last):
                nn.init.normal_(layer.weight, std=1 / 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.norm(self.first(x))))

    captured = capture(Gains(), torch.zeros(1, 256), dtype=torch.float64)
    roots = {n: torch.full(t.shape, 1 / 16) if t.dim() == 2 else t for n, t in captured.tensors.items()}
    sweep = ExpectedSweep(captured.graph, roots, gate_functions(captured))
    edges = {n: e.requires_grad_() for n, e in sweep.edges().items()}
    value = sweep.run(edges, {v.name: torch.ones(1, 256, dtype=torch.float64) for v in captured.graph.inputs})
    (gains,) = torch.autograd.grad(value.tensor.sum(), [edges["norm.weight"]])
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = float(((1 - z.tanh().square()).square() * z.square()).mean())
    assert float(gains.sum()) * 2.0**value.exponent == pytest.approx(expected, rel=0.01)


class Residual(nn.Module):
    """Blocks x + b(act(a(act(x)))): what enters a gate is a sum of linear maps."""

    def __init__(self, act: Callable[[Tensor], Tensor], before: bool = True) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 128), nn.Linear(128, 3)
        self.a, self.b = (nn.ModuleList(nn.Linear(128, 128) for _ in range(3)) for _ in range(2))
        self.act, self.before = act, before

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(self.act(a(self.act(x)))) if self.before else self.act(x + b(self.act(a(x))))
        return self.head(self.act(x) if self.before else x)


def test_residual_networks_follow_it_where_branches_are_linear() -> None:
    found = predict_trace(Residual(torch.relu), VECTOR)
    assert (found.method, found.trace.status) == ("closed form", "approximate")
    assert agrees(float(found.trace), truth(lambda: Residual(torch.relu), VECTOR))
    assert "not normal" in predict_trace(Residual(torch.relu, before=False), VECTOR, draws=2).reason


def test_masks_and_moments_of_the_inputs() -> None:
    model = mlp(nn.ReLU, 4)
    mask = {"2.weight": torch.rand(128, 128, generator=torch.Generator().manual_seed(0)) < 0.2}
    open_, closed = predict_trace(model, VECTOR, masks=mask), predict_trace(model, VECTOR, masks=mask, method="monte carlo")
    assert (open_.method, closed.method) == ("closed form", "monte carlo")
    assert abs(float(open_.trace) - float(closed.trace)) < 4 * (closed.trace.standard_error or 0)
    shifted = predict_trace(model, VECTOR, mean=2.0, second_moment=5.0)
    assert shifted.method == "closed form"
    assert agrees(float(shifted.trace), truth(lambda: mlp(nn.ReLU, 4), VECTOR, mean=2.0))
    per_entry = torch.linspace(0.5, 1.5, 64)
    assert float(predict_trace(model, VECTOR, second_moment=per_entry).trace) != float(predict_trace(model, VECTOR).trace)


# where it does not hold -------------------------------------------------------------------------------------------------


def test_an_average_pool_is_refused_and_would_be_far_off() -> None:
    make = lambda seed=0: he(cnn(nn.ReLU, 5, 32, pool=True))  # noqa: E731
    found = predict_trace(make(), IMAGE, initialise=make)
    assert found.method == "monte carlo"
    assert "share their weights" in found.reason
    refused = predict_trace(make(), IMAGE, initialise=make, method="closed form")
    assert (refused.method, refused.trace.status) == ("not predicted", "not predicted")
    assert math.isnan(float(refused.trace))
    captured = capture(make(), IMAGE, dtype=torch.float64)
    forced, _ = closed_form(captured, captured.tensors, laws(make, 30_000, 0), Inputs())
    assert float(found.trace) > 3 * float(forced)


def test_monte_carlo_covers_the_truth_of_a_small_pooled_network() -> None:
    make = lambda seed=0: cnn(nn.ReLU, 4, 16, pool=True)  # noqa: E731
    mean, error = truth(make, IMAGE, draws=150)
    found = [predict_trace(make(), IMAGE, seed=seed) for seed in range(5)]
    assert all(abs(float(p.trace) - mean) < 4 * math.hypot(error, p.trace.standard_error or 0) for p in found)
    inside = [p.interval[0] - error < mean < p.interval[1] + error for p in found if p.interval]
    assert sum(inside) >= 4
    assert all(p.per_output is not None and float(p.per_output.sum()) == pytest.approx(float(p.trace)) for p in found)


def test_error_bars_of_heavy_tails_cover_more_than_the_plain_ones() -> None:
    """Log-normal draws with deviation 1: of intervals from 20 draws, at least 93 % hold the mean."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1000, 20, generator=generator, dtype=torch.float64).exp()
    bounds = [interval(row) for row in samples]
    assert sum(low < math.exp(0.5) < high for low, high in bounds) >= 930
    plain = samples.std(1) / math.sqrt(20)
    assert all(standard_error(row) >= float(p) * (1 - 1e-12) for row, p in zip(samples, plain, strict=True))


def test_many_outputs_are_taken_by_random_signs() -> None:
    make = lambda seed=0: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 40))  # noqa: E731
    exact = predict_trace(make(), torch.zeros(1, 16))
    sampled = predict_trace(make(), torch.zeros(1, 16), method="monte carlo", draws=100)
    assert sampled.per_output is None
    assert abs(float(sampled.trace) - float(exact.trace)) < 4 * (sampled.trace.standard_error or 0)


@pytest.mark.parametrize("why", ["maximum", "tied", "norm", "narrow", "embedding", "product"])
def test_other_graphs_are_left_to_monte_carlo(why: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(torch.relu(self.a(x)))))

    class Gated(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(x * torch.sigmoid(self.a(x)))

    cases: dict[str, tuple[nn.Module, Tensor, str]] = {
        "maximum": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)), IMAGE, "maxima"),
        "tied": (Tied(), VECTOR, "shares 'a.weight'"),
        "norm": (nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 3)), VECTOR, "normalises"),
        "narrow": (mlp(nn.Tanh, 6, width=8), VECTOR, "narrow"),
        "embedding": (
            nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)),
            torch.zeros(1, 2, dtype=torch.int64),
            "rows",
        ),
        "product": (Gated(), VECTOR, "multiplies"),
    }
    model, x, word = cases[why]
    found = predict_trace(model, x, draws=3)
    assert found.method == "monte carlo"
    assert word in found.reason
    assert float(found.trace) > 0


# not predicted, and errors ----------------------------------------------------------------------------------------------


def test_weights_that_no_reset_draws_are_not_predicted() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(64, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    raw = predict_trace(Raw(), VECTOR)
    assert (raw.method, "no reset_parameters" in raw.reason) == ("not predicted", True)
    assert predict_trace(Raw(), VECTOR, initialise=lambda seed: Raw()).method == "closed form"
    trained = mlp(nn.ReLU, 3)
    with torch.no_grad():
        trained[2].weight.mul_(1.5)  # type: ignore[index,union-attr,operator]
    assert "'2.weight' is no draw" in predict_trace(trained, VECTOR).reason
    seen = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 3))
    seen[1].running_var.fill_(2.0)  # type: ignore[operator,union-attr]
    assert "'1.running_var'" in predict_trace(seen, IMAGE).reason


def test_structured_initialisations_have_no_closed_form() -> None:
    def identity(seed: int = 0) -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(64) + 0.01 * torch.randn(64, 64))  # type: ignore[operator]
        return model

    found = predict_trace(identity(), VECTOR, initialise=identity, draws=5)
    assert (found.method, "not drawn independently" in found.reason) == ("monte carlo", True)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generators_alone() -> None:
    model = cnn(nn.ReLU, 3, 8, pool=True)
    before = torch.get_rng_state()
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    a, b, c = (predict_trace(model, IMAGE, draws=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert a.samples is not None and b.samples is not None and c.samples is not None
    assert torch.equal(a.samples, b.samples)
    assert not torch.isin(a.samples, c.samples).any()
    assert len(set(seeds(0, 50)) | set(seeds(1, 50))) == 100


def test_wrong_arguments_are_reported_together() -> None:
    with pytest.raises(PkcError) as caught:
        predict_trace(mlp(nn.ReLU, 2), VECTOR, mean=2.0, draws=1, method="guess")
    assert [d.code for d in caught.value.diagnostics] == ["PKC530"] * 3
    with pytest.raises(PkcError, match="does not broadcast"):
        predict_trace(mlp(nn.ReLU, 2), VECTOR, second_moment=torch.ones(5))
    with pytest.raises(PkcError, match="PKC401"):
        predict_trace(mlp(nn.ReLU, 2), VECTOR, masks={"nothing": torch.ones(1)})


@pytest.mark.parametrize("other", ["shapes", "same", "kind"])
def test_initialise_builds_the_same_architecture(other: str) -> None:
    model = mlp(nn.ReLU, 3)
    made = {"shapes": lambda seed: mlp(nn.ReLU, 3, 64), "same": lambda seed: model, "kind": lambda seed: "a model"}[other]
    with pytest.raises(PkcError) as caught:
        predict_trace(model, VECTOR, initialise=made)  # type: ignore[arg-type]
    assert {d.code for d in caught.value.diagnostics} == {"PKC531"}
    assert caught.value.diagnostics[-1].notes
