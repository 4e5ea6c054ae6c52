"""Masks of networks that several processes hold together: ``fully_shard``, FSDP of the first version, tensor parallel layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from pkcompiler import prune
from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import apply_masks, lower, remove_masks
from pkcompiler.lowering.apply import replace_masks
from pkcompiler.training import load_schedule
from tests.lowering.lower_models import random_masks


class Net(nn.Module):
    """5 rows over 2 processes, an attention whose output weight no module of its own reads, a layer that is no group."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.attend = nn.Linear(3, 5), nn.MultiheadAttention(5, 1, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.out(self.attend(x, x, x, need_weights=False)[0].relu())


def build() -> tuple[Net, dict[str, Tensor]]:
    torch.manual_seed(0)
    net = Net()
    return net, {name: mask for name, mask in random_masks(net).items() if name.endswith("weight")}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """By an optimizer that moves zeros even of zero gradients; gradients and weights are looked at on the way."""
    optimizer = torch.optim.Muon([p for p in net.parameters() if p.dim() == 2], 0.1, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    before = [whole(p.detach()).clone() for p in net.parameters()]
    for _ in range(2):
        net.zero_grad()
        net(torch.randn(4, 2, 3, generator=generator)).square().sum().backward()
        for name, parameter in net.named_parameters():
            if name in masks:
                assert parameter.grad is not None and not whole(parameter.grad)[~masks[name]].any()
        optimizer.step()
        assert_zero(dict(net.named_parameters()), masks)
    assert any(not torch.equal(a, whole(b.detach())) for a, b in zip(before, net.parameters(), strict=True))


def assert_zero(tensors: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
    assert masks and all(not whole(tensors[name].detach())[~mask].any() for name, mask in masks.items())


def shard(net: Net) -> Net:
    for part in (net.attend, net.out):
        fully_shard(part)
    return fully_shard(net)


def masked_before_sharding() -> None:
    net, masks = build()
    shard(apply_masks(net, masks))
    train(net, masks)
    options = StateDictOptions(full_state_dict=True)
    dense = {name: torch.ones_like(whole(p.detach())) for name, p in net.named_parameters()}
    set_model_state_dict(net, dense, options=options)
    assert_zero(dict(net.named_parameters()), masks)
    with torch.no_grad():
        net.out.weight.add_(1.0)
    assert_zero(net.state_dict(), masks)
    found = get_model_state_dict(net, options=options)
    assert not found or any(t.any() for t in found.values())


def masked_after_sharding() -> None:
    net, masks = build()
    apply_masks(shard(net), masks)
    train(net, masks)


def lowered_then_sharded() -> None:
    net, masks = build()
    train(fully_shard(lower(net, masks, torch.randn(2, 2, 3))), masks)
    with pytest.raises(PkcError, match="PKC270") as error:
        lower(shard(net), masks)
    assert "apply_masks" in error.value.diagnostics[0].notes[0]


def gradients_are_gathered_over_batches() -> None:
    net, masks = build()
    shard(apply_masks(net, masks)).set_requires_gradient_sync(False)
    net(torch.randn(4, 2, 3)).sum().backward()
    net.set_requires_gradient_sync(True)
    train(net, masks)


def tightened_and_replaced_amid_training() -> None:
    net, masks = build()
    shard(apply_masks(net, masks))
    train(net, masks)
    fewer = {name: mask & (torch.arange(mask.shape[1]) % 2 == 0) for name, mask in masks.items()}
    apply_masks(net, fewer)
    assert_zero(dict(net.named_parameters()), fewer)
    train(net, fewer)
    train(replace_masks(net, masks), masks)


def held_while_weights_are_gathered() -> None:
    """A forward leaves its weights gathered, and an optimizer is made of these: they have no memory any more when it steps."""
    net, masks = build()
    fully_shard(apply_masks(net, masks), reshard_after_forward=False)
    with torch.no_grad():
        net(torch.randn(2, 2, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    assert_zero(net.state_dict(), masks)
    net.reshard()
    optimizer.step()
    train(net, masks)


def tensor_parallel() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    masks = {name: mask for name, mask in random_masks(net).items() if mask.dim() == 2}
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(apply_masks(net, masks), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        net(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        assert_zero(dict(net.named_parameters()), masks)


def first_version() -> None:
    """Pieces of flat parameters are refused before anything is trained, also where one process holds all of them."""
    net, masks = build()
    settings = {"use_orig_params": True, "device_id": torch.device("cpu")}
    plain, parallel = (FullyShardedDataParallel(each, **settings) for each in (build()[0], apply_masks(net, masks)))
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1, momentum=0.9)
    torch.optim.SGD(nn.Linear(2, 2).parameters()).step()
    for act in (lambda: apply_masks(plain.module, masks), lambda: parallel(torch.randn(4, 2, 3)), optimizer.step):
        with pytest.raises(PkcError, match=r"PKC474.*weight'") as error:
            act()
        assert "fully_shard" in error.value.diagnostics[0].notes[0]


def flat_without_names() -> None:
    """FSDP of the first version in its default way, where no parameter has its name: what works is said, whatever is tried."""
    settings, (net, masks) = {"use_orig_params": False, "device_id": torch.device("cpu")}, build()
    plain, lowered = FullyShardedDataParallel(build()[0], **settings), lower(net, masks, torch.randn(2, 2, 3))
    masked, around = (FullyShardedDataParallel(each, **settings) for each in (apply_masks(build()[0], masks), lowered))
    part = build()[0]
    part.out = FullyShardedDataParallel(part.out, **settings)
    named = {f"_fsdp_wrapped_module.{name}": mask for name, mask in masks.items()}
    for act in (
        lambda: apply_masks(plain, masks),
        lambda: apply_masks(plain, named),
        lambda: apply_masks(plain.module, masks),
        lambda: lower(plain, masks),
        lambda: apply_masks(part, masks),
        lambda: masked(torch.randn(4, 2, 3)),
        lambda: around(torch.randn(4, 2, 3)),
    ):
        with pytest.raises(PkcError, match=r"PKC470.*weight'") as error:
            act()
        assert "fully_shard(model)" in error.value.diagnostics[0].notes[0]


def taken_off_after_sharding() -> None:
    net, masks = build()
    shard(apply_masks(net, masks))
    train(net, masks)
    remove_masks(net)
    assert_zero(dict(net.named_parameters()), masks)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(torch.randn(4, 2, 3)).square().sum().backward()
    optimizer.step()
    assert whole(net.head.weight.detach())[~masks["head.weight"]].all()


def analysed_after_sharding() -> None:
    net = shard(build()[0])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = load_schedule("schedule s { prune magnitude { sparsity = 80% at = epochs(1..2) } }")
    x = torch.ones(1, 2, 3)
    for act in (lambda: schedule.cycles(net, optimizer, x, epochs=3), lambda: prune(net, x, "magnitude", density=0.5)):
        with pytest.raises(PkcError, match=r"PKC213.*is sharded over processes") as error:
            act()
        assert "before fully_shard" in str(error.value) and "__deepcopy__" not in str(error.value)


CASES = (
    analysed_after_sharding,
    flat_without_names,
    taken_off_after_sharding,
    masked_before_sharding,
    masked_after_sharding,
    lowered_then_sharded,
    gradients_are_gathered_over_batches,
    tightened_and_replaced_amid_training,
    held_while_weights_are_gathered,
    tensor_parallel,
    first_version,
)


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        for case in CASES:
            case()
        dist.barrier()  # none leaves while another still sends
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_pruned_weights_stay_zero_in_one_process(tmp_path: Path) -> None:
    work(0, 1, str(tmp_path))


def test_pruned_weights_stay_zero_in_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
