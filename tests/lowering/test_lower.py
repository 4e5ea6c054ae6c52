"""The laws of ``lower`` over real networks: equal outputs to the bit, equal keys, and zeros that stay."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import Lowered, ModePair, lower
from tests.lowering.lower_models import CASES, build, call, masked_eager, random_masks

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}
SMALL = sorted(set(CASES) - {"densenet40", "mobilenetv2", "resnet20", "bert"})


def lowered(name: str, **changes: float):
    net = build(name)
    return lower(net, random_masks(net, **changes), CASES[name].inputs(2)), random_masks(net, **changes)


def copied(name: str):
    """A copy, whole and separate as the test of it holds, of what is lowered once."""
    masked, masks = once(name)
    return copy.deepcopy(masked), masks


once = cache(lowered)


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b) > 0
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_pruned_zero(net: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    parameters = dict(net.named_parameters())
    assert masks and all(not parameters[name][~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_statistics_equal_the_masked_model(name: str) -> None:
    net, (masked, masks) = build(name), lowered(name)
    masked_eager(net, masks)
    assert masked.training == net.training
    for mode, batch in ((True, 3), (False, 3), (True, 2), (False, 1)):
        inputs = CASES[name].inputs(batch)
        assert_equal(call(net.train(mode), inputs), call(masked.train(mode), inputs))
        assert_equal(list(net.state_dict().values()), list(masked.state_dict().values()))


@pytest.mark.parametrize("name", CASES)
def test_kind_keys_and_order_are_those_of_the_dense_model(name: str) -> None:
    net, (masked, _) = build(name), lowered(name)
    assert isinstance(masked, Lowered if CASES[name].kind == "graph" else ModePair)
    assert getattr(masked, "static_batch", None) is None
    assert list(masked.state_dict()) == list(net.state_dict())
    assert [n for n, _ in masked.named_parameters()] == [n for n, _ in net.named_parameters()]
    names = [n for n, _ in net.named_parameters(remove_duplicate=False)]
    assert [n for n, _ in masked.named_parameters(remove_duplicate=False)] == names


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_shared_with_the_given_model(name: str) -> None:
    net = build(name).train(False)
    before = copy.deepcopy(net.state_dict())
    masked = lower(net, random_masks(net), CASES[name].inputs(2))
    assert not masked.training and not net.training
    storages = {t.data_ptr() for t in (*net.parameters(), *net.buffers()) if t.numel()}
    assert not storages & {t.data_ptr() for t in (*masked.parameters(), *masked.buffers())}
    call(masked.train(), CASES[name].inputs(3))
    assert_equal(list(before.values()), list(net.state_dict().values()))


@pytest.mark.parametrize("name", SMALL)
def test_dense_checkpoints_load_and_are_masked(name: str) -> None:
    masked, masks = copied(name)
    other = build(name, seed=5)
    assert not masked.load_state_dict(other.state_dict(), strict=True).missing_keys
    assert_pruned_zero(masked, masks)
    inputs = CASES[name].inputs(3)
    assert_equal(call(masked_eager(other, masks).eval(), inputs), call(masked.eval(), inputs))
    back = build(name, seed=7)
    back.load_state_dict(masked.state_dict(), strict=True)
    assert_equal(call(back.eval(), inputs), call(masked, inputs))


@pytest.mark.parametrize("name", SMALL)
def test_forward_is_masked_whatever_is_stored(name: str) -> None:
    masked, masks = copied(name)
    inputs = CASES[name].inputs(2)
    want = call(masked.eval(), inputs)
    with torch.no_grad():
        for key, parameter in masked.named_parameters():
            parameter[~masks[key]] = float("nan")
    assert_equal(want, call(masked, inputs))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["unet", "sequences", "attention", "tied", "weight_norm", "branching", "gpt2"])
def test_training_keeps_zeros_and_follows_the_masked_model(name: str, optimizer: str) -> None:
    """The oracle trains the eager class, its gradients and weights multiplied by the masks at every step."""
    masked, masks = copied(name)
    eager = masked_eager(build(name), masks).train()
    ours, theirs = OPTIMIZERS[optimizer](masked.train().parameters()), OPTIMIZERS[optimizer](eager.parameters())
    for step in range(3):
        inputs = CASES[name].inputs(4)
        for net, stepper in ((masked, ours), (eager, theirs)):
            stepper.zero_grad()
            sum(out.square().mean() for out in call(net, inputs, seed=step) if out.is_floating_point()).backward()
            if net is eager:
                for key, parameter in net.named_parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(masks[key])
            stepper.step()
        assert_pruned_zero(masked, masks)
        masked_eager(eager, masks)
    pairs = zip(masked.parameters(), eager.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(masked.parameters(), build(name).parameters(), strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_exactly_zero_under_infinite_upstream_gradients(name: str) -> None:
    masked, masks = copied(name)
    (sum(out.sum() for out in call(masked, CASES[name].inputs(2)) if out.is_floating_point()) * float("inf")).backward()
    gradients = {key: p.grad for key, p in masked.named_parameters() if p.grad is not None}
    assert gradients and any(not g.isfinite().all() for g in gradients.values())
    assert all(not gradients[key][~masks[key]].any() for key in gradients)


@pytest.mark.parametrize("name", SMALL)
def test_deepcopy_is_whole_and_separate(name: str) -> None:
    masked, masks = lowered(name)
    inputs = CASES[name].inputs(3)
    twin = copy.deepcopy(copy.deepcopy(masked))
    assert list(twin.state_dict()) == list(masked.state_dict()) and twin.masks.keys() == masked.masks.keys() == masks.keys()
    assert not {t.data_ptr() for t in twin.buffers()} & {t.data_ptr() for t in masked.buffers()}
    assert_equal(call(masked.eval(), inputs), call(twin.eval(), inputs))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    twin.load_state_dict(twin.state_dict())
    assert_pruned_zero(twin, masks)
    assert_equal(call(masked, inputs), call(lowered(name)[0].eval(), inputs))
    assert any(not torch.equal(x, y) for x, y in zip(call(masked, inputs), call(twin, inputs), strict=True))


@pytest.mark.parametrize("name", sorted({*SMALL, "resnet20", "bert"} - {"gpt2", "lstm_root"}))
def test_masks_follow_the_type_and_stay_bool(name: str) -> None:
    masked, masks = copied(name)
    assert all(torch.equal(masked.double().masks[key], mask) for key, mask in masks.items())
    net = masked_eager(build(name), masks).double().eval()
    inputs = torch.utils._pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, CASES[name].inputs(2))
    assert_equal(call(net, inputs), call(masked.eval(), inputs))
    assert all(mask.dtype == torch.bool for mask in masked.half().masks.values())
    assert all(p.dtype == torch.float16 for p in masked.parameters())
    assert not any("mask" in key for key in masked.state_dict())


@pytest.mark.parametrize("name", ["gpt2", "lstm_root"])
def test_a_recorded_type_is_not_changed_silently(name: str) -> None:
    masked, masks = lowered(name)
    with pytest.raises(PkcError, match=r"PKC277.*recorded in torch.float32"):
        masked.half()
    assert all(p.dtype == torch.float32 for p in masked.float().parameters())
    inputs = CASES[name].inputs(2)
    assert_equal(call(masked_eager(build(name), masks).eval(), inputs), call(masked.eval(), inputs))


@pytest.mark.parametrize("name", ["resnet20", "tied", "sequences", "attention", "weight_norm", "branching", "bert"])
def test_partial_masks_leave_the_rest_alone(name: str) -> None:
    net = build(name)
    some = dict(list(random_masks(net).items())[::2])
    masked = lower(net, some, CASES[name].inputs(2))
    inputs = CASES[name].inputs(3)
    assert masked.masks.keys() == some.keys()
    assert_equal(call(masked_eager(build(name), some).eval(), inputs), call(masked.eval(), inputs))
    assert_equal(call(build(name).eval(), inputs), call(lower(net, {}, CASES[name].inputs(2)).eval(), inputs))


@pytest.mark.parametrize("name", ["out.weight", "embed.weight"])
def test_a_tied_parameter_has_one_mask_under_its_first_name(name: str) -> None:
    net, masks = build("tied"), random_masks(build("tied"))
    masked = lower(net, {name: masks["embed.weight"], "again.bias": masks["body.bias"]})
    assert list(masked.masks) == ["embed.weight", "body.bias"]
    assert masked.out.weight is masked.embed.weight
    wheres = [node for node in masked.graph.nodes if node.target is torch.where]
    assert len(wheres) == 2


def test_masked_layers_are_plain_functions_in_the_graph() -> None:
    masked, _ = lowered("resnet20")
    assert not [n for n in masked.graph.nodes if n.op == "call_module" and isinstance(masked.get_submodule(n.target), nn.Conv2d)]
    assert sum(node.target is torch.conv2d for node in masked.graph.nodes) == 21


@pytest.mark.parametrize("name", ["unet", "sequences", "tied", "attention", "branching"])
def test_lowering_a_lowered_network_tightens(name: str) -> None:
    net = build(name)
    first = lower(net, dict(list(random_masks(net).items())[::2]), CASES[name].inputs(2))
    masks = {key: mask & torch.rand(mask.shape).gt(0.3) for key, mask in random_masks(net).items()}
    inputs = CASES[name].inputs(2)
    second = lower(first, masks, inputs)
    with torch.no_grad():
        for key, parameter in second.named_parameters():
            parameter[~masks[key]] = float("nan")
    assert_equal(call(masked_eager(net, masks).eval(), inputs), call(second.eval(), inputs))
    assert list(second.state_dict()) == list(first.state_dict())
    assert isinstance(second, Lowered) == isinstance(first, Lowered)


@pytest.mark.parametrize("name", ["unet", "sequences", "weight_norm"])
def test_an_fx_interpreter_runs_the_graph(name: str) -> None:
    masked, _ = lowered(name)
    inputs = CASES[name].inputs(2)
    want = call(copy.deepcopy(masked), inputs)
    torch.manual_seed(2)
    assert torch.equal(torch.fx.Interpreter(masked).run(inputs), want[0])


@pytest.mark.parametrize("name", ["unet", "tied", "attention", "weight_norm", "branching"])
def test_compile_aot_eager(name: str) -> None:
    torch._dynamo.reset()
    masked, masks = lowered(name)
    inputs, twin = CASES[name].inputs(2), copy.deepcopy(masked)
    compiled = torch.compile(masked.eval(), backend="aot_eager")
    outputs = call(compiled, inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs, call(twin.eval(), inputs), strict=True))
    sum(out.sum() for out in outputs if out.is_floating_point()).backward()
    assert all(not p.grad[~masks[key]].any() for key, p in masked.named_parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in masked.parameters())
