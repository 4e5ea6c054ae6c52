"""Every sweep against the explicit enumeration of paths, to 1e-12 relative to the sum of the absolute terms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import SCORES, Setting, evaluate, scores
from oracle.families import FAMILIES

import pkcompiler
from pkcompiler.frontend.capture import capture
from pkcompiler.paths.functional import functional_of
from pkcompiler.paths.semiring import settings

TOLERANCE = 1e-12
GATES = ("data", "data^2")
EDGES = ("abs(theta)", "theta^2", "theta", "1")
HAS_POOLS = ("max_pool",)
HAS_CONSTANTS = ("batch_norm", "gate_constants", "literals", "squeeze_excite")
HAS_DEVIATIONS = ("layer_norm", "rms_norm", "group_norm", "unit_vector")
INPUTS = (
    ("abs(theta)", "data"),
    ("abs(theta)", "mean(data)"),
    ("theta^2", "data^2"),
    ("theta^2", "mean(data)"),
    ("theta^2", "mean(data^2)"),
    ("theta", "data"),
    ("1", "data^2"),
)
POWER = {"abs(theta)": "data", "theta": "data", "theta^2": "data^2", "1": "data^2"}
"""The power of the slopes at which frozen factors and fixed factors have the same one (for a count: of the NTK's bound)."""


@cache
def built(name: str) -> Case:
    return FAMILIES[name]()


def open_settings(case: Case) -> list[Setting]:
    pools = ("sum", "max") if case.name in HAS_POOLS else ("max",)
    constants = ("off", "on") if case.name in HAS_CONSTANTS else ("off",)
    products = ("pairs", "value", "either") if case.products else ("pairs",)
    plain = [Setting(edge=e, pools=p, constants=c, products=m) for e, p, c, m in product(EDGES, pools, constants, products)]
    weighed = [Setting(edge=e, input=i, pools="sum") for e, i in INPUTS]
    return plain + weighed


def data_settings(case: Case) -> list[Setting]:
    pools = ("sum", "max", "data") if case.name in HAS_POOLS else ("data",)
    constants = ("off", "on") if case.name in HAS_CONSTANTS else ("off",)
    products = ("pairs", "value", "either") if case.products else ("pairs",)
    norms = ("unit", "data") if case.name in HAS_DEVIATIONS else ("unit",)
    inputs = ("data", "ones", "data", "ones", "ones", "data^2", "ones", "data^2")
    pairs = [(e, g, i) for (g, e), i in zip(product(GATES, EDGES), inputs, strict=True)]
    every = [Setting(e, i, g, p, n, m, c) for (e, g, i), p, n, m, c in product(pairs, pools, norms, products, constants)]
    return [s for s in every if not case.factors or s.gates == POWER[s.edge]]


def short(setting: Setting) -> str:
    return " ".join(str(getattr(setting, f)) for f in ("edge", "input", "gates", "pools", "norms", "products", "constants"))


def both(settings_of) -> list:
    return [pytest.param(n, s, id=f"{n}: {short(s)}") for n in sorted(FAMILIES) for s in settings_of(built(n))]


def masks_of(case: Case) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {n: torch.rand(p.shape, generator=generator) < 0.8 for n, p in case.module.named_parameters()}


def arguments(setting: Setting, x: torch.Tensor | None) -> tuple[dict, dict]:
    """The arguments of a functional: those that fix the sweep, and the input with its data."""
    chosen = {f: getattr(setting, f) for f in ("edge", "gates", "pools", "norms", "products", "constants")}
    return chosen, {"input": setting.input, "data": None if x is None else (x, torch.zeros(len(x), dtype=torch.int64))}


def functional(case: Case, setting: Setting, x: torch.Tensor | None, **more):
    chosen, given = arguments(setting, x)
    return pkcompiler.path_functional(case.module, case.example_inputs, **chosen, **given, **more)


@cache
def captured(name: str):
    """The families are captured once for the whole grid; ``functional`` captures anew, as a user would."""
    case = built(name)
    return capture(case.module, case.example_inputs, dtype=torch.float64)


def swept(case: Case, setting: Setting, x: torch.Tensor | None, **more):
    chosen, given = arguments(setting, x)
    return functional_of(captured(case.name), settings(**chosen, dtype=torch.float64), **given, **more)


def value_of(result) -> np.ndarray:
    mantissa = torch.as_tensor(result.mantissa, dtype=torch.float64).reshape(-1).numpy()
    return np.ldexp(mantissa, result.exponent)


def grad_of(case: Case, result) -> np.ndarray:
    given = {n: torch.as_tensor(g, dtype=torch.float64) for n, g in result.grad.items()}
    assert set(given) == {n for n, _ in case.module.named_parameters()}
    return np.ldexp(case.flat(given), result.exponent)


def prunable_of(case: Case) -> set[str]:
    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    named = {id(p): n for n, p in case.module.named_parameters()}
    return {named[id(m.weight)] for m in case.module.modules() if isinstance(m, layers)}


def has_ties(case: Case, setting: Setting) -> bool:
    """Counts of equal size meet in a max-pool: its winner is not unique, nor is the derivative."""
    return setting.edge == "1" and setting.pools == "max" and case.name in HAS_POOLS


def compare(case: Case, setting: Setting, x: torch.Tensor | None, masks: dict[str, torch.Tensor] | None = None) -> None:
    mask = None if masks is None else case.flat(masks)
    expected = evaluate(case.dag, case.theta, setting, mask=mask, data=None if x is None else case.encode(x))
    got = swept(case, setting, x, masks=masks)
    np.testing.assert_allclose(value_of(got), [expected.value], rtol=0, atol=TOLERANCE * expected.mass)
    if setting.edge == "1" and not setting.per_sample and setting.input == "ones":
        assert got.count == round(expected.value) and isinstance(got.count, int)
    if has_ties(case, setting):
        return
    scale = np.maximum(expected.grad_mass, expected.grad_mass.max() * 1e-3)
    excess = abs(grad_of(case, got) - expected.grad) - TOLERANCE * scale
    worst = int(excess.argmax())
    assert excess[worst] <= 0, (case.dag.parameters[worst], grad_of(case, got)[worst], expected.grad[worst])


@pytest.mark.parametrize(("name", "setting"), both(open_settings))
def test_open_gates(name, setting):
    case = built(name)
    compare(case, setting, None if setting.input == "ones" else case.data)


@pytest.mark.parametrize(("name", "setting"), both(data_settings))
def test_data_gates(name, setting):
    case = built(name)
    compare(case, setting, case.signed if setting.edge == "theta" else case.data)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_open_gates_under_masks(name, edge):
    case = built(name)
    compare(case, Setting(edge=edge, pools="sum", constants="on"), None, masks_of(case))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_data_gates_under_masks(name, edge):
    case = built(name)
    compare(case, Setting(edge, "data", POWER[edge], "data", "data", "pairs", "on"), case.data, masks_of(case))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", ["mlp_bias", "batch_norm", "max_pool", "layer_norm", "attention"])
def test_averaged_inputs_behind_data_gates(name, edge):
    case = built(name)
    compare(case, Setting(edge, "mean(data^2)", POWER[edge], "data", "data"), case.data)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_signed_functional_at_the_data_is_the_network(name):
    case = built(name)
    setting = Setting("theta", "data", "data", "data", "data", "pairs", "on")
    expected = case.module(case.signed).sum().item()
    mass = evaluate(case.dag, case.theta, setting, data=case.encode(case.signed)).mass
    np.testing.assert_allclose(value_of(functional(case, setting, case.signed)), [expected], rtol=0, atol=TOLERANCE * mass)


@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2", "1"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_output_alone(name, edge):
    case, setting = built(name), Setting(edge=edge, pools="sum")
    expected = evaluate(case.dag, case.theta, setting)
    got = value_of(swept(case, setting, None, output="each"))
    np.testing.assert_allclose(got, expected.each, rtol=TOLERANCE, atol=TOLERANCE * expected.mass)


@pytest.mark.parametrize("name", ["mlp_bias", "max_pool", "attention", "embedding_sum"])
def test_without_data_the_batch_of_the_example_does_not_matter(name):
    case, setting = built(name), Setting(pools="sum")
    wider = replace(case, example_inputs=(case.signed,))
    expected = evaluate(case.dag, case.theta, setting).value
    np.testing.assert_allclose(value_of(functional(wider, setting, None)), [expected], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["mlp_bias", "batch_norm", "max_pool", "attention"])
def test_float32(name):
    case, setting = built(name), Setting(edge="theta^2")
    expected = evaluate(case.dag, case.theta, setting)
    got = functional(case, setting, None, dtype=torch.float32)
    np.testing.assert_allclose(value_of(got), [expected.value], rtol=1e-5)
    np.testing.assert_allclose(grad_of(case, got), expected.grad, rtol=1e-4)


@pytest.mark.parametrize("pass_name", SCORES)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_scores(name, pass_name):
    case = built(name)
    for masks in (None, masks_of(case)):
        mask = None if masks is None else case.flat(masks)
        expected = scores(case.dag, case.theta, pass_name, mask=mask, data=case.encode(case.data))
        data = (case.data, torch.zeros(len(case.data), dtype=torch.int64)) if pass_name.endswith("dist") else None
        given = pkcompiler.score(case.module, case.example_inputs, pass_name, data=data, masks=masks)
        got = {n: torch.ldexp(t.double(), torch.tensor(float(given.exponent))) for n, t in given.items()}
        assert prunable_of(case) <= set(got)
        whole = np.concatenate([got[n].numpy().reshape(-1) for n, _ in case.module.named_parameters() if n in got])
        wanted = np.array([v for (n, _), v in zip(case.dag.parameters, expected, strict=True) if n in got])
        np.testing.assert_allclose(whole, wanted, rtol=TOLERANCE, atol=TOLERANCE * wanted.max())


def test_an_unknown_edge_is_diagnosed():
    with pytest.raises(pkcompiler.PkcError, match="thetta"):
        functional(built("mlp_bias"), Setting(edge="abs(thetta)"), None)
