"""Curves as expressions in k, n and rho: proved, or refused with a counterexample or for want of a proof."""

from __future__ import annotations

import gc
import random
import sys

import pytest

from pkcompiler import PkcError
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number
from pkcompiler.lang.check import curve_proof
from pkcompiler.lang.check.curve_proof import proved, refutation
from pkcompiler.lang.check.curves import curve_expr, density_at
from pkcompiler.lang.library import find_schedule
from pkcompiler.lang.plan import plan_of

CURVES = [
    "rho^(k / n)",
    "1 - (1 - rho) * k / n",
    "1 - (1 - rho) * (1 - (1 - k / n)^3)",
    "1 - (1 - rho) * (3 * (k / n)^2 - 2 * (k / n)^3)",
    "rho + (1 - rho) * sqrt(1 - k / n)",
    "exp(log(rho) * k / n)",
    "1 / (1 + (1 / rho - 1) * k / n)",
    "1 - (1 - rho) * log(1 + k / n) / log(2)",
    "((1 - k / n) + rho^0.5 * k / n)^2",
    "rho",
]
NO_CURVES = {
    "1 - k / n": "it ends at 0",
    "rho * k / n": "it rises from 0",
    "rho * n / k": "it has no value at k = 0",
    "2 - (2 - rho) * k / n": "above 1",
    "rho + (1 - rho) * (2 * k / n - 1)^2 * (1 - k / n)": "it rises",
}


@pytest.mark.parametrize("curve", CURVES)
def test_curves_that_fall_are_proved(curve: str) -> None:
    assert refutation(curve_expr(curve)) == ""
    assert proved(curve_expr(curve))
    values = [density_at(curve, k, 8, 0.05) for k in range(1, 9)]
    assert values == sorted(values, reverse=True) and values[-1] == 0.05


@pytest.mark.parametrize(("curve", "why"), NO_CURVES.items())
def test_what_does_not_fall_to_rho_is_refused_with_a_counterexample(curve: str, why: str) -> None:
    assert not proved(curve_expr(curve))
    with pytest.raises(PkcError, match=why) as caught:
        find_schedule(f"schedule s {{ prune magnitude {{ density = 2%\n curve = {curve} }} }}")
    assert caught.value.diagnostics[0].code == "PKC420"


def test_what_cannot_be_decided_is_refused_and_so_is_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "1 - (1 - rho) * (2 * k / n - 3 * (k / n)^2 + 2 * (k / n)^3)"
    assert refutation(curve_expr(text)) == "" and not proved(curve_expr(text))
    monkeypatch.setattr(curve_proof, "MAX_STEPS", 100)
    assert not proved(curve_expr(CURVES[0]))


def test_the_limit_is_kept_wherever_it_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python swallows what is raised (a generator that is torn down): that would be a warning, an error here."""
    hopeless = curve_expr("((sqrt(2) * k^9 - sqrt(sqrt(9))) / (n * rho + 2 + (0.5 - rho - 1 * 1)))^rho")
    for limit in range(100, 30_000, 997):
        monkeypatch.setattr(curve_proof, "MAX_STEPS", limit)
        assert not proved(hopeless)
        assert sys.getprofile() is None
    gc.collect()


def test_named_curves_are_their_expressions_from_any_start() -> None:
    for name, text in zip(("exponential", "linear", "cubic"), CURVES[:3], strict=True):
        for start in (1.0, 0.4):
            for k in range(1, 6):
                assert density_at(text, k, 5, 0.1, start) == pytest.approx(density_at(name, k, 5, 0.1, start), rel=1e-12)


def _random(rng: random.Random, depth: int) -> Expr:
    if depth == 0 or rng.random() < 0.15:
        return rng.choice([Name("k"), Name("n"), Name("rho"), Number(1), Number(2), Number(0.5), Number(9)])
    if rng.random() < 0.2:
        return Call(rng.choice(["exp", "log", "sqrt"]), (_random(rng, depth - 1),), ())
    return Binary(rng.choice("+-*/^"), _random(rng, depth - 1), _random(rng, depth - 1))


def test_no_proof_contradicts_a_counterexample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_proof, "MAX_STEPS", 50_000)
    rng = random.Random(5)
    for _ in range(20):
        expr = _random(rng, rng.randrange(1, 4))
        assert not (refutation(expr) and proved(expr))


def test_a_curve_on_the_command_line_is_read_as_in_a_schedule() -> None:
    plan = plan_of("magnitude", target=("density", 0.1), curve="rho^(k/n)", structure="block(2,3)")
    assert (plan.stages[0].curve, plan.stages[0].structure) == ("rho^(k / n)", "block(2, 3)")
    assert find_schedule(plan.schedule.text).stages == plan.stages
    for wrong in ({"curve": "steep"}, {"curve": "1 - k / n"}, {"structure": "4:2"}, {"structure": "}"}, {"curve": "k = 1"}):
        with pytest.raises(PkcError):
            plan_of("magnitude", target=("density", 0.1), **wrong)
