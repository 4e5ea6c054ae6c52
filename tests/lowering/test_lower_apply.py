"""The laws of ``apply_masks``: the user's own class, nothing renamed, pruned weights at exactly zero."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pkcompiler.lowering import apply_masks, lower
from pkcompiler.lowering.apply import applied_masks, replace_masks
from tests.lowering.lower_models import CASES, build, call, masked_eager, random_masks
from tests.lowering.test_lower import OPTIMIZERS, assert_equal, assert_pruned_zero

NAMES = ["unet", "sequences", "attention", "tied", "weight_norm", "branching", "gpt2"]


def applied(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    net = build(name)
    masks = random_masks(net)
    return apply_masks(net, masks), masks


def train(net: nn.Module, name: str, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        torch.manual_seed(step)
        outputs = call(net, CASES[name].inputs(3), seed=step)
        sum(out.square().mean() for out in outputs if out.is_floating_point()).backward()
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_class_keys_objects_and_outputs(name: str) -> None:
    net, plain = build(name).eval(), build(name).eval()
    before, keys = list(net.parameters()), list(net.state_dict())
    masks = random_masks(net)
    assert apply_masks(net, masks) is net and type(net) is type(plain) and not net.training
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True)) and list(net.state_dict()) == keys
    assert [n for n, _ in net.named_buffers()] == [n for n, _ in plain.named_buffers()]
    inputs = CASES[name].inputs(2)
    assert_equal(call(masked_eager(plain, masks), inputs), call(net, inputs))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NAMES)
def test_training_keeps_zeros_even_with_earlier_momentum(name: str, optimizer: str) -> None:
    net = build(name).train()
    stepper = OPTIMIZERS[optimizer](net.parameters())
    train(net, name, stepper)
    masks = random_masks(net)
    apply_masks(net, masks)
    before = copy.deepcopy(list(net.parameters()))
    for _ in range(2):
        train(net, name, stepper, steps=1)
        assert_pruned_zero(net, masks)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_trains_like_the_lowered_network() -> None:
    net, masks = applied("unet")
    masked = lower(build("unet"), masks)
    for each in (net, masked):
        train(each, "unet", OPTIMIZERS["adamw"](each.parameters()), steps=3)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(net.parameters(), masked.parameters(), strict=True))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_exactly_zero(name: str, value: float) -> None:
    net, masks = applied(name)
    loss = sum(out.sum() for out in call(net, CASES[name].inputs(2)) if out.is_floating_point()) * value
    parameters = dict(net.named_parameters())
    direct = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    loss.backward()
    for key, gradient in zip(parameters, direct, strict=True):
        for found in (gradient, parameters[key].grad):
            assert found is None or not found[~masks[key]].any()
    assert any(g is not None and not g.isfinite().all() for g in direct)


def test_gradients_of_gradients_are_masked() -> None:
    net = apply_masks(nn.Linear(4, 1, bias=False), {"weight": torch.tensor([[True, False, True, False]])})
    x = torch.randn(3, 4)
    (gradient,) = torch.autograd.grad(net(x).square().sum(), net.weight, create_graph=True)
    gradient.sum().backward()
    assert gradient.requires_grad and net.weight.grad.count_nonzero() == 2


@pytest.mark.parametrize("name", ["unet", "tied", "branching"])
def test_a_copy_is_masked_and_separate(name: str) -> None:
    net, masks = applied(name)
    twin = copy.deepcopy(copy.deepcopy(net))
    train(twin, name, torch.optim.AdamW(twin.parameters(), 0.1))
    assert_pruned_zero(twin, masks)
    assert_equal(list(net.parameters()), list(applied(name)[0].parameters()))
    less = {key: torch.zeros_like(mask) for key, mask in masks.items()}
    apply_masks(twin, less)
    train(net, name, torch.optim.AdamW(net.parameters(), 0.1))
    assert all(not p.any() for p in twin.parameters()) and any(p.any() for p in net.parameters())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", ["unet", "tied"])
def test_loaded_checkpoints_are_masked(name: str, assign: bool) -> None:
    net, masks = applied(name)
    net.load_state_dict(build(name, seed=5).state_dict(), assign=assign)
    assert_pruned_zero(net, masks)
    train(net, name, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9))
    assert_pruned_zero(net, masks)
    assert net.state_dict().keys() == build(name).state_dict().keys()


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "copy"])
@pytest.mark.parametrize("assign", [False, True], ids=["values", "assign"])
@pytest.mark.parametrize("name", ["unet", "tied"])
def test_checkpoints_loaded_into_any_part_are_masked(name: str, assign: bool, copied: bool) -> None:
    """Into every submodule alone: its own state, and that of each that holds it."""
    net, masks = applied(name)
    net, other = copy.deepcopy(net) if copied else net, build(name, seed=5)
    parts = [path for path, part in net.named_modules() if path and next(part.parameters(), None) is not None]
    assert len(parts) > 2
    for path in parts:
        net.get_submodule(path).load_state_dict(other.get_submodule(path).state_dict(), assign=assign)
        assert_pruned_zero(net, masks)
    train(net, name, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9))
    assert_pruned_zero(net, masks)


def test_loading_a_part_prunes_nothing_that_came_back() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    ones = {"0.weight": torch.tensor([[True, False], [False, True]])}
    apply_masks(net, ones)
    replace_masks(net, {"0.weight": ~ones["0.weight"]})
    for part in (net, net[0]):
        part.load_state_dict({k: torch.ones_like(v) for k, v in part.state_dict().items()})
        assert torch.equal(net[0].weight != 0, ~ones["0.weight"])


def test_masks_of_a_part_are_those_of_the_whole() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)))
    masks = random_masks(net)
    apply_masks(net[1], {"0.weight": masks["1.0.weight"]})
    assert list(applied_masks(net)) == ["1.0.weight"] and torch.equal(applied_masks(net)["1.0.weight"], masks["1.0.weight"])
    assert list(applied_masks(net[1][0])) == ["weight"] and applied_masks(net[0]) == {}
    assert_pruned_zero(lower(net, {}), {"1.0.weight": masks["1.0.weight"]})


def test_a_write_of_your_own_is_undone_by_the_next_step() -> None:
    """No hook of torch sees it; the masks applied again, or a step of an optimizer, zero it."""
    net = nn.Linear(3, 2, bias=False)
    masks = {"weight": torch.tensor([[True, False, True], [False, True, False]])}
    apply_masks(net, masks)
    stepper = torch.optim.SGD(net.parameters(), 0.1)
    for undo in (stepper.step, lambda: apply_masks(net, masks)):
        nn.init.ones_(net.weight)
        net(torch.ones(1, 3)).sum().backward()
        undo()
        assert_pruned_zero(net, masks)


def test_again_changes_nothing_and_other_masks_tighten() -> None:
    net, masks = applied("unet")
    before = copy.deepcopy(net.state_dict())
    apply_masks(apply_masks(net, masks), {key: torch.ones_like(mask) for key, mask in masks.items()})
    assert_equal(list(before.values()), list(net.state_dict().values()))
    hooks = [len(p._backward_hooks) for p in net.parameters()]
    assert hooks == [1] * len(hooks)
    other = random_masks(net, seed=9)
    apply_masks(net, other)
    train(net, "unet", torch.optim.SGD(net.parameters(), 0.1))
    assert_pruned_zero(net, {key: mask & masks[key] for key, mask in other.items()})
    assert_equal(list(masks.values()), list(random_masks(build("unet")).values()))


def test_the_gradient_held_before_is_masked() -> None:
    net = build("unet")
    call(net, CASES["unet"].inputs(2))[0].sum().backward()
    masks = random_masks(net)
    apply_masks(net, masks)
    assert all(not p.grad[~masks[key]].any() for key, p in net.named_parameters() if p.grad is not None)


def test_a_frozen_parameter_is_masked_when_thawed() -> None:
    net = nn.Linear(4, 4).requires_grad_(False)
    masks = random_masks(net)
    apply_masks(net, masks)
    assert not net.weight.requires_grad
    net.requires_grad_(True)
    net(torch.ones(1, 4)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert_pruned_zero(net, masks)


def test_masks_follow_the_type() -> None:
    net, masks = applied("unet")
    net.double()
    net(CASES["unet"].inputs(2).double()).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert_pruned_zero(net, masks)


@pytest.mark.parametrize("name", ["unet", "tied", "attention"])
def test_lower_keeps_masks_that_were_applied(name: str) -> None:
    net, masks = applied(name)
    other = random_masks(net, seed=9)
    masked = lower(net, other)
    both = {key: mask & masks[key] for key, mask in other.items()}
    assert all(torch.equal(masked.masks[key], mask) for key, mask in both.items())
    train(masked, name, torch.optim.AdamW(masked.parameters(), 0.1))
    masked.load_state_dict(build(name).state_dict())
    assert_pruned_zero(masked, both)


@pytest.mark.parametrize("name", ["tied", "attention"])
def test_compile_aot_eager(name: str) -> None:
    torch._dynamo.reset()
    net, masks = applied(name)
    compiled = torch.compile(net, backend="aot_eager")
    train(compiled, name, torch.optim.AdamW(net.parameters(), 0.1))
    assert_pruned_zero(net, masks)


def test_masking_leaves_no_reference_behind() -> None:
    import gc
    import weakref

    net = nn.Linear(3, 3)
    apply_masks(net, random_masks(net))
    seen = weakref.ref(net.weight)
    del net
    gc.collect()
    assert seen() is None
