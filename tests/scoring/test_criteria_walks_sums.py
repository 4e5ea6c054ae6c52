"""Walks across weights that are summed or chosen from a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.driver.prune import prune
from pkcompiler.frontend.capture import capture
from pkcompiler.paths.topology import topology
from pkcompiler.scoring.functions.orders.walks.walker import Walker


class Summed(nn.Module):
    """A layer whose weight is a sum of slices of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.o = nn.Linear(4, 4), nn.Linear(4, 2)
        self.packed = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, x):
        return self.o(torch.relu(F.linear(torch.relu(self.l(x)), self.read())))

    def read(self):
        return self.packed.sum(0)


class Chosen(Summed):
    def read(self):
        return self.packed[1]


@pytest.mark.parametrize(("kind", "most"), [(Summed, 72), (Chosen, 40)])
def test_walks_visit_what_a_weight_is_the_sum_of(kind, most):
    example = torch.zeros(2, 4)
    for density in (0.2, 0.5):
        pruned = prune(kind(), example, "phew", density=density)
        assert sum(int(m.sum()) for m in pruned.masks.values()) == round(density * 72)
        left = topology(pruned.graph, pruned.tensors, pruned.masks)
        assert all(torch.equal(left.effective[n], m) for n, m in pruned.masks.items())
    captured = capture(kind(), example, dtype=torch.float64)
    weights = {s.name: captured.tensors[s.name].abs() for s in captured.graph.parameters}
    assert int(Walker(captured.graph, captured.tensors, weights, {}).reachable.sum()) == most


def test_a_weight_that_walks_do_not_cross_is_named():
    class Factored(Summed):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 4))

        def read(self):
            return self.up @ self.down

    with pytest.raises(PkcError) as caught:
        prune(Factored(), torch.zeros(2, 4), "phew", density=0.9)
    assert caught.value.diagnostics[0].code == "PKC562" and "no entry of down" in caught.value.diagnostics[0].notes[0]
