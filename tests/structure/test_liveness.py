"""What is left of a unit, against brute force: change one entry after another, and see what comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import Structure, list_paths
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.maps import Batch
from pkcompiler.ir.types import Value
from pkcompiler.structure.liveness import Liveness, liveness
from tests.structure.graph_function import GraphFunction, numbered

DENSITIES = (0.3, 0.6)
NAMES = sorted(FAMILIES)


@cache
def built(name: str) -> tuple[Case, Capture]:
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


def random_masks(module: nn.Module, seed: int, density: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in module.named_parameters()}


@cache
def masked(
    name: str, density: float, seed: int, leaky: bool = False
) -> tuple[Case, Capture, dict[str, torch.Tensor], Liveness, GraphFunction]:
    case, captured = built(name)
    masks = random_masks(case.module, seed, density)
    found = liveness(captured.graph, captured.tensors, masks, captured.watched)
    return case, captured, masks, found, GraphFunction(captured, masks, case.signed, leaky=leaky)


FROZEN = frozenset(("unit_vector",))
"""Families with an operation that is held as it is, so that the function of the graph does not follow a change through it."""


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "density", "seed"), [(n, d, s) for n in names for d in DENSITIES for s in range(2)])


every, followed = each(NAMES), each(n for n in NAMES if n not in FROZEN)


def test_those_that_hold_something_are_listed():
    assert {n for n in NAMES if built(n)[1].watched} == FROZEN


@every
def test_what_nothing_feeds_is_0_and_what_constants_feed_is_constant(name, density, seed):
    _, captured, _, found, function = masked(name, density, seed)
    seen = function.each()
    torch.testing.assert_close(seen[function.graph.outputs[0]], function.output, rtol=1e-9, atol=1e-12, equal_nan=True)
    proper = function.output.flatten(1).isfinite().all(1)  # no vector of 0 over its norm
    for value in floating(captured):
        live, each = found.values[value.name], seen[value.name]
        if not batched(value):
            assert not each[~live.nonzero].any() and not live.fed.any()
            continue
        each = each[proper]
        assert not each[:, ~live.nonzero[0]].any()
        same = each[:, live.constant[0]]
        assert torch.equal(same, same[:1].expand_as(same))


def floating(captured: Capture) -> list[Value]:
    return [value for value in captured.graph.values if value.type.dtype.startswith("f")]


def batched(value: Value) -> bool:
    return any(isinstance(n, Batch) for n in value.type.shape)


@followed
def test_changing_a_unit_changes_an_output_where_it_reaches_one(name, density, seed):
    """An entry that is 0 and multiplied by itself is left out: it does so, but not to first order."""
    case, captured, _, found, function = masked(name, density, seed, leaky=True)
    before = function.run()
    for value in floating(captured):
        live = found.values[value.name]
        tried = live.reaches | live.nonzero | (not case.products)
        for place in np.ndindex(*live.reaches.shape):
            if tried[place]:
                where = place[1:] if batched(value) else place
                assert changes(function, value.name, where, before) == bool(live.reaches[place]), (value, place)


NUMBERS = (0.7, -1.3, 100.0, -100.0)


def changes(function: GraphFunction, value: str, place: tuple[int, ...], before: torch.Tensor) -> bool:
    """Whether any of several changes of one entry changes an output."""

    def to(number: float):
        def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
            if name != value:
                return tensor
            edited = tensor.clone()
            edited[(..., *place)] += number
            return edited

        return edit

    return any(differs(function.run(to(number)), before) for number in NUMBERS)


def differs(after: torch.Tensor, before: torch.Tensor) -> bool:
    return not torch.allclose(after, before, rtol=1e-12, atol=1e-12, equal_nan=True)


SHIFTED = {"attention": ("k.bias",), "causal_attention": ("k.bias",), "written_attention": ("k.bias",)}
"""Parameters that add one number to all scores of a softmax, which takes no notice."""


@followed
def test_changing_a_parameter_changes_an_output_where_it_reaches_one(name, density, seed):
    case, _, masks, found, function = masked(name, density, seed, leaky=True)
    before = function.run()
    for parameter in found.parameters.keys() - set(SHIFTED.get(name, ())):
        reaches = found.parameters[parameter].reaches
        tried = reaches | masks[parameter] | (not case.products)
        for place in np.ndindex(*reaches.shape):
            if tried[place]:
                changed = any(differs(function.run(weights=moved(function, parameter, place, by)), before) for by in NUMBERS)
                assert changed == bool(reaches[place]), (parameter, place)


def moved(function: GraphFunction, parameter: str, place: tuple[int, ...], by: float) -> dict[str, torch.Tensor]:
    weights = function.stored[parameter].clone()
    weights[place] += by
    return {parameter: weights}


@every
def test_changing_what_reaches_nothing_leaves_the_model_as_it_is(name, density, seed):
    """All of it at once, in the model itself: what is frozen is computed anew."""
    case, _, masks, found, function = masked(name, density, seed)
    weights = {n: (p * masks[n]).detach() for n, p in case.module.named_parameters()}
    drawn = {n: numbered(seed, *w.shape) for n, w in weights.items()}
    effective = {n: live.fed | live.constant for n, live in found.parameters.items()}
    kept = {n: torch.where(masks[n] & ~effective[n], drawn[n], w) for n, w in weights.items()}
    after = torch.func.functional_call(case.module, kept, (case.signed,))
    torch.testing.assert_close(after, function.output, rtol=1e-9, atol=1e-12, equal_nan=True)


@every
def test_all_that_is_not_needed_can_be_0_at_once(name, density, seed):
    _, _, _, found, function = masked(name, density, seed)

    def without(value: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * found.values[value].needed if tensor.is_floating_point() else tensor

    torch.testing.assert_close(function.run(without), function.output, rtol=1e-9, atol=1e-12, equal_nan=True)


@every
def test_on_a_path_is_what_lies_on_a_listed_one(name, density, seed):
    case, _, masks, found, _ = masked(name, density, seed)
    kept = case.flat(masks).astype(bool)
    listed = [p for paths in list_paths(case.dag, Structure(constants=True)) for p in paths if kept[list(p.parameters)].all()]
    wanted = np.zeros(len(case.theta), dtype=bool)
    for path in listed:
        wanted[list(path.parameters)] = True
    assert (case.flat({n: live.on_path for n, live in found.parameters.items()}).astype(bool) == wanted).all()
