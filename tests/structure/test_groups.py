"""Groups of units on tiny networks, against brute force: what can be removed for real without changing what the rest computes."""

from __future__ import annotations

import functools
import random
from itertools import combinations

import pytest
import torch
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.structure import Coupling, channel_groups, coupling
from tests.structure.groups_models import EXHAUSTED, SAMPLED, Net, built, chain, drawn, fused, residual, shared_keys
from tests.structure.groups_tools import atoms_of, removable


def coupled(model: nn.Module, inputs) -> Coupling:
    captured = capture(model, inputs)
    return coupling(captured.graph, captured.watched)


@functools.cache
def opened(family):
    """A family's model, inputs and coupling."""
    model, inputs = family()
    return model, inputs, coupled(model, inputs)


def every_atom(model: nn.Module) -> list[tuple[str, int, int]]:
    return [(n, axis, i) for n, p in model.named_parameters() for axis, size in enumerate(p.shape) for i in range(size)]


@pytest.mark.parametrize("family", EXHAUSTED, ids=lambda f: f.__name__)
def test_groups_are_the_least_sets_that_can_be_removed(family):
    """Of all sets of at most three atoms: those that can go, and have no other such set inside, are the groups."""
    model, inputs, coupled_units = opened(family)
    groups = {atoms_of(g) for g in coupled_units.groups}
    found: list[frozenset] = []
    for size in range(1, min(3, max(map(len, groups))) + 1):
        for chosen in map(frozenset, combinations(every_atom(model), size)):
            if not any(smaller <= chosen for smaller in found) and removable(model, inputs, chosen):
                found.append(chosen)
    assert set(found) == {g for g in groups if len(g) <= 3}
    assert all(removable(model, inputs, g) for g in groups)


@pytest.mark.parametrize("family", (*EXHAUSTED, *SAMPLED), ids=lambda f: f.__name__)
def test_a_group_goes_whole_and_no_part_of_it_goes_alone(family):
    model, inputs, found = opened(family)
    assert found.groups
    draw = random.Random(0)
    for layer in found.layers:
        atoms = atoms_of(found.groups[draw.choice(layer.groups)])
        assert removable(model, inputs, atoms)
        ordered = sorted(atoms)
        parts = [atoms - {a} for a in ordered] + [frozenset({a}) for a in ordered]
        parts += [frozenset(draw.sample(ordered, draw.randint(1, len(ordered) - 1))) for _ in range(30)]
        assert not any(removable(model, inputs, part) for part in parts)


@pytest.mark.parametrize("family", (*EXHAUSTED, *SAMPLED), ids=lambda f: f.__name__)
def test_groups_are_disjoint_and_leave_only_what_is_excluded(family):
    """Every entry that makes a unit is in one group, or counted among the excluded."""
    found = opened(family)[2]
    atoms = [a for g in found.groups for a in atoms_of(g)]
    assert len(atoms) == len(set(atoms))
    excluded = {made: 0 for e in found.excluded for made in e.made}
    for item in found.excluded:
        for made in item.made:
            excluded[made] += item.count
    for axis in (a for a in found.axes if a.side == "out" and a.role == "parameter"):
        assert int((axis.units < 0).sum()) == excluded.get((axis.slot, axis.dim), 0)


def test_the_units_of_the_output_and_the_input_stay():
    (outputs,) = opened(chain)[2].excluded
    assert (outputs.made, outputs.count, outputs.reason) == ((("5.weight", 0), ("5.bias", 0)), 2, "the model's output")


def test_sizes_count_entries_of_two_dimensions_once():
    model, _, found = opened(residual)
    for group in found.groups:
        gone = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters()}
        for member in group.members:
            gone[member.parameter].index_fill_(member.axis, torch.tensor(member.indices), True)
        assert group.size == sum(int(mask.sum()) for mask in gone.values())


def test_names_say_which_entries():
    found = opened(fused)[2]
    assert [g.name for g in found.groups] == [
        f"qkv.weight[{{{i}, {i + 1}, {i + 6}, {i + 7}, {i + 12}, {i + 13}}}]" for i in (0, 2, 4)
    ]


def test_queries_that_share_keys_go_together():
    found = opened(shared_keys)[2]
    assert [len(m.indices) for m in found.groups[0].members if m.parameter in ("q.weight", "k.weight")] == [4, 2]


def test_what_is_normalised_over_units_is_said():
    layers = (nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = coupled(*built(nn.Sequential(*layers), drawn(2, 2)))
    assert [(len(x.groups), found.groups[x.groups[0]].statistics) for x in found.layers] == [(3, ("1",)), (4, ())]


def test_a_group_norm_loses_whole_groups():
    layers = (nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    found = coupled(*built(nn.Sequential(*layers), drawn(2, 2, 3, 3)))
    assert [m.indices for g in found.groups for m in g.members if m.parameter == "1.weight"] == [(0, 1), (2, 3), (4, 5)]
    assert all(g.statistics == () for g in found.groups)


def test_a_layer_of_one_unit_stays():
    found = coupled(*built(nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)), drawn(2, 2)))
    assert found.groups == ()


def test_units_that_meet_a_fixed_length_stay():
    """Token mixing: the outer units are positions."""
    mix = Net(lambda m, x: x + m.two(m.one(x.transpose(1, 2)).relu()).transpose(1, 2), one=nn.Linear(3, 4), two=nn.Linear(4, 3))
    found = coupled(*built(mix, drawn(2, 3, 2)))
    assert {len(layer.groups): layer.made[0][0] for layer in found.layers} == {4: "one.weight"}
    assert [(e.made[0], e.reason) for e in found.excluded] == [(("two.weight", 0), "the model's input")]


def test_what_a_recorded_factor_is_computed_from_must_be_given():
    net = Net(lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=-1, keepdim=True)), a=nn.Linear(2, 3), b=nn.Linear(3, 2))
    captured = capture(*built(net, drawn(2, 2)))
    with pytest.raises(PkcError, match="PKC440"):
        channel_groups(captured.graph)
    found = coupling(captured.graph, captured.watched)
    assert found.groups == ()
    assert "a recorded factor is computed from it" in [e.reason for e in found.excluded]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.roll(1, -1),
        lambda x: x.cumsum(-1),
        lambda x: x.softmax(-1),
        lambda x: x[:, torch.tensor([2, 0, 1, 3])],
        lambda x: x.amax(-1, keepdim=True).expand(-1, 4) + x,
        lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64),
    ],
    ids=["roll", "cumsum", "softmax", "index", "amax", "constant"],
)
def test_what_does_not_say_where_a_unit_goes_keeps_its_units(change):
    net = Net(lambda m, x: m.b(change(m.a(x))), a=nn.Linear(2, 4), b=nn.Linear(4, 2))
    found = coupled(*built(net, drawn(2, 2)))
    assert found.groups == ()
    assert [e.count for e in found.excluded if e.made[0] == ("a.weight", 0)] == [4]


def test_a_selected_unit_stays_and_its_neighbours_go():
    net = Net(lambda m, x: m.b(m.a(x)) + m.a(x).select(-1, 2)[:, None], a=nn.Linear(2, 4), b=nn.Linear(4, 2))
    assert [g.name for g in coupled(*built(net, drawn(2, 2))).groups] == ["a.weight[0]", "a.weight[1]", "a.weight[3]"]
