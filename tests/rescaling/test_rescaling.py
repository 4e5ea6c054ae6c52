"""Laws of rescaling on the brute-force families: what may be scaled, that nothing is missed, what it does to the Path Kernel."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import gram
from oracle.families import FAMILIES
from torch import Tensor, nn

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.paths.functional import open_functional
from pkcompiler.paths.semiring import settings
from pkcompiler.rescaling.rescale import Rescaled, rescale, rescale_captured
from pkcompiler.rescaling.units import Units, find_units

PIECEWISE = [name for name in FAMILIES if FAMILIES[name]().piecewise]
METHODS = ("conditioning", "equi-norm")
COUPLED_IN_POWERS = {"tied_weights": 1}
"""Directions that are left out: one layer's matrix in two places may grow by c where their units grow by c and c^2."""


@cache
def case(name: str) -> Case:
    return FAMILIES[name]()


@cache
def captured(name: str) -> Capture:
    return capture(case(name).module, case(name).example_inputs)


@cache
def units(name: str) -> Units:
    found = captured(name)
    return find_units(found.graph, found.tensors, found.static_batch, found.watched)


@cache
def rescaled(name: str, method: str) -> Rescaled:
    return rescale_captured(captured(name), case(name).module, method=method)


def factors(name: str, seed: int) -> dict[str, Tensor]:
    """What a random rescaling of all units multiplies the parameters by."""
    found = units(name)
    logs = torch.randn(found.count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {n: part.exp() for n, part in found.spread(logs).items()}


def scaled(module: nn.Module, by: dict[str, Tensor]) -> nn.Module:
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(by.get(name, torch.ones(())))
    return module


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().reshape(-1) for p in module.parameters()])


def outputs(name: str, module: nn.Module) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(case(name).data), module(case(name).signed)])


@pytest.mark.parametrize("name", FAMILIES)
def test_any_scales_of_the_units_preserve_the_function(name: str) -> None:
    old = outputs(name, case(name).module)
    new = outputs(name, scaled(case(name).module, factors(name, 0)))
    assert float((old - new).abs().max()) <= 1e-12 * float(old.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_path_norms_are_invariant(name: str) -> None:
    graph, tensors, by = captured(name).graph, captured(name).tensors, factors(name, 1)
    other = {n: t * by.get(n, 1.0) for n, t in tensors.items()}
    for edge in ("abs(theta)", "theta^2"):
        chosen = settings(edge=edge, constants="on", pools="sum")
        old, new = (open_functional(graph, t, chosen, gradients=False).value for t in (tensors, other))
        assert new == pytest.approx(old, rel=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_diagonal_of_g_scales_by_the_inverse_square(name: str) -> None:
    """By enumeration: paths keep their values, and G_ii = sum (n v / theta_i)^2."""
    here, by = case(name), factors(name, 2)
    old, new = (np.diag(gram(here.dag, flat(m))) for m in (here.module, scaled(here.module, by)))
    wide = {n: (by.get(n, torch.ones(())) * torch.ones_like(p)).detach() for n, p in here.module.named_parameters()}
    expected = old / here.flat(wide) ** 2
    assert np.abs(new - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("name", PIECEWISE)
def test_every_scaling_that_preserves_all_paths_is_found(name: str) -> None:
    """s keeps every path value where J diag(theta) s = 0, whose null space is that of diag(theta) G diag(theta)."""
    here = case(name)
    form = here.theta[:, None] * gram(here.dag, here.theta) * here.theta
    spectrum = np.linalg.eigvalsh(form)
    assert int((spectrum < 1e-10 * spectrum[-1]).sum()) == units(name).count + COUPLED_IN_POWERS.get(name, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_rescaling_a_family(name: str, method: str) -> None:
    here = case(name)
    before = FAMILIES[name]().module.state_dict()
    found = rescaled(name, method)
    old, new = outputs(name, here.module), outputs(name, found.model)
    assert float((old - new).abs().max()) <= 1e-11 * float(old.abs().max())
    assert all(torch.equal(before[key], tensor) for key, tensor in here.module.state_dict().items())
    assert found.converged and found.checked <= 1e-12
    assert found.objective[1] <= found.objective[0]
    assert all(b <= a + 1e-13 * abs(a) for a, b in zip(found.history, found.history[1:], strict=False))
    assert found.history[0] == pytest.approx(found.objective[0], rel=1e-12)
    assert found.history[-1] == pytest.approx(found.objective[1], rel=1e-12)


@pytest.mark.parametrize("name", PIECEWISE)
def test_the_figures_are_those_of_the_rescaled_network(name: str) -> None:
    """AM / GM of the enumerated diagonal of G, before and after."""
    here, found = case(name), rescaled(name, "conditioning")
    for module, figures in ((here.module, found.before), (found.model, found.after)):
        diagonal = np.diag(gram(here.dag, flat(module)))
        live = diagonal[diagonal > 0]
        assert figures.ratio == pytest.approx(live.mean() / np.exp(np.log(live).mean()), rel=1e-9)
        assert figures.trace_log10 == pytest.approx(np.log10(live.sum()), rel=1e-9)
        assert figures.spread_log10 == pytest.approx(np.log10(live.max() / live.min()), rel=1e-9)
        assert figures.squares == pytest.approx((flat(module) ** 2).sum(), rel=1e-9)
    assert found.after.ratio <= found.before.ratio * (1 + 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp_bias", "concat", "batch_norm", "class_token"])
def test_the_minimiser_does_not_depend_on_where_it_starts(name: str, method: str) -> None:
    """Scrambled by random scales, a network is led to the same weights; rescaled again, it stays."""
    here = case(name)
    found = rescaled(name, method)
    scrambled = rescale(scaled(here.module, factors(name, 3)), here.example_inputs, method=method)
    again = rescale(found.model, here.example_inputs, method=method)
    assert units(name).count > 0
    for other in (scrambled, again):
        assert flat(other.model) == pytest.approx(flat(found.model), rel=1e-6)
        assert other.after.ratio == pytest.approx(found.after.ratio, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_powers_of_two_change_no_digit(method: str) -> None:
    here = case("mlp_bias")
    found = rescale(scaled(here.module, factors("mlp_bias", 4)), here.example_inputs, method=method, powers_of_two=True)
    exponents = torch.cat([part.log2() for part in found.scales.values()])
    assert bool((exponents != 0).any()) and torch.equal(exponents, exponents.round())
    assert found.checked == 0 and found.stored == 0
    assert found.objective[1] < found.objective[0]


def test_a_mask_drops_entries_from_the_objective() -> None:
    """What is masked counts neither in p nor in g: the minimiser is that of the network whose masked entries are gone."""
    here = case("mlp_bias")
    masks = {"a.weight": torch.ones(4, 3, dtype=torch.bool), "b.weight": torch.ones(3, 4, dtype=torch.bool)}
    masks["a.weight"][:2, 1], masks["b.weight"][1, 2:] = False, False
    found = rescale(here.module, here.example_inputs, masks=masks)
    theta = flat(found.model)
    mask = here.flat(masks)
    kept = np.diag(gram(here.dag, theta, mask=mask))[mask > 0]
    live = kept[kept > 0]
    assert found.after.ratio == pytest.approx(live.mean() / np.exp(np.log(live).mean()), rel=1e-9)
    assert found.after.ratio < found.before.ratio
    assert found.after.ratio != pytest.approx(rescaled("mlp_bias", "conditioning").after.ratio, rel=1e-6)
