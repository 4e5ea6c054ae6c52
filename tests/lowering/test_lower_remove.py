"""Masks taken off again: weights stay as they are, and nothing of the masks is left."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pkcompiler as pk
from pkcompiler.lowering.apply import applied_masks, replace_masks
from tests.lowering.test_lower_kept import Net, build, masks_of, train


def traces(net: nn.Module) -> list[object]:
    """All that masks could leave on a model."""
    tables = ("_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
    hooks = [h for m in net.modules() for table in tables for h in getattr(m, table).values()]
    hooks += [h for p in net.parameters() for h in (p._backward_hooks or {}).values()]
    return [*hooks, *([name for m in net.modules() for name in vars(m) if name not in vars(nn.Module()) and "mask" in name])]


def assert_trains_as_others(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """Gradients and steps are those of a copy that never had masks."""
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    for each in (net, fresh):
        train(each, torch.optim.SGD(each.parameters(), 0.1))
    assert all(torch.equal(p, fresh.get_parameter(name)) for name, p in net.named_parameters())
    assert all(net.get_parameter(name).detach()[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("trained", [False, True])
def test_weights_stay_and_nothing_else_does(trained: bool) -> None:
    net = build()
    masks = masks_of(net)
    pk.apply_masks(net, masks)
    if trained:
        train(net, torch.optim.Adam(net.parameters(), 0.1))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    objects = dict(net.named_parameters())
    assert pk.remove_masks(net) is net
    assert all(p is objects[name] and torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert traces(net) == [] and applied_masks(net) == {}
    assert all(not net.get_parameter(name).detach()[~mask].any() for name, mask in masks.items())
    assert_trains_as_others(net, masks)
    assert_trains_as_others(pickle.loads(pickle.dumps(net)), masks)


def test_a_parameter_of_another_shape_hinders_nothing() -> None:
    """Masks are taken off whole: a weight that was replaced since by one that its mask does not fit is left as it is."""
    net = build()
    masks = masks_of(net)
    pk.apply_masks(net, masks)
    new = torch.ones(3, net.out.weight.shape[1])
    net.out.weight = nn.Parameter(new.clone())
    pk.remove_masks(net)
    assert traces(net) == [] and applied_masks(net) == {} and torch.equal(net.out.weight.detach(), new)
    with pytest.raises(pk.PkcError, match="PKC463"):
        pk.remove_masks(net)


def test_what_was_written_into_pruned_weights_is_zero_when_masks_are_taken_off() -> None:
    net = build()
    masks = masks_of(net)
    nn.init.ones_(pk.apply_masks(net, masks).out.weight)
    pk.remove_masks(net)
    assert torch.equal(net.out.weight.detach(), masks["out.weight"].float())


def test_hooks_of_the_user_stay() -> None:
    net, seen = build(), []
    net.out.weight.register_hook(lambda gradient: seen.append(gradient))
    pk.remove_masks(pk.apply_masks(net, masks_of(net)))
    net(torch.randn(3, 2, 4)).sum().backward()
    assert len(seen) == 1 and torch.equal(net.out.weight.grad, seen[0]) and len(net.out.weight._backward_hooks) == 1


def test_of_a_part_its_own_alone() -> None:
    net = build()
    masks = masks_of(net)
    pk.apply_masks(net, masks)
    pk.remove_masks(net.attend)
    assert set(applied_masks(net)) == {name for name in masks if not name.startswith("attend.")}
    pk.remove_masks(net.second)  # its weight is that of the first layer
    assert set(applied_masks(net)) == {"out.weight"} and not net.first.weight._backward_hooks
    train(net, torch.optim.SGD(net.parameters(), 0.1))
    assert all(bool(net.get_parameter(name).detach()[~mask].any()) != (name == "out.weight") for name, mask in masks.items())


def test_a_copy_keeps_its_masks() -> None:
    net = build()
    masks = masks_of(net)
    twin = copy.deepcopy(pk.apply_masks(net, masks))
    pk.remove_masks(net)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1))
    assert all(not twin.get_parameter(name).detach()[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("apply", [pk.apply_masks, replace_masks])
def test_masks_again_are_not_those_taken_off(apply: Callable[[nn.Module, dict[str, Tensor]], nn.Module]) -> None:
    net = build()
    pk.remove_masks(pk.apply_masks(net, masks_of(net)))
    other = masks_of(net, seed=2)
    apply(net, other)
    assert all(torch.equal(mask, other[name]) for name, mask in applied_masks(net).items())


def test_a_replaced_parameter_is_let_go_too() -> None:
    net = build()
    masks = {"out.weight": masks_of(net)["out.weight"]}
    pk.apply_masks(net, masks)
    old, net.out.weight = net.out.weight, nn.Parameter(torch.ones(2, 4))
    pk.remove_masks(net)
    assert torch.equal(net.out.weight.detach(), masks["out.weight"].float())
    for weight in (old, net.out.weight):
        assert torch.autograd.grad(weight.sum(), weight)[0].all()


def test_models_without_masks_are_told() -> None:
    net = build()
    with pytest.raises(pk.PkcError, match=r"PKC463.*no parameter of Net is masked"):
        pk.remove_masks(net)
    pk.remove_masks(pk.apply_masks(net, masks_of(net)))
    with pytest.raises(pk.PkcError, match="PKC463"):
        pk.remove_masks(net)


@pytest.mark.parametrize("example", [None, torch.randn(3, 2, 4)], ids=["traced", "example"])
def test_lowered_networks_are_told(example: Tensor | None) -> None:
    model = build()
    masks = masks_of(model)
    net = pk.lower(model, masks, example)
    for part in (net, nn.Sequential(net), net.get_submodule("out"), pk.apply_masks(net, masks)):
        with pytest.raises(pk.PkcError, match=r"PKC463.*in its graph") as error:
            pk.remove_masks(part)
        assert "load_state_dict" in error.value.diagnostics[0].notes[0]
    model.load_state_dict(net.state_dict())
    assert_trains_as_others(model, masks)
