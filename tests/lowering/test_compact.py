"""Compact networks: the function, the gradients and the training of the masked one, over every way of joining units."""

from __future__ import annotations

import copy

import compact_models
import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler import PkcError

NAMES = list(compact_models.MODELS)


def close(one: Tensor, other: Tensor, part: float = 1e-12) -> bool:
    """Equal to a part of the largest entry."""
    one, other = one.detach(), other.detach()
    most = float(one.abs().max()) if one.numel() else 0.0
    return one.shape == other.shape and bool(((one - other).abs() <= part * max(most, 1e-12)).all())


def pair(name: str, density: float, seed: int, streams: str = "union") -> tuple[nn.Module, pkcompiler.Compact, tuple[Tensor, ...]]:
    """The masked network, its compact one, and inputs of another batch size than the example's."""
    model, inputs = compact_models.built(name)
    masks = compact_models.masks(model, density, seed)
    more = tuple(torch.cat([x, x[:1].roll(1, -1)]) for x in inputs)
    return pkcompiler.lower(model, masks, inputs), pkcompiler.compact(model, masks, inputs, streams=streams), more


@pytest.mark.parametrize("streams", ["union", "indexed"])
@pytest.mark.parametrize("density", [0.7, 0.15])
@pytest.mark.parametrize("name", NAMES)
def test_the_function_its_gradients_and_statistics_are_the_masked_networks(name: str, density: float, streams: str) -> None:
    masked, found, inputs = pair(name, density, seed=1, streams=streams)
    if density < 0.5:
        assert sum(p.numel() for p in found.module.parameters()) < sum(p.numel() for p in masked.parameters())
    assert close(masked.eval()(*inputs), found.module.eval()(*inputs))
    outputs = [network.train()(*inputs) for network in (masked, found.module)]
    assert close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    whole = {n: p.grad for n, p in masked.named_parameters()}
    most = max(float(g.abs().max()) for g in whole.values() if g is not None)
    for key, parameter in found.module.named_parameters():
        expected = found.cuts[key].take(whole[key]) if whole[key] is not None else torch.zeros_like(parameter)
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert (grad - expected).abs().max() <= 1e-12 * most, key
    buffers = dict(masked.named_buffers())
    for key, buffer in found.module.named_buffers():
        if "running" in key:
            assert close(found.cuts[key].take(buffers[key]), buffer), key


@pytest.mark.parametrize("name", ["residual", "up", "gpt"])
def test_streams_that_are_indexed_are_no_larger(name: str) -> None:
    sizes = [sum(p.numel() for p in pair(name, 0.15, seed=1, streams=s)[1].module.parameters()) for s in ("indexed", "union")]
    assert sizes[0] <= sizes[1]


@pytest.mark.parametrize("gate", [nn.Hardswish, nn.LogSigmoid, nn.RReLU, nn.GELU])
def test_what_computes_entry_by_entry_needs_no_zeros(gate: type[nn.Module]) -> None:
    """Torch does not tag all of them as pointwise."""
    model = nn.Sequential(nn.Linear(4, 12, bias=False), gate(), nn.Linear(12, 12, bias=False), gate(), nn.Linear(12, 3)).double()
    masks = {name: torch.ones_like(p).bool() for name, p in model.named_parameters()}
    masks["0.weight"][:6], masks["4.weight"][:, 3:9] = False, False
    found = pkcompiler.compact(model, masks, torch.randn(2, 4, dtype=torch.float64))
    assert found.report.put_back == () and found.gone.keys() >= {"2.weight", "4.weight"}


def test_streams_of_another_kind_are_refused() -> None:
    model, inputs = compact_models.built("residual")
    with pytest.raises(PkcError, match="PKC211"):
        pkcompiler.compact(model, {}, inputs, streams="joined")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["residual", "excited", "gpt", "lstm"])
def test_twenty_steps_are_the_masked_networks(name: str, optimizer: type[torch.optim.Optimizer]) -> None:
    masked, found, inputs = pair(name, 0.3, seed=2)
    for network in (masked.train(), found.module.train()):
        steps = optimizer(network.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(20):
            steps.zero_grad()
            network(*inputs).square().mean().backward()
            steps.step()
    state = masked.state_dict()
    for key, value in found.module.state_dict().items():
        if value.is_floating_point():
            assert close(found.cuts[key].take(state[key]), value, 1e-9), key


def test_states_go_there_and_back() -> None:
    model, inputs = compact_models.built("residual")
    found = pkcompiler.compact(model, compact_models.masks(model, 0.3, 3), inputs)
    dense = model.state_dict()
    small = found.shrink(dense)
    assert {n: t.shape for n, t in small.items()} == {n: t.shape for n, t in found.module.state_dict().items()}
    back = found.expand(small, base=dense)
    assert all(torch.equal(back[n], dense[n]) for n in dense)
    zeros = found.expand(small)
    assert all(int((zeros[n] != dense[n]).sum()) <= found.gone.get(n, 0) for n in dense)
    assert sum(found.gone.values()) > 0
    with pytest.raises(PkcError, match="PKC281"):
        found.shrink(small)


def test_states_of_optimizers_go_there_and_back() -> None:
    model, inputs = compact_models.built("residual")
    masks = compact_models.masks(model, 0.3, 3)
    found = pkcompiler.compact(model, masks, inputs)
    names = [n for n, _ in model.named_parameters()]

    def trained(network: nn.Module, state: object = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        steps = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
        if state is not None:
            steps.load_state_dict(state)
        for _ in range(3):
            steps.zero_grad()
            network.train()(*inputs).square().mean().backward()
            steps.step()
        return network, steps

    masked, steps = trained(pkcompiler.lower(model, masks, inputs))
    found.module.load_state_dict(found.shrink(masked.state_dict()))
    small, small_steps = trained(found.module, found.shrink_optimizer(steps.state_dict(), names))
    masked, steps = trained(masked, copy.deepcopy(steps.state_dict()))
    for key, value in small.state_dict().items():
        if value.is_floating_point():
            assert close(found.cuts[key].take(masked.state_dict()[key]), value, 1e-9), key
    back = found.expand_optimizer(small_steps.state_dict(), names, base=steps.state_dict())
    for key, entries in back["state"].items():
        assert all(
            close(entries[n], v, 1e-9) for n, v in steps.state_dict()["state"][key].items() if isinstance(v, Tensor) and v.dim()
        )
    with pytest.raises(PkcError, match="PKC282"):
        found.shrink_optimizer(steps.state_dict(), names[1:])
