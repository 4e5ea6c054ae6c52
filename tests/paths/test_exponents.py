"""Exponents are integers of any size; what one tensor cannot hold is named."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

import pkcompiler as pkc
from pkcompiler.diagnostics import PkcError
from pkcompiler.measured import in_tens, shown_float
from pkcompiler.paths.functional import total
from pkcompiler.paths.scaled import Scaled, times_power
from pkcompiler.scoring.terms import NUMBER, OPERATORS, Term

HUGE = 4 * 10**16
ONE = torch.ones((), dtype=torch.float64)


class Gated(nn.Module):
    """Products of activations in a chain: the degree of a path doubles at each."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth)).double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(x)
            x = h * h.flip(-1)
        return x


def test_a_deep_gated_network_has_its_numbers() -> None:
    model, x = Gated(60), torch.ones(1, 3, dtype=torch.float64)
    found = pkc.path_functional(model, x, edge="1", constants="on")
    assert found.exponent > 2**55 and found.value == math.inf and found.count is None
    # N_d = (3 N + 1)^2 paths of an entry, so log N_d = 2^60 (log 4 + sums): by the logarithms of the recursion
    logs = 0.0
    for _ in range(60):
        logs = 2 * (logs + math.log(3) + math.log1p(math.exp(-logs) / 3))
    assert found.log10 == pytest.approx((logs + math.log(3)) / math.log(10), rel=1e-9)
    report = pkc.analyze(model, x)
    data = json.loads(json.dumps(report.to_json()))
    assert abs(data["totals"]["l1"]["exponent"]) > 2**50 and data["totals"]["l1"]["value"] is None
    assert "e+" in str(report) or "e-" in str(report)


@pytest.mark.parametrize("power", [10**5, 10**20, -(10**5), -(10**20)])
def test_powers_of_any_size_end_at_infinity_and_0(power: int) -> None:
    given = torch.tensor([0.0, 1.5, -1.5], dtype=torch.float64)
    expected = [0.0, math.inf, -math.inf] if power > 0 else [0.0, 0.0, 0.0]
    assert times_power(given, power).tolist() == expected


def test_pieces_of_data_are_added_at_the_largest_exponent_that_is_alive() -> None:
    parts = [(Scaled(ONE, HUGE), {"w": ONE}), (Scaled(ONE, HUGE - 1), {"w": 3 * ONE}), (Scaled(0 * ONE, 2 * HUGE), {"w": 0 * ONE})]
    found = total(parts, None, "exact")
    assert (found.mantissa, found.exponent, float(found.grad["w"])) == (1.5, HUGE, 2.5)
    apart = total([(Scaled(ONE, -HUGE), {}), (Scaled(ONE, HUGE), {})], None, "exact")
    assert (apart.mantissa, apart.exponent, apart.value) == (1.0, HUGE, math.inf)


def test_expressions_carry_exponents_exactly() -> None:
    odd = Term(NUMBER, ONE, 2 * HUGE + 1)
    half = OPERATORS["^"](odd, Term(NUMBER, 0.5 * ONE))
    assert half.exponent == HUGE and float(half.tensor) == pytest.approx(math.sqrt(2))
    assert OPERATORS["^"](odd, Term(NUMBER, 3 * ONE)).exponent == 3 * (2 * HUGE + 1)
    nothing = OPERATORS["+"](Term(NUMBER, 0 * ONE, HUGE), Term(NUMBER, ONE, 3))
    assert (float(nothing.tensor), nothing.exponent) == (1.0, 3)


def test_digits_of_numbers_of_any_size() -> None:
    leading, power = in_tens(1.0, 10**30)
    assert str(power).startswith("301029995663981195213738894724") and 1 <= leading < 10  # digits of log10(2)
    assert in_tens(1.0, 100) == (pytest.approx(1.2676506002282294), 30)
    assert shown_float(-1.0, 3322) == f"-{10 ** (3322 * math.log10(2) - 1000):.3f}e+1000"


@pytest.mark.parametrize("size", [1e-310, 1e-170, 1e160, 1e300])
@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2"])
def test_a_parameter_beyond_the_range_of_its_edges_is_named(size: float, edge: str) -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double(), torch.ones(1, 3)
    with torch.no_grad():
        model[2].weight.fill_(size)
    named = [lambda: pkc.path_functional(model, x, edge=edge), lambda: pkc.prune(model, x, "synflow", density=0.5)]
    for call in [*named, lambda: pkc.path_kernel(model, x), lambda: pkc.analyze(model, x)]:
        with pytest.raises(PkcError) as caught:
            call()
        assert [d.code for d in caught.value.diagnostics] == ["PKC508"] and "'2.weight'" in caught.value.diagnostics[0].message
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1e-80, 1.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64))
    assert pkc.path_functional(model, x, edge="abs(theta)").value > 0
    with pytest.raises(PkcError, match=r"from 1e-80 to 1:"):
        pkc.path_functional(model, x, edge="theta^2")
    assert pkc.path_functional(model, x, edge="1").count == 18 + 6 + 2


def test_tiny_weights_of_float32_models_pass() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e-40)
        model[2].weight[0, 0] = 1e-43
    assert pkc.path_functional(model, torch.ones(1, 3), edge="theta^2").value > 0
