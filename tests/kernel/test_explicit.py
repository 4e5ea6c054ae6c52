"""Enumerated paths against the oracle's own enumeration, and what is refused."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from oracle.enumerate import path_jacobian
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.kernel.explicit import count_scalar_paths, explicit
from pkcompiler.kernel.scalars import ONE, scalars
from pkcompiler.paths.semiring import settings


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_values_and_kernels_are_the_oracles(name, masked):
    case = FAMILIES[name]()
    generator = torch.Generator().manual_seed(11)
    masks = {n: torch.rand(p.shape, generator=generator) < 0.6 for n, p in case.module.named_parameters()} if masked else None
    made = explicit(case.module, case.example_inputs, masks)
    values, jacobian = path_jacobian(case.dag, case.theta, mask=None if masks is None else case.flat(masks))
    sizes = {n: p.numel() for n, p in case.module.named_parameters()}
    order = [case.parameter_index(n, i) for n in made.names for i in range(sizes[n])]
    matrix = (jacobian.T @ jacobian)[np.ix_(order, order)]
    np.testing.assert_allclose(made.gram, matrix, rtol=0, atol=1e-12 * abs(matrix).max())
    np.testing.assert_allclose(np.sort(made.values), np.sort(values[values != 0]), rtol=1e-12)
    assert len(made.labels) == len(made.paths) == len(made.values)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()


def test_the_kernel_of_paths_and_that_of_parameters_share_their_spectrum():
    made = explicit(mlp(), torch.zeros(1, 2))
    assert made.kernel.shape == (9, 9) and made.gram.shape == (12, 12)
    paths, parameters = (torch.linalg.eigvalsh(m).flip(0)[:9] for m in (made.kernel, made.gram))
    np.testing.assert_allclose(paths, parameters, atol=1e-12 * float(paths[0]))


def test_labels_name_the_source_and_what_is_crossed():
    made = explicit(mlp(), torch.zeros(1, 2))
    assert "1 0.bias[1] 2.weight[0,1]" in made.labels
    assert next(label for label in made.labels if label.endswith("0.weight[2,1] 2.weight[0,2]")).split()[0].endswith("[0,1]")


def test_the_heat_map_holds_the_heaviest_paths():
    made = explicit(mlp(), torch.zeros(1, 2))
    whole, part = made.heat_map(), made.heat_map(4)
    torch.testing.assert_close(whole.values, made.kernel)
    assert whole.labels == made.labels and len(part.labels) == 4
    assert sorted(part.values.diagonal().tolist()) == sorted(made.kernel.diagonal().tolist())[-4:]


def test_simple_paths_of_networkx_are_the_paths():
    """Without products, paths are those from a source to an output of the scalar graph."""
    captured = capture(mlp(), torch.zeros(1, 2), dtype=torch.float64)
    found = scalars(captured.graph, captured.tensors, settings(edge="theta^2", pools="sum", constants="on"))
    simple = sum(len(list(nx.all_simple_edge_paths(found.graph, s, found.outputs))) for s in (ONE, *found.inputs))
    assert simple == count_scalar_paths(found) == 9


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PKC524", lambda: explicit(mlp(), torch.zeros(1, 2), limit=8)),
        ("PKC524", lambda: explicit(nn.Linear(2, 5001), torch.zeros(1, 2))),
        ("PKC520", lambda: explicit(mlp(), torch.zeros(1, 2), pools="max")),
        ("PKC401", lambda: explicit(mlp(), torch.zeros(1, 2), {"0.weight": torch.ones(1, dtype=torch.bool)})),
    ],
)
def test_what_is_refused(code, wrong):
    with pytest.raises(PkcError) as error:
        wrong()
    assert [d.code for d in error.value.diagnostics] == [code]
