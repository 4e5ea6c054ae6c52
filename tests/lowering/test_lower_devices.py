"""Lowered and masked networks where real training happens: several processes, compiled, on a GPU."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pkcompiler.lowering import apply_masks, lower
from tests.lowering.lower_models import CASES, build, call, masked_eager, random_masks
from tests.lowering.test_lower import assert_equal, assert_pruned_zero

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def kinds(name: str) -> list[nn.Module]:
    """Fresh: the lowered network and the user's own, masked in place."""
    net = build(name)
    return [lower(net, random_masks(net), CASES[name].inputs(2)), apply_masks(net, random_masks(net))]


def train_distributed(rank: int, world: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        for index, net in enumerate(kinds(name)):
            parallel = DistributedDataParallel(net.train())
            optimizer = torch.optim.AdamW(parallel.parameters(), 0.01)
            for step in range(2):
                optimizer.zero_grad()
                torch.manual_seed(10 * step + rank)
                sum(out.square().mean() for out in call(parallel, CASES[name].inputs(3), seed=step + rank)).backward()
                optimizer.step()
            torch.save(dict(net.named_parameters()), f"{folder}/{index}-{rank}.pt")
    finally:
        dist.destroy_process_group()


def assert_trained_alike(folder: Path, name: str, world: int) -> None:
    for index in range(2):
        each = [torch.load(folder / f"{index}-{rank}.pt", weights_only=True) for rank in range(world)]
        assert all(torch.equal(a, b) for other in each for a, b in zip(each[0].values(), other.values(), strict=True))
        start = build(name)
        for key, mask in random_masks(start).items():
            assert not each[0][key][~mask].any()
        assert any(not torch.equal(each[0][key], p) for key, p in masked_eager(start, random_masks(start)).named_parameters())


@pytest.mark.parametrize("name", ["weight_norm", "branching", "old_weight_norm"])
def test_distributed_in_one_process(name: str, tmp_path: Path) -> None:
    train_distributed(0, 1, str(tmp_path), name)
    assert_trained_alike(tmp_path, name, 1)


def test_distributed_over_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_distributed, (2, str(tmp_path), "branching"), nprocs=2)
    assert_trained_alike(tmp_path, "branching", 2)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compile_inductor() -> None:
    torch._dynamo.reset()
    name = "branching"
    net, masks = kinds(name)[0].eval(), random_masks(build(name))
    inputs = CASES[name].inputs(3)
    outputs = call(torch.compile(net, backend="inductor"), inputs)
    assert torch.allclose(outputs[0], call(copy.deepcopy(net), inputs)[0], atol=1e-5)
    outputs[0].sum().backward()
    assert all(not p.grad[~masks[key]].any() for key, p in net.named_parameters() if p.grad is not None)
    assert net.get_parameter("inner.weight").grad.any()


@pytest.mark.cuda
@NEEDS_CUDA
@pytest.mark.parametrize("name", ["resnet20", "sequences", "attention", "tied", "branching", "gpt2"])
def test_cuda_keeps_zeros_and_follows_the_masked_model(name: str) -> None:
    masks = random_masks(build(name))
    inputs = torch.utils._pytree.tree_map(lambda t: t.cuda(), CASES[name].inputs(3))
    eager = masked_eager(build(name), masks).cuda().eval()
    for net in kinds(name):
        net.cuda().eval()
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(call(eager, inputs), call(net, inputs), strict=True))
        for optimizer in (torch.optim.SGD(net.parameters(), 0.01, momentum=0.9), torch.optim.AdamW(net.parameters(), fused=True)):
            for scale in (1.0, 1.0, float("inf")):
                optimizer.zero_grad()
                (sum(out.square().mean() for out in call(net.train(), inputs) if out.is_floating_point()) * scale).backward()
                assert all(not p.grad[~masks[key].cuda()].any() for key, p in net.named_parameters() if p.grad is not None)
                if scale == 1:
                    optimizer.step()
            assert_pruned_zero(net.cpu(), masks)
            net.cuda()


@pytest.mark.cuda
@NEEDS_CUDA
def test_cuda_and_back() -> None:
    for name in ("tied", "branching", "gpt2"):
        masked, twin = kinds(name)[0].eval(), kinds(name)[0].eval()
        masked.cuda()
        assert all(mask.is_cuda and mask.dtype == torch.bool for mask in masked.masks.values())
        inputs = CASES[name].inputs(2)
        assert_equal(call(twin, inputs), call(masked.cpu(), inputs))
        assert all(p.device.type == "cpu" for p in copy.deepcopy(masked).buffers())
