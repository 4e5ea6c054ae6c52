"""Edges kept from round to round equal edges made anew, and the folded functional equals the unfolded one."""

from __future__ import annotations

import pytest
import torch
from models.zoo import MODELS, randomise

from pkcompiler.frontend.capture import capture
from pkcompiler.paths.functional import open_functional
from pkcompiler.paths.semiring import settings
from pkcompiler.paths.sources import unit_sources
from pkcompiler.paths.sweep import Sweep
from pkcompiler.scoring.edges import Edges


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "unet"])
@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2", "theta"])
def test_folded_edges_under_changing_masks(name, edge):
    module, inputs = MODELS[name]()
    captured = CAPTURES.setdefault(name, capture(randomise(module), inputs, dtype=torch.float64))
    graph, chosen = captured.graph, settings(edge=edge)
    wanted = frozenset(s.name for s in graph.prunable)
    sweep = Sweep(graph, captured.tensors, chosen)
    edges = Edges.of(sweep, wanted, {})
    assert len(sweep.graph.ops) < len(graph.ops), "nothing was folded: the test shows nothing"
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.type.shape for s in graph.prunable}
    for density in (1.0, 0.6, 0.3, 0.7):
        masks = {n: torch.rand(shape, generator=generator) < density for n, shape in shapes.items()}
        value = sweep.run(edges.at(masks), unit_sources(graph, 1, torch.float64))
        total = value.tensor.sum()
        names = list(edges.leaves)
        grads = dict(zip(names, torch.autograd.grad(total, [edges.leaves[n] for n in names]), strict=True))
        plain = open_functional(graph, captured.tensors, chosen, masks=masks)
        scale = 2.0 ** (value.exponent - plain.exponent)
        torch.testing.assert_close(float(total.detach()) * scale, plain.mantissa, rtol=1e-10, atol=1e-10 * abs(plain.mantissa))
        for n in names:
            by_edge = grads[n] * edges.factors.get(n, 1.0) * scale
            torch.testing.assert_close(by_edge, plain.grad[n], rtol=1e-9, atol=1e-9 * float(plain.grad[n].abs().max()))


CAPTURES: dict[str, object] = {}
