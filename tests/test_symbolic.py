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

from pkcompiler.analysis.functional import open_functional
from pkcompiler.analysis.semiring import settings
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.ir.parse import parse_graph
from pkcompiler.symbolic import ClosedForms, closed_forms

TOLERANCE = 1e-11
n1, n2, n3, n4, n5 = sympy.symbols("n1:6", positive=True, integer=True)


def symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True)


def same(found: object, expected: object) -> bool:
    return sympy.simplify(found - expected) == 0  # type: ignore[operator]


class Block(nn.Module):
    """x + W2 relu(W1 x), then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = (nn.Linear(a, b, bias=False) for a, b in ((3, 5), (5, 3), (3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(F.relu(self.up(x))))


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = (nn.Linear(a, b, bias=False) for a, b in ((3, 4), (3, 5), (9, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1))


class Chunked(nn.Module):
    """A gated linear unit: both halves of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.head = nn.Linear(3, 8, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return self.head(value * torch.sigmoid(gate))


class Tied(nn.Module):
    """One square matrix twice."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.once(F.relu(self.once(x)))


class Shuffle(nn.Module):
    """Grouped convolutions with a channel shuffle in between, then zeros beside the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = F.avg_pool2d(self.up(self.second(x)), 3, stride=1, padding=1)
        x = F.pad(x, (0, 0, 0, 0, 1, 1))
        return self.head(x.amax(3).mean(2))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (1, 4)),
    "block": (Block, (1, 3)),
    "concat": (Concat, (1, 3)),
    "chunked": (Chunked, (1, 3)),
    "tied": (Tied, (1, 3)),
    "shuffle": (Shuffle, (1, 4, 7, 7)),
    "flat": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)),
        (1, 2, 4, 5),
    ),
}


def forms_of(name: str, **options: object) -> ClosedForms:
    make, shape = MODELS[name]
    return closed_forms(make(), torch.zeros(shape), **options)


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
    from pkcompiler.symbolic.closed import second_moments

    moments = second_moments(forms, given)
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


# growth


def test_growth_in_widths():
    fixed = {g.form: g.degree for g in forms_of("mlp").growth("n2")}
    assert fixed == {"paths": 1, "E[R_2]": 1, "E[Tr Pi]": 1}
    he = {g.form: (g.degree, g.coefficient) for g in forms_of("mlp", variances="he").growth("n2")}
    assert he == {"paths": (1, 15.0), "E[R_2]": (0, 12.0), "E[Tr Pi]": (1, 6.0)}
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    together = {g.form: g.degree for g in closed_forms(deep, torch.zeros(1, 4)).growth()}
    assert together == {"paths": 3, "E[R_2]": 3, "E[Tr Pi]": 3}


def test_growth_through_a_sum_of_widths():
    forms = forms_of("concat", variances="he")
    left = next(w.symbol for w in forms.widths if w.value == 4)
    assert {g.form: g.degree for g in forms.growth(left)} == {"paths": 1, "E[R_2]": 0, "E[Tr Pi]": 1}


# output and errors


def test_the_table_says_everything():
    text = str(forms_of("mlp"))
    assert "n2 = 5: 0.weight[0], 2.weight[1]" in text
    assert "paths = n3*(n1*n2 + n2 + 1)" in text
    assert "here 78" in text


def test_latex_compiles_in_form():
    example = load_example("mnist_cnn")
    for variances in ("weights", "slots"):
        text = closed_forms(example.model(4), example.example_inputs(), variances=variances).latex()
        assert text.count("{") == text.count("}")
        assert text.count(r"\begin") == text.count(r"\end")
        for line in text.splitlines():
            assert "_" not in line.replace(r"\_", "").replace("_{", "").replace("R_2", "")


def test_json_is_plain():
    import json

    found = json.loads(json.dumps(forms_of("block", variances="he").to_json()))
    assert [f["name"] for f in found["forms"]] == ["paths", "E[R_2]", "E[Tr Pi]"]
    assert found["forms"][0]["here"]["value"] == 96


def test_long_polynomials_are_refused_and_their_program_is_there():
    layers = [Block() for _ in range(14)]
    for block in layers:
        block.head = nn.Linear(3, 3, bias=False)
    forms = closed_forms(nn.Sequential(*layers), torch.zeros(1, 3))
    with pytest.raises(PkcError, match="PKC536"):
        _ = forms.r2.expression
    assert "total =" in str(forms.r2)
    assert forms.count.subs() == 3 * (16 * 3) ** 14


def test_what_does_not_fit_is_named():
    with pytest.raises(PkcError, match="PKC538"):
        forms_of("mlp", variances="xavier")
    with pytest.raises(PkcError, match=r"PKC538.*'2.wait'"):
        forms_of("mlp", variances={"2.wait": 1.0})
    with pytest.raises(PkcError, match=r"PKC538.*sigma_0"):
        forms_of("mlp").r2.subs()
    with pytest.raises(PkcError, match=r"PKC538.*'n9'"):
        forms_of("mlp").count.subs(n9=3)
    with pytest.raises(PkcError, match="PKC538"):
        forms_of("mlp").growth("n9")


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


STORED = """
path.graph @stored(%x: f32[B, 3]) -> f32[B, 2] {
  buffer @matrix: f32[2, 3]
  %y: f32[B, 2] = dense %x, weight=@matrix
  return %y
}
"""


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(PkcError, match=r"PKC537.*@matrix"):
        closed_forms(parse_graph(STORED), tensors={"matrix": torch.randn(2, 3)})
    with pytest.raises(PkcError, match=r"PKC538.*matrix"):
        closed_forms(parse_graph(STORED))
