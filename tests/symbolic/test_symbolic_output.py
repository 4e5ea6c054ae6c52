"""Closed forms: how they grow, what is printed, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from examples_path import load_example
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.ir.parse import parse_graph
from pkcompiler.symbolic import closed_forms
from tests.symbolic.symbolic_models import Block, forms_of

# growth


def test_growth_in_widths():
    fixed = {g.form: g.degree for g in forms_of("mlp").growth("n2")}
    assert fixed == {"paths": 1, "E[R_2]": 1, "E[Tr Pi]": 1}
    he = {g.form: (g.degree, float(g.coefficient)) for g in forms_of("mlp", variances="he").growth("n2")}
    assert he == {"paths": (1, 15.0), "E[R_2]": (0, 12.0), "E[Tr Pi]": (1, 6.0)}
    deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    together = {g.form: g.degree for g in closed_forms(deep, torch.zeros(1, 4)).growth()}
    assert together == {"paths": 3, "E[R_2]": 3, "E[Tr Pi]": 3}


def test_growth_through_a_sum_of_widths():
    forms = forms_of("concat", variances="he")
    left = next(w.symbol for w in forms.widths if w.value == 4)
    assert {g.form: g.degree for g in forms.growth(left)} == {"paths": 1, "E[R_2]": 0, "E[Tr Pi]": 1}


@pytest.mark.parametrize("name", ["mlp", "block", "concat", "chunked", "flat"])
def test_growth_is_the_limit_of_the_closed_form(name: str):
    """At a width of 10^12 the form and its leading term agree."""
    forms = forms_of(name, variances="he")
    for width in forms.widths:
        for form, found in zip(forms.forms, forms.growth(width.symbol), strict=True):
            exact = form.subs({width.symbol: 10**12})
            assert float(exact / Fraction(10**12) ** found.degree) == pytest.approx(float(found.coefficient), rel=1e-9), width


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


def test_growth_in_depth_is_one_more_layer():
    def deep(layers: int) -> nn.Module:
        hidden = [m for _ in range(layers) for m in (nn.Linear(5, 5), nn.ReLU())]
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), *hidden, nn.Linear(5, 2))

    here, deeper = (closed_forms(deep(n), torch.zeros(1, 3), variances="he") for n in (3, 4))
    for grown, before, after in zip(here.growth("depth"), here.forms, deeper.forms, strict=True):
        assert grown.repeats == 3
        assert grown.next == pytest.approx(float(after.subs() / before.subs()), rel=1e-12)
    assert [g.far for g in here.growth("depth")][:2] == pytest.approx([5, 2], rel=1e-9)


def test_growth_in_depth_of_residual_blocks_is_one_more_block():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))

    def deep(blocks: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 3, 1), *(Residual() for _ in range(blocks)), nn.Flatten(), nn.Linear(48, 2))

    here, deeper = (closed_forms(deep(n), torch.zeros(1, 2, 4, 4), variances="he") for n in (2, 3))
    for grown, before, after in zip(here.growth("depth"), here.forms, deeper.forms, strict=True):
        assert grown.next == pytest.approx(float(after.subs() / before.subs()), rel=1e-12)


def test_products_of_activations_have_no_ratio_far_out():
    example = load_example("vit_tiny")
    given = {"token": 1e-4, "positions": 1e-4, "*norm*.weight": 1.0, "*.weight": 0.01, "*.bias": 0.0}
    for products, settles in (("pairs", False), ("value", True)):
        forms = closed_forms(example.model(width=8, depth=2, heads=2), example.example_inputs(), variances=given, products=products)
        assert [g.far is not None for g in forms.growth("depth")] == [settles] * 3
        assert ("lower bound" in forms.r2.note) is not settles


def test_a_model_without_repetition_has_no_depth():
    with pytest.raises(PkcError, match="PKC538"):
        forms_of("mlp", variances="he").growth("depth")
