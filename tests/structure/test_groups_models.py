"""Groups of real architectures: a unit of every layer is removed for real, and the masked model keeps its certificate."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from models.zoo import MODELS, randomise
from torch import nn

from pkcompiler.frontend.capture import capture
from pkcompiler.paths.certificate import certify
from pkcompiler.structure import Coupling, Group, coupling
from tests.structure.groups_tools import atoms_of, outputs, sliced, zeroed

NAMES = ("efficientnet_b0", "vit")


@functools.cache
def opened(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], Coupling]:
    """In float64, statistics and gains away from their initial values."""
    module, inputs = MODELS[name]()
    module = randomise(module).double()
    inputs = tuple(x.double() for x in inputs)
    captured = capture(module, inputs)
    return module, inputs, coupling(captured.graph, captured.watched)


def one_of_every_layer(found: Coupling) -> list[Group]:
    draw = random.Random(1)
    return [found.groups[draw.choice(layer.groups)] for layer in found.layers]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_every_layer_is_removed_for_real(name):
    """All of them at once; what only statistics over units tell apart (LayerNorm) runs, and need not be equal."""
    module, inputs, found = opened(name)
    chosen = one_of_every_layer(found)
    exact = frozenset().union(*(atoms_of(g) for g in chosen if not g.statistics))
    small = outputs(sliced(module, exact), inputs)
    masked = outputs(zeroed(module, exact), inputs)
    assert small is not None and masked is not None
    assert not torch.equal(masked, outputs(module, inputs))
    torch.testing.assert_close(small, masked, rtol=1e-9, atol=1e-11)
    every = frozenset().union(*(atoms_of(g) for g in chosen))
    assert outputs(sliced(module, every), inputs) is not None


def test_the_certificate_of_the_masked_model_holds():
    module, inputs, found = opened("vit")
    atoms = frozenset().union(*(atoms_of(g) for g in one_of_every_layer(found)))
    assert certify(zeroed(module, atoms), inputs).holds


def test_the_residual_stream_and_the_heads_of_a_vit():
    _, _, found = opened("vit")
    stream, head, hidden = found.layers[:3]
    assert (len(stream.groups), len(head.groups), len(hidden.groups)) == (48, 3, 96)
    made = {name: count for name, _, count in head.made}
    assert {name.split(".")[-2]: count for name, count in made.items()} == {"q_proj": 16, "k_proj": 16, "v_proj": 16}
    assert [(name.split(".")[-2], axis, count) for name, axis, count in head.read] == [("o_proj", 1, 16)]
