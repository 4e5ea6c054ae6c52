"""What a mask leaves, against the enumeration of every path and against the function itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import Path, Structure, list_paths
from oracle.families import FAMILIES
from torch import nn

import pkcompiler
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.paths.count import count_paths
from pkcompiler.paths.lengths import path_lengths
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.topology import crossed, has_path, layers, topology, units

WITHOUT_PATHS = ("layer_norm", "rms_norm", "group_norm", "unit_vector", "attention", "causal_attention", "written_attention")
"""Functions that depend on weights otherwise than through paths with open gates: more is effective than lies on a path."""
DENSITIES = (0.25, 0.5, 0.8)


@cache
def built(name: str) -> tuple[Case, Capture]:
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


def random_masks(module: nn.Module, seed: int, density: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in module.named_parameters()}


def paths_under(case: Case, masks: dict[str, torch.Tensor]) -> list[Path]:
    kept = case.flat(masks).astype(bool)
    listed = list_paths(case.dag, Structure(constants=True, centring=True))
    return [p for paths in listed for p in paths if kept[list(p.parameters)].all()]


def on(paths: list[Path], count: int) -> np.ndarray:
    found = np.zeros(count, dtype=bool)
    for path in paths:
        found[list(path.parameters)] = True
    return found


def every(names) -> list:
    return [(name, density, seed) for name in sorted(names) for density in DENSITIES for seed in range(2)]


@pytest.mark.parametrize(("name", "density", "seed"), every(FAMILIES))
def test_effective_is_what_lies_on_a_listed_path(name, density, seed):
    case, captured = built(name)
    masks = random_masks(case.module, seed, density)
    found = topology(captured.graph, captured.tensors, masks)
    paths = paths_under(case, masks)
    for got, listed in ((found.effective, paths), (found.fed, [p for p in paths if p.sources])):
        effective, wanted = case.flat(got).astype(bool), on(listed, len(case.theta))
        assert (wanted <= effective).all()
        assert name in WITHOUT_PATHS or (wanted == effective).all()


@pytest.mark.parametrize(("name", "density", "seed"), every(FAMILIES))
def test_what_is_not_effective_does_not_change_the_function(name, density, seed):
    case, captured = built(name)
    masks = random_masks(case.module, seed, density)
    kept = topology(captured.graph, captured.tensors, masks, captured.watched).effective
    before, after = ({n: p * m[n] for n, p in case.module.named_parameters()} for m in (masks, kept))
    x = case.signed
    outputs = [torch.func.functional_call(case.module, given, (x,)) for given in (before, after)]
    assert torch.allclose(*outputs, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("name", "density", "seed"), every(FAMILIES))
def test_an_output_that_no_input_reaches_is_a_constant(name, density, seed):
    case, captured = built(name)
    masks = random_masks(case.module, seed, density)
    found = topology(captured.graph, captured.tensors, masks)
    weights = {n: p * masks[n] for n, p in case.module.named_parameters()}
    y = torch.func.functional_call(case.module, weights, (case.signed,))
    constant = ~found.outputs[0].reshape(-1)
    spread = (y - y[:1]).reshape(len(y), -1)[:, constant]
    assert torch.nan_to_num(spread).abs().max().item() < 1e-12 if constant.any() else True
    assert found.connected == has_path(captured.graph, captured.tensors, masks)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_effective_masks_are_idempotent_and_keep_the_count(name):
    case, captured = built(name)
    chosen = settings(edge="1", pools="sum", constants="on")
    masks = random_masks(case.module, 3, 0.5)
    once = topology(captured.graph, captured.tensors, masks).effective
    twice = topology(captured.graph, captured.tensors, once).effective
    assert all(torch.equal(once[n], twice[n]) for n in once)
    counts = [count_paths(captured.graph, captured.tensors, chosen, m, captured.static_batch) for m in (masks, once)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("name", "density", "seed"), every(FAMILIES))
def test_lengths_bracket_those_of_the_listed_paths(name, density, seed):
    case, captured = built(name)
    for masks, whole in ((random_masks(case.module, seed, density), False), (random_masks(case.module, seed, 2.0), True)):
        effective = topology(captured.graph, captured.tensors, masks).effective
        alive = {n for n, m in effective.items() if m.any()}
        found = path_lengths(captured.graph, alive, whole=whole)
        lengths = [len(p.parameters) for p in paths_under(case, masks) if p.sources]
        if not lengths:
            continue
        assert found.shortest <= min(lengths) <= max(lengths) <= found.longest
        if found.status == "exact":
            assert (found.shortest, found.longest) == (min(lengths), max(lengths))


def test_a_collapsed_layer_leaves_paths_from_biases_only():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    captured = capture(model, torch.zeros(1, 3))
    masks = {"0.weight": torch.zeros(4, 3, dtype=torch.bool)}
    assert not has_path(captured.graph, captured.tensors, masks)
    assert has_path(captured.graph, captured.tensors, masks, sources="any")
    found = topology(captured.graph, captured.tensors, masks)
    first, second = layers(captured.graph, found, masks)
    assert first.collapsed and (first.alive, first.constant, first.dead) == (0, 4, 0)
    assert found.effective["2.weight"].all() and not found.fed["2.weight"].any()
    assert (second.alive, second.constant) == (0, 2)


def test_the_betas_of_a_norm_are_sources_and_no_inputs():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    captured = capture(model, torch.zeros(1, 3, 8, 8))
    masks = {"0.weight": torch.zeros(4, 3, 3, 3, dtype=torch.bool)}
    assert not has_path(captured.graph, captured.tensors, masks)
    assert has_path(captured.graph, captured.tensors, masks, sources="any")


def test_dead_units_by_hand():
    """Unit 0 gets nothing, unit 1 leads nowhere, unit 2 is alive, unit 3 is fed by its bias alone."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    captured = capture(model, torch.zeros(1, 2))
    masks = {
        "0.weight": torch.tensor([[0, 0], [1, 1], [1, 0], [0, 0]]).bool(),
        "0.bias": torch.tensor([0, 1, 0, 1]).bool(),
        "2.weight": torch.tensor([[1, 0, 1, 1]]).bool(),
    }
    found = topology(captured.graph, captured.tensors, masks)
    assert found.effective["0.weight"].tolist() == [[False] * 2, [False] * 2, [True, False], [False] * 2]
    assert found.effective["0.bias"].tolist() == [False, False, False, True]
    assert found.effective["2.weight"].tolist() == [[False, False, True, True]]
    assert found.inputs[captured.graph.inputs[0].name].tolist() == [[True, False]]
    layer = layers(captured.graph, found, masks)[0]
    assert (layer.units, layer.alive, layer.constant, layer.dead) == (4, 1, 1, 2)
    assert (layer.kept, layer.effective, layer.fed) == (3, 1, 1) and layer.at_risk


@pytest.mark.parametrize(
    ("module", "x", "wanted"),
    [
        (nn.Linear(5, 3), torch.zeros(1, 5), 3),
        (nn.Conv2d(4, 6, 3, groups=2), torch.zeros(1, 4, 5, 5), 6),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), torch.zeros(1, 4, 5, 5), 6),
        (nn.Embedding(7, 5), torch.zeros(1, 2, dtype=torch.int64), 5),
    ],
)
def test_units_are_the_outputs_of_a_layer(module, x, wanted):
    captured = capture(module, x)
    found = topology(captured.graph, captured.tensors)
    assert units(captured.graph, "weight", found.effective["weight"]).tolist() == [True] * wanted
    assert crossed(captured.graph) == {"weight"}
    for unit in range(wanted):
        masks = {"weight": unit_mask(module, unit)}
        left = topology(captured.graph, captured.tensors, masks)
        got = units(captured.graph, "weight", left.fed["weight"])
        assert got.nonzero().flatten().tolist() == [u for u in range(wanted) if u != unit]


def unit_mask(module: nn.Module, unit: int) -> torch.Tensor:
    mask = torch.ones_like(module.weight, dtype=torch.bool)
    if isinstance(module, nn.ConvTranspose2d):
        per_group = module.weight.shape[1]
        first = unit // per_group * (module.in_channels // module.groups)
        mask[first : first + module.in_channels // module.groups, unit % per_group] = False
    elif isinstance(module, nn.Embedding):
        mask[:, unit] = False
    else:
        mask[unit] = False
    return mask


def test_masks_that_do_not_fit_are_refused():
    captured = capture(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(pkcompiler.PkcError, match="wieght"):
        has_path(captured.graph, captured.tensors, {"wieght": torch.ones(2, 2)})
