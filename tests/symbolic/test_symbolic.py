"""Closed forms: hand-derived ones, and the laws that tie them to the numeric sweeps and to random initialisations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import sympy
import torch
from examples_path import load_example
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.frontend.capture import capture
from pkcompiler.paths.functional import open_functional, path_functional
from pkcompiler.paths.semiring import settings
from pkcompiler.symbolic import ClosedForms, closed_forms
from tests.symbolic.symbolic_models import MODELS, Shuffle, forms_of

TOLERANCE = 1e-11
n1, n2, n3, n4, n5 = sympy.symbols("n1:6", positive=True, integer=True)


def symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)


def same(found: object, expected: object) -> bool:
    return sympy.simplify(found - expected) == 0  # type: ignore[operator]


# by hand


def test_an_mlp():
    forms = forms_of("mlp")
    a, b = symbol("sigma_0") ** 2, symbol("sigma_2") ** 2
    assert [w.value for w in forms.widths] == [4, 5, 3]
    assert same(forms.count.expression, n1 * n2 * n3 + n2 * n3 + n3)
    assert same(forms.r2.expression, n1 * n2 * n3 * a * b)
    assert same(forms.trace.expression, n1 * n2 * n3 * (a + b) + n2 * n3 * b + n3)


def test_an_mlp_with_a_variance_for_every_parameter():
    forms = forms_of("mlp", variances="slots")
    a, b = symbol("sigma_0") ** 2, symbol("sigma_2") ** 2
    c, d = symbol("sigma_0_bias") ** 2, symbol("sigma_2_bias") ** 2
    assert same(forms.r2.expression, n3 * (n2 * b * (n1 * a + c) + d))


def test_he_cancels_the_widths():
    forms = forms_of("mlp", variances="he")
    assert same(forms.r2.expression, 4 * n3)
    assert same(forms.trace.expression, n3 * (2 * n1 + 2 * n2 + 2 + 1))


def test_a_residual_block():
    forms = forms_of("block")
    up, down, head = (symbol(f"sigma_{n}") ** 2 for n in ("up", "down", "head"))
    assert len(forms.widths) == 3
    assert same(forms.count.expression, n1 * n3 * (1 + n1 * n2))
    assert same(forms.r2.expression, n1 * n3 * head * (1 + n1 * n2 * up * down))
    assert same(forms.trace.expression, n1 * n3 * (1 + n1 * n2 * (up * down + head * up + head * down)))


def test_a_concatenation():
    forms = forms_of("concat", variances="he")
    assert same(forms.count.expression, n1 * n4 * (n2 + n3))
    assert same(forms.r2.expression, 4 * n4)


def test_two_convolutions():
    """Corners of a padded 3x3 window see 4 entries, edges 6: on 3x3 positions 49 in all; then one window over the whole."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False))
    forms = closed_forms(model, torch.zeros(1, 2, 3, 3))
    assert same(forms.count.expression, 49 * n1 * n2 * n3)
    a, b = symbol("sigma_0") ** 2, symbol("sigma_2") ** 2
    assert same(forms.trace.expression, 49 * n1 * n2 * n3 * (a + b))


def test_a_depthwise_convolution_and_an_average():
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.AdaptiveAvgPool2d(1))
    forms = closed_forms(model, torch.zeros(1, 2, 4, 4), variances="he")
    assert len(forms.widths) == 2
    assert same(forms.count.expression, 36 * n1 * n2)
    assert same(forms.r2.expression, n2 * sympy.Rational(36, 16) * sympy.Rational(2, 9) * 2)


def test_both_halves_of_a_gated_unit_are_one_group():
    forms = forms_of("chunked")
    assert [w.value for w in forms.widths] == [3, 4, 2]
    assert same(forms.count.expression, (n1**2 + n1) * n2 * n3), "a sigmoid adds the source 1/2"
    assert forms.r2.status == "bound"


# substitution


def filled(forms: ClosedForms, graph, tensors: Mapping[str, Tensor], given: Mapping[str, float]) -> dict[str, Tensor]:
    """Every parameter filled with the square root of its second moment."""
    bindings = forms.symbols.bindings(given)
    moments = {name: float(m.substituted(bindings).coefficient) for name, m in forms.moments.items()}
    return {**tensors, **{s.name: torch.full(s.type.shape, moments[s.name] ** 0.5, dtype=torch.float64) for s in graph.parameters}}


def equals_the_sweep(model: nn.Module, inputs: Tensor, given: Mapping[str, float] | None = None, **options) -> ClosedForms:
    forms = closed_forms(model, inputs, **options)
    captured = capture(model, inputs, dtype=torch.float64)
    more = {"pools": "sum", "constants": "on", "products": options.get("products", "pairs")}
    counted = open_functional(captured.graph, captured.tensors, settings(edge="1", **more), gradients=False, count=True)
    assert forms.count.subs() == counted.count
    tensors = filled(forms, captured.graph, captured.tensors, given or {})
    squared = open_functional(captured.graph, tensors, settings(edge="theta^2", **more))
    assert forms.r2.value(given).log10 == pytest.approx(squared.log10, abs=TOLERANCE)
    trace = math.fsum(float(g.sum()) for g in squared.grad.values())
    assert forms.trace.value(given).log10 == pytest.approx(math.log10(trace) + squared.exponent * math.log10(2), abs=TOLERANCE)
    return forms


@pytest.mark.parametrize("name", sorted(MODELS))
def test_small_models_at_their_numbers_are_the_sweep(name):
    make, shape = MODELS[name]
    forms = equals_the_sweep(make(), torch.zeros(shape), variances="he")
    free = forms_of(name, variances="slots").symbols.deviations
    given = {s: 0.3 + 0.1 * i for i, s in enumerate(free)}
    equals_the_sweep(make(), torch.zeros(shape), given, variances="slots")
    assert forms.trace.subs() == pytest.approx(float(forms.trace.value()), rel=1e-12)


@pytest.mark.parametrize("name", ["mnist_cnn", "resnet20", "vgg16_bn"])
def test_examples_at_their_numbers_are_the_sweep(name):
    example = load_example(name)
    equals_the_sweep(example.model(), example.example_inputs(), variances="he")


@pytest.mark.parametrize("products", ["value", "pairs"])
def test_a_transformer_at_its_numbers_is_the_sweep(products):
    example = load_example("vit_tiny")
    given = {"sigma_token": 0.02, "sigma_positions": 0.02}
    forms = equals_the_sweep(
        example.model(width=8, depth=1, heads=2), example.example_inputs(), given, variances="he", products=products
    )
    assert forms.r2.status == "approximate"
    assert ("lower bound" in forms.r2.note) == (products == "pairs")


def test_a_language_model_at_its_numbers_is_the_sweep():
    example = load_example("gpt_tiny")
    tokens = torch.zeros(1, 6, dtype=torch.int64)
    forms = equals_the_sweep(example.model(12, 8, 8, 2, 2), tokens, {"sigma_positions": 0.5}, variances="he")
    assert 8 in {w.value for w in forms.widths}


@pytest.mark.parametrize("name", ["mlp", "flat", "shuffle"])
def test_other_widths_are_the_sweep_of_a_wider_model(name):
    """The form of one model, at the widths of another."""
    wider = {
        "mlp": lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)),
        "flat": lambda: nn.Sequential(nn.Conv2d(2, 7, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(28, 2)),
        "shuffle": Shuffle,
    }[name]()
    shape = MODELS[name][1]
    other = closed_forms(wider, torch.zeros(shape), variances="he")
    widths = {w.symbol: w.value for w in other.widths}
    forms = forms_of(name, variances="he")
    assert [f.subs(widths) for f in forms.forms] == [f.subs() for f in other.forms]


def test_the_written_out_form_and_the_program_are_one():
    forms = forms_of("shuffle", variances="roles")
    numbers = {w.symbol: w.value + 2 for w in forms.widths} | dict.fromkeys(forms.symbols.deviations, 1.5)
    for form in forms.forms:
        bound = {s: numbers[s.name] for s in form.expression.free_symbols}
        assert float(form.expression.subs(bound)) == pytest.approx(float(form.subs(numbers)), rel=1e-12)


def test_a_printed_graph_will_do():
    captured = capture(MODELS["mlp"][0](), torch.zeros(1, 4))
    assert closed_forms(captured.graph).count.subs() == 78


# random initialisations


@pytest.mark.parametrize("name", ["mlp", "block", "flat"])
def test_the_mean_over_initialisations_is_the_form(name):
    make, shape = MODELS[name]
    model, inputs = make(), torch.zeros(shape)
    given = dict.fromkeys(forms_of(name).symbols.deviations, 0.6)
    forms = forms_of(name)
    captured = capture(model, inputs, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    chosen = settings(edge="theta^2", pools="sum", constants="on")
    values, traces = [], []
    for _ in range(150):
        drawn = {}
        for slot in captured.graph.parameters:
            noise = 0.6 * torch.randn(slot.type.shape, generator=generator, dtype=torch.float64)
            drawn[slot.name] = 0 * noise if slot.name.endswith("bias") else noise
        result = open_functional(captured.graph, {**captured.tensors, **drawn}, chosen)
        values.append(result.value)
        traces.append(sum(float(g.sum()) for g in result.grad.values()) * 2.0**result.exponent)
    for form, samples in ((forms.r2, values), (forms.trace, traces)):
        mean, error = _mean(samples)
        assert abs(mean - float(form.value(given))) < 4 * error


def _mean(samples: list[float]) -> tuple[float, float]:
    drawn = torch.tensor(samples, dtype=torch.float64)
    return float(drawn.mean()), float(drawn.std()) / math.sqrt(len(samples))


def test_a_weight_crossed_twice_gives_a_lower_bound():
    """E[theta^4] = 3 sigma^4 > sigma^4 on the diagonal: 9 * 3 paths, three of them (i, i, i)."""
    forms = forms_of("tied")
    assert forms.r2.status == forms.trace.status == "bound"
    assert "once" in forms.r2.note
    exact = 24 + 3 * 3
    assert float(forms.r2.value(sigma_once=1.0)) == 27 < exact


def test_channels_that_a_fixed_matrix_mixes_are_numbers():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", torch.randn(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.matrix)

    torch.manual_seed(0)
    forms = equals_the_sweep(nn.Sequential(nn.Linear(2, 3), Fixed(), nn.Linear(3, 2)), torch.zeros(1, 2), variances="he")
    assert "0.weight" in forms.notes[0]


@pytest.mark.parametrize(
    ("means", "status"), [([0.5, -1.0, 2.0], "exact"), ([0.5, 0.5, 0.5], "exact"), ([0.5, 0.0, 2.0], "approximate")]
)
def test_running_means_are_sources_that_the_count_has(means, status):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    model[1].running_mean.copy_(torch.tensor(means))
    model[1].running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    form = closed_forms(model, torch.zeros(1, 2, 4, 4)).count
    count = path_functional(model, torch.zeros(1, 2, 4, 4), edge="1", pools="sum", constants="on").count
    assert form.status == status and (form.subs() == count) == (status == "exact")


class Gram(nn.Module):
    """h h^T of a linear map, whose factors are alike: neither modulates the other."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(2, 3, bias=False)

    def forward(self, x):
        h = self.l(x)
        return h @ h.transpose(1, 2)


def test_a_product_without_a_modulator_is_read_as_either_by_value_too():
    forms = {p: closed_forms(Gram(), torch.zeros(1, 2, 2), products=p) for p in ("value", "either", "pairs")}
    for products in ("value", "either"):
        r2 = forms[products].r2
        assert r2.status == "exact" and str(r2.expression) == "8*n1*n2*sigma_l**2"
        assert forms[products].count.subs() == 48
    assert forms["pairs"].r2.status == "bound" and forms["pairs"].count.subs() == 48
