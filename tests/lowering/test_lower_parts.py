"""Parts of a lowered network that are emptied or moved without the rest, and masks without values."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import pkcompiler as pk
from pkcompiler.lowering import ModePair

X = torch.randn(3, 4)
Change = Callable[[nn.Module], object]


class Net(nn.Module):
    """A part within a part, a computed weight with an empty row, a table of the user's own that no ``state_dict`` has."""

    def __init__(self, drops: bool = False) -> None:
        super().__init__()
        self.drops = drops
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4))))
        self.out = nn.Linear(4, 2)
        self.out.register_buffer("table", torch.tensor([2.0, 3.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.out(nn.functional.dropout(y, training=self.training and self.drops)) * self.out.table


NORMED = "first.1.0.parametrizations.weight.original1"


def masks_of(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in net.named_parameters() if p.dim() > 1}
    masks = {name: mask for name, mask in masks.items() if not name.endswith("original0")}
    masks[NORMED][2] = False
    return masks


def emptied(part: nn.Module) -> None:
    part.to_empty(device="cpu")


def away_and_back(part: nn.Module) -> None:
    part.to("meta")
    part.to_empty(device="cpu")


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a part": lambda net: [emptied(net.get_submodule("first")), net][1],
    "a layer": lambda net: [emptied(net.get_submodule("first.0")), net][1],
    "a parametrized layer": lambda net: [emptied(net.get_submodule("first.1.0")), net][1],
    "all": lambda net: [emptied(net), net][1],
    "within another": lambda net: [emptied(nn.Sequential(net)), net][1],
    "a part, through the meta device": lambda net: [away_and_back(net.get_submodule("first")), net][1],
    "all away, a part back": lambda net: [net.to("meta"), *map(emptied, net.children()), net][-1],
    "of a copy": lambda net: [twin := copy.deepcopy(net), emptied(twin.get_submodule("out")), twin][-1],
    "lowered again": lambda net: [twin := pk.lower(net, {}, X), emptied(twin.get_submodule("first")), twin][-1],
}


@pytest.mark.parametrize("kind", ["traced", "a pair"])
@pytest.mark.parametrize("change", CHANGES)
def test_masks_of_a_part_are_kept(change: str, kind: str) -> None:
    torch.manual_seed(0)
    model = Net(drops=kind == "a pair")
    masks = masks_of(model)
    state = copy.deepcopy(model.state_dict())
    net = pk.lower(model, masks, X)
    expected = net.eval()(X)
    assert isinstance(net, ModePair) is (kind == "a pair")
    net = CHANGES[change](net)
    held = {name.removesuffix("_"): mask for name, mask in net.masks.items()}
    assert all(torch.equal(held[name], mask) for name, mask in masks.items())
    net.load_state_dict(state)
    assert torch.equal(net.eval()(X), expected)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.double], ids=["half", "double"])
def test_a_part_changes_its_type_as_ever(convert: Change) -> None:
    net = pk.lower(Net(), masks_of(Net()))
    part = net.get_submodule("first")
    assert convert(part) is part
    assert part.get_parameter("0.weight").dtype != torch.float32
    assert all(held.dtype == torch.bool for held in net.masks.values())


@pytest.mark.parametrize("on_meta", [False, True], ids=["a model", "a model on the meta device"])
@pytest.mark.parametrize("apply", [pk.apply_masks, pk.lower])
def test_masks_on_the_meta_device_are_refused(apply: Callable[..., object], on_meta: bool) -> None:
    net = Net().to("meta") if on_meta else Net()
    masks = {name: mask.to("meta") for name, mask in masks_of(net).items()}
    with pytest.raises(pk.PkcError, match=r"PKC472.*3 masks .* are no masks: 'first.0.weight' is on the meta device") as error:
        apply(net, masks)
    assert "give a mask with values" in error.value.diagnostics[0].notes[0]


@pytest.mark.parametrize("emptying", [emptied, away_and_back])
def test_masks_in_place_outlive_a_part_that_is_emptied(emptying: Change) -> None:
    net = Net()
    masks = {name: mask for name, mask in masks_of(net).items() if name != NORMED}
    state = copy.deepcopy(net.state_dict())
    pk.apply_masks(net, masks)
    emptying(net.first)
    net.load_state_dict(state)
    assert all(torch.equal(net.get_parameter(name).detach() != 0, mask) for name, mask in masks.items())
