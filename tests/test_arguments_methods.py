"""Public methods take what their signatures say: for any other type each raises a coded error, or does its work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import pkcompiler
from pkcompiler.diagnostics import PkcError

WRONG = [None, "text", 3, -1, [1], {}, torch.ones(3), object()]
SCHEDULE = "schedule s { prune magnitude { at = epochs(1) density = 50% } }"


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def methods() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Each with arguments that it takes."""
    model, x = mlp(), torch.ones(2, 4)
    kernel = pkcompiler.path_kernel(model, x)
    flat = torch.ones(kernel.size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = {"model": model, "optimizer": optimizer, "example_inputs": x, "epochs": 2, "steps_per_epoch": 1}
    return {
        "cycles": (pkcompiler.load_schedule(SCHEDULE).cycles, right),
        "matvec": (kernel.matvec, {"u": flat}),
        "matmat": (kernel.matmat, {"u": flat[:, None]}),
        "restricted": (kernel.restricted, {"names": "*"}),
        "split": (kernel.split, {"u": flat}),
        "flatten": (kernel.flatten, {"parts": kernel.split(flat)}),
        "eigenvalues": (kernel.eigenvalues, {"k": 2}),
        "density": (kernel.density, {}),
        "frobenius": (kernel.frobenius, {}),
        "heat_map": (pkcompiler.explicit(model, x).heat_map, {}),
    }


@pytest.mark.parametrize("name", methods())
def test_a_wrong_type_is_a_code_or_does_no_harm(name: str) -> None:
    method, right = methods()[name]
    method(**right)
    for parameter in inspect.signature(method).parameters:
        for wrong in WRONG:
            try:
                method(**{**right, parameter: wrong})
            except PkcError as error:
                assert all(d.notes for d in error.diagnostics)
