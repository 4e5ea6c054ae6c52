"""Networks that others have pruned are taken with their masks, and masks are written as ``torch.nn.utils.prune`` has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import pkcompiler
from pkcompiler.diagnostics import PkcError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def pruned() -> nn.Sequential:
    """Half of each matrix by magnitude, and then a third of what is left at random; a bias too."""
    model = mlp()
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", 0.5)
        prune.random_unstructured(layer, "weight", 0.3)
    prune.l1_unstructured(model[2], "bias", 1)
    return model


def of_torch(model: nn.Module) -> dict[str, Tensor]:
    return {n.removesuffix("_mask"): b.bool() for n, b in model.named_buffers() if n.endswith("_mask")}


class Masked(nn.Linear):
    """A layer as research code has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("weight_mask", (torch.rand(outputs, inputs) < 0.5).float())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.weight_mask, self.bias)


def test_masks_are_found_wherever_they_are_kept() -> None:
    model = pruned()
    masks = of_torch(model)
    assert masks.keys() == {"0.weight", "2.weight", "2.bias"}
    for given in (model, model.state_dict(), pkcompiler.apply_masks(mlp(), masks), pkcompiler.lower(mlp(), masks)):
        found = pkcompiler.import_masks(given)
        assert found.keys() == masks.keys() and all(torch.equal(found[n], masks[n]) for n in masks)
    torch.manual_seed(0)
    own = nn.Sequential(Masked(4, 3))
    assert torch.equal(pkcompiler.import_masks(own)["0.weight"], own[0].weight_mask.bool())


def test_zeros_are_masks_where_they_are_asked_for() -> None:
    model = pruned()
    masks = of_torch(model)
    for layer in (model[0], model[2]):
        prune.remove(layer, "weight")
    prune.remove(model[2], "bias")
    with pytest.raises(PkcError, match=r"PKC464.*2 matrices hold zeros(.|\n)*zeros=True"):
        pkcompiler.import_masks(model)
    found = pkcompiler.import_masks(model.state_dict(), zeros=True)
    assert found.keys() == {"0.weight", "2.weight"} and all(torch.equal(found[n], masks[n]) for n in found)
    with pytest.raises(PkcError, match="PKC464"):
        pkcompiler.import_masks(mlp(), zeros=True)


def test_a_mask_of_other_numbers_is_refused() -> None:
    state = pruned().state_dict()
    state["0.weight_mask"][0, 0] = 0.5
    with pytest.raises(PkcError, match=r"PKC465.*'0\.weight_mask'"):
        pkcompiler.import_masks(state)


def test_pruning_goes_on_from_the_masks_of_torch() -> None:
    model = pruned()
    masks, before = of_torch(model), {n: t.clone() for n, t in model.state_dict().items()}
    found = pkcompiler.prune(model, X, "magnitude", density=0.3)
    assert all(not bool((found.masks[n] & ~masks[n]).any()) for n in found.masks)
    given = pkcompiler.prune(mlp(), X, "magnitude", density=0.3, masks={n: m for n, m in masks.items() if "weight" in n})
    assert all(torch.equal(found.masks[n], given.masks[n]) for n in given.masks)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    report = pkcompiler.analyze(model, X)
    assert {row.name: row.kept for row in report.rows if row.name in masks} == {n: int(m.sum()) for n, m in masks.items()}


def test_lower_takes_the_masks_of_torch() -> None:
    model = pruned()
    network = pkcompiler.lower(model, {})
    assert torch.equal(network(X), model(X))
    assert network.state_dict().keys() == mlp().state_dict().keys()
    tighter = pkcompiler.lower(model, {"0.weight": torch.eye(8, 4).bool()})
    assert torch.equal(tighter.masks["0.weight"], torch.eye(8, 4).bool() & of_torch(model)["0.weight"])


def test_the_layout_of_torch_is_that_of_torch() -> None:
    masks = of_torch(pruned())
    model = pkcompiler.apply_masks(mlp(), masks, layout="torch")
    other = pruned()
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in model.state_dict().items())
    assert torch.equal(model(X), other(X))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().sum().backward()
    optimizer.step()
    model(X)
    assert not bool(model[0].weight[~masks["0.weight"]].any()) and bool((model[0].weight != other[0].weight).any())


def test_the_layout_of_torch_keeps_ties_and_recurrent_cells() -> None:
    torch.manual_seed(0)
    tied = nn.ModuleDict({"embed": nn.Embedding(6, 4), "cells": nn.LSTM(4, 4, batch_first=True), "head": nn.Linear(4, 6)})
    tied["head"].weight = tied["embed"].weight
    mask = {"embed.weight": torch.rand(6, 4) < 0.5, "cells.weight_ih_l0": torch.rand(16, 4) < 0.5}
    pkcompiler.apply_masks(tied, mask, layout="torch")
    assert tied["head"].weight_orig is tied["embed"].weight_orig
    words = torch.arange(6).reshape(2, 3)
    with torch.no_grad():
        tied["embed"].weight_orig.add_(1)
        tied["cells"].weight_ih_l0_orig.add_(1)
        states = tied["cells"](tied["embed"](words))[0]
        tied["head"](states)
    for weight, kept in ((tied["head"].weight, "embed.weight"), (tied["cells"]._flat_weights[0], "cells.weight_ih_l0")):
        assert torch.equal(weight != 0, mask[kept])


@pytest.mark.parametrize(
    ("masks", "code"),
    [
        ({"out_proj.weight": torch.ones(4, 4, dtype=torch.bool)}, "PKC474"),
        ({"nothing": torch.ones(4, 4, dtype=torch.bool)}, "PKC470"),
        ({"out_proj.weight": torch.ones(4, 5, dtype=torch.bool)}, "PKC471"),
    ],
)
def test_what_the_layout_of_torch_cannot_hold_is_refused_before_anything_changes(masks: dict[str, Any], code: str) -> None:
    model = nn.MultiheadAttention(4, 2)
    before = list(model.state_dict())
    with pytest.raises(PkcError, match=code):
        pkcompiler.apply_masks(model, masks, layout="torch")
    assert list(model.state_dict()) == before
