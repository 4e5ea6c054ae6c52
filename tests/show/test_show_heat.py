"""The heat map of a small Path Kernel: what is drawn is Pi."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pkcompiler import explicit
from pkcompiler.show.heat import MOST, colour, figure, heat_of
from tests.cli_support import home, pkc

__all__ = ["home"]

TINY = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))

def example_inputs():
    return torch.randn(1, 2)
"""


def tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))


def test_entries_are_those_of_the_path_kernel_by_hand() -> None:
    """Paths j -> i -> out with v = a_i w_ij: Pi is w_ij w_ij' where the hidden unit is shared, plus a_i^2 where the path is."""
    net = tiny()
    shown = heat_of(explicit(net, torch.randn(1, 2)))
    w, a = net[0].weight.detach().double(), net[2].weight.detach().double()[0]
    assert len(shown.labels) == shown.paths == 6
    order = [(i, j) for i in range(3) for j in range(2)]
    for p, (i, j) in enumerate(order):
        assert f"0.weight[{i},{j}]" in shown.labels[p]
        for q, (k, m) in enumerate(order):
            want = (w[i, j] * w[k, m] if i == k else 0.0) + (a[i] ** 2 if (i, j) == (k, m) else 0.0)
            assert shown.values[p][q] == pytest.approx(float(want), abs=1e-12)


def test_the_heaviest_paths_are_drawn_where_there_are_many() -> None:
    torch.manual_seed(0)
    kernel = explicit(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(1, 6))
    shown = heat_of(kernel)
    assert len(kernel.paths) > MOST == len(shown.labels) and shown.paths == len(kernel.paths)
    mass = kernel.kernel.diagonal().sort(descending=True).values
    assert min(row[i] for i, row in enumerate(shown.values)) == pytest.approx(float(mass[MOST - 1]))
    assert len(figure(shown).renderers[0].data_source.data["x"]) == MOST**2


def test_colours_tell_signs_apart() -> None:
    assert colour(1.0, 1.0) != colour(-1.0, 1.0) and colour(0.0, 1.0) == colour(0.0, 0.0)


def test_the_page_and_the_plots_of_a_small_model_have_it(home: Path) -> None:
    (home / "tiny.py").write_text(TINY)
    assert pkc("analyze", "tiny.py", "--html", "t.html", "--plot", "plots").exit_code == 0
    assert "all 7 paths" in (home / "t.html").read_text() and "0.weight" in (home / "plots" / "paths.svg").read_text()
    assert pkc("analyze", "mlp.py", "--html", "m.html", "--eigenvalues", "0").exit_code == 0
    assert "Path by path" not in (home / "m.html").read_text()
