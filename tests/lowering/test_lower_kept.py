"""Pruned weights stay at zero, of lowered and of masked networks, whatever trains them, writes to them or takes their place."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import apply_masks, lower
from pkcompiler.lowering.apply import applied_masks, forget_masks, replace_masks

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)
KINDS = {"lowered": lower, "masked": apply_masks}


class Net(nn.Module):
    """A convolution whose channels meet a tied weight, and an attention whose output weight its own module never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attend = nn.Linear(4, 4, bias=False), nn.MultiheadAttention(4, 1, batch_first=True)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return self.out(self.attend(x, x, x, need_weights=False)[0])


def build(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def masks_of(net: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in net.named_parameters() if p.dim() == 2}


def optimizer_of(name: str, net: nn.Module) -> torch.optim.Optimizer:
    kind = getattr(torch.optim, name)
    decay = {} if name in ("LBFGS", "Rprop", "SparseAdam") else {"weight_decay": 0.1}
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    parameters = [p for p in net.parameters() if p.dim() == 2]
    return kind(parameters, lr=0.1, **decay, **momentum)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2, scale: float = 1.0) -> None:
    sparse = isinstance(optimizer, torch.optim.SparseAdam)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(3, 2, 4, generator=generator)

        def closure(x: Tensor = x) -> Tensor:
            net.zero_grad()
            loss = (net(x).square().sum() * scale).sum()
            loss.backward()
            for p in net.parameters():
                p.grad = p.grad.to_sparse() if sparse and p.grad is not None else p.grad
            return loss

        optimizer.step(closure)


def assert_zero(net: nn.Module, masks: dict[str, Tensor]) -> None:
    for tensors in (dict(net.named_parameters()), net.state_dict()):
        assert masks and all(not tensors[name].detach()[~mask].any() for name, mask in masks.items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_of_torch_leaves_them_at_zero(kind: str, optimizer: str) -> None:
    """Also those whose steps move a weight of zero gradient, and with momentum from before the masks."""
    net = build()
    masks = masks_of(net)
    stepper = optimizer_of(optimizer, net)
    if kind == "masked":
        train(net, stepper)
        apply_masks(net, masks)
    else:
        net = lower(net, masks)
        stepper = optimizer_of(optimizer, net)
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):
        train(net, stepper, steps=1)
        assert_zero(net, masks)
    assert any(not torch.equal(before[name], p) for name, p in net.named_parameters())
    stepper.load_state_dict(copy.deepcopy(stepper.state_dict()))
    train(net, stepper, steps=1)
    assert_zero(net, masks)


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_dict_holds_what_anybody_wrote(kind: str) -> None:
    net = build()
    masks = masks_of(net)
    kept = KINDS[kind](net, masks)
    whole = nn.ModuleDict({"inside": kept})
    for write in (nn.init.ones_, lambda w: w.data.fill_(float("nan")), lambda w: setattr(w, "data", torch.ones_like(w))):
        for parameter in kept.parameters():
            with torch.no_grad():
                write(parameter)
        for part, prefix in ((whole, "inside."), (kept, ""), (kept.get_submodule("attend"), None)):
            state = part.state_dict()
            for name, mask in masks.items():
                inside = name.removeprefix("attend.") if prefix is None else prefix + name
                assert inside not in state or not state[inside][~mask].any()
    saved = io.BytesIO()
    torch.save(kept.state_dict(), saved)
    saved.seek(0)
    assert_zero_state(torch.load(saved, weights_only=True), masks)


def assert_zero_state(state: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
    assert all(not state[name][~mask].any() for name, mask in masks.items())


def test_a_state_dict_between_forward_and_backward_disturbs_neither() -> None:
    net = apply_masks(build(), masks_of(build()))
    loss = net(torch.randn(3, 2, 4)).sum()
    net.state_dict()
    loss.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_zero_before_they_are_read(kind: str) -> None:
    """By clipping, by their norm, gathered over batches."""
    net = build()
    masks = masks_of(net)
    kept = KINDS[kind](net, masks)
    for _ in range(2):
        kept(torch.randn(3, 2, 4)).square().sum().backward()
    kept_norm = torch.cat([p.grad[masks[n]] if n in masks else p.grad.flatten() for n, p in kept.named_parameters()]).norm()
    assert torch.allclose(nn.utils.clip_grad_norm_(kept.parameters(), 1.0), kept_norm)
    assert all(not p.grad[~masks[n]].any() for n, p in kept.named_parameters() if n in masks)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_zero_whatever_hooks_were_added_later(kind: str) -> None:
    net = build()
    masks = masks_of(net)
    kept = KINDS[kind](net, masks)
    given = {}
    for name, parameter in kept.named_parameters():
        parameter.register_hook(lambda gradient, name=name: given.update({name: gradient}) or gradient + 1)
    kept(torch.randn(3, 2, 4)).sum().backward()
    assert any(given[name][~mask].any() for name, mask in masks.items()) == (kind == "masked")  # as docs/training.md says
    for name, mask in masks.items():
        gradient = kept.get_parameter(name).grad
        assert not gradient[~mask].any() and gradient[mask].all()


@contextmanager
def overwriting() -> Iterator[None]:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@contextmanager
def swapping() -> Iterator[None]:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def new_parameters(net: nn.Module) -> nn.Module:
    for module in net.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(torch.ones_like(parameter)))
    return net


def overwritten(net: nn.Module) -> nn.Module:
    with overwriting():
        return net.double().float()


def swapped(net: nn.Module) -> nn.Module:
    with swapping():
        return net.double().float()


def swapped_by_loading(net: nn.Module) -> nn.Module:
    with swapping():
        net.load_state_dict(build(5).state_dict())
    return net


def unpickled(net: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(net))


REPLACED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parameters": new_parameters,
    "overwritten": overwritten,
    "swapped": swapped,
    "swapped by loading": swapped_by_loading,
    "pickled": unpickled,
    "copied": copy.deepcopy,
    "copied, replaced": lambda net: new_parameters(copy.deepcopy(net)),
    "half": lambda net: net.half().float(),
    "averaged": lambda net: AveragedModel(net).module,
    "emptied": lambda net: net.to("meta").to_empty(device="cpu").apply(lambda m: None),
}


@pytest.mark.parametrize(("kind", "how"), [pair for pair in product(KINDS, REPLACED) if pair != ("lowered", "pickled")])
def test_parameters_that_take_their_place_are_masked(kind: str, how: str) -> None:
    net = build()
    masks = masks_of(net)
    kept = REPLACED[how](KINDS[kind](net, masks))
    if how == "emptied":
        kept.load_state_dict(build(3).state_dict())
    optimizer = torch.optim.Muon([p for p in kept.parameters() if p.dim() == 2], 0.1)
    outputs = kept(torch.ones(1, 2, 4))
    assert kind == "lowered" or all(not kept.get_parameter(n)[~mask].any() for n, mask in masks.items())
    outputs.square().sum().backward()
    assert all(not kept.get_parameter(n).grad[~mask].any() for n, mask in masks.items())
    optimizer.step()
    assert_zero(kept, masks)
    train(kept, torch.optim.SGD(kept.parameters(), 0.1, momentum=0.9))
    assert_zero(kept, masks)
    assert kind == "lowered" or applied_masks(kept).keys() >= masks.keys()


def test_an_optimizer_finds_replaced_parameters_without_any_call() -> None:
    net = build()
    masks = masks_of(net)
    new_parameters(apply_masks(net, masks))
    optimizer = torch.optim.Muon([p for p in net.parameters() if p.dim() == 2], 0.1)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_zero(net, masks)


def test_a_replaced_parameter_of_another_shape_is_refused_by_name_until_it_is_masked_again() -> None:
    net = apply_masks(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), {"0.weight": torch.eye(3)[:2] > 0})
    net[0].weight = nn.Parameter(torch.ones(2, 4))
    other = nn.Linear(2, 2)
    torch.optim.SGD(other.parameters(), 0.1).step()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for act in (lambda: net(torch.ones(1, 4)), optimizer.step, net.state_dict):
        with pytest.raises(PkcError, match=r"PKC471.*'0\.weight'.*\(2, 4\).*\(2, 3\)"):
            act()
    apply_masks(net, {"0.weight": torch.eye(4)[:2] > 0})
    assert net(torch.ones(1, 4)).shape == (1, 2) and net[0].weight.count_nonzero() == 2
    net[0].weight = nn.Parameter(torch.ones(2, 5))
    assert apply_masks(net, {})(torch.ones(1, 5)).shape == (1, 2) and applied_masks(net) == {}


@pytest.mark.parametrize("computed", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["hook", "parametrization"])
def test_a_parameter_that_is_taken_apart_is_refused_by_name_until_it_is_masked_again(computed) -> None:
    net = apply_masks(nn.Sequential(nn.Linear(3, 3)), {"0.weight": torch.eye(3) > 0})
    computed(net[0])
    with pytest.raises(PkcError, match=r"PKC470.*'0\.weight' any more"):
        net(torch.ones(1, 3))
    name = next(n for n, p in net.named_parameters() if p.shape == (3, 3))
    apply_masks(net, {name: torch.eye(3) > 0})
    assert net(torch.ones(1, 3)).isfinite().all() and net.get_parameter(name).count_nonzero() == 3


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrization_over_a_masked_weight_keeps_its_mask() -> None:
    net = apply_masks(nn.Sequential(nn.Linear(3, 3)), {"0.weight": torch.eye(3) > 0})
    parametrize.register_parametrization(net[0], "weight", Doubled())
    optimizer = torch.optim.Muon([net[0].parametrizations.weight.original], 0.1)
    for _ in range(2):
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert torch.equal(net[0].weight != 0, torch.eye(3) > 0)
    nn.init.ones_(net[0].parametrizations.weight.original)
    assert net.state_dict()["0.parametrizations.weight.original"].count_nonzero() == 3
    parametrize.remove_parametrizations(net[0], "weight")
    optimizer = torch.optim.Muon([net[0].weight], 0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(net[0].weight != 0, torch.eye(3) > 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_networks_keep_zeros_in_one_graph_also_after_a_compiled_step() -> None:
    torch._dynamo.reset()
    net = build()
    masks = masks_of(net)
    compiled = torch.compile(apply_masks(net, masks), backend="eager", fullgraph=True)
    train(compiled, optimizer_of("Muon", net))
    assert_zero(net, masks)
    step = torch.compile(optimizer_of("Muon", net).step, backend="eager")
    compiled(torch.randn(3, 2, 4)).square().sum().backward()
    step()
    assert all(not net.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_compiled_networks_find_replaced_parameters() -> None:
    torch._dynamo.reset()
    net = build()
    masks = masks_of(net)
    compiled = torch.compile(apply_masks(net, masks), backend="eager")
    x = torch.randn(3, 2, 4)
    compiled(x)
    new_parameters(net)
    first, masked = compiled(x), net(x)
    assert torch.allclose(first, masked)
    assert_zero(net, masks)


def test_tensors_in_the_place_of_parameters_are_left_alone() -> None:
    """Those of ``functional_call``, and of an ensemble over it."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    given = {name: p.detach().clone() for name, p in net.named_parameters()}
    apply_masks(net, masks_of(net))
    before, x = copy.deepcopy(given), torch.randn(3, 4)
    torch.func.functional_call(net, given, (x,))
    assert all(torch.equal(before[name], tensor) for name, tensor in given.items())
    stacked, _ = torch.func.stack_module_state([net, copy.deepcopy(net)])
    base = copy.deepcopy(net).to("meta")
    both = torch.func.vmap(lambda p: torch.func.functional_call(base, p, (x,)))(stacked)
    assert torch.allclose(both[0], net(x), atol=1e-6)


def test_maskings_one_after_the_other_share_one_hook_and_tighten() -> None:
    net = build()
    one, two = masks_of(net), masks_of(net, seed=2)
    for masks in (one, two, one):
        apply_masks(net, masks)
    both = {name: mask & two[name] for name, mask in one.items()}
    assert all(torch.equal(applied_masks(net)[name], mask) for name, mask in both.items())
    assert [len(p._backward_hooks) for p in net.parameters() if p.dim() == 2] == [1] * len(both)
    assert all(len(m._forward_pre_hooks) <= 1 and len(m._state_dict_pre_hooks) <= 1 for m in net.modules())
    replace_masks(net, two)
    assert all(torch.equal(applied_masks(net)[name], mask) for name, mask in two.items())


def test_masks_are_forgotten_without_a_trace_on_modules() -> None:
    net, plain = apply_masks(build(), masks_of(build())), build()
    forget_masks(net)
    for part, other in zip(net.modules(), plain.modules(), strict=True):
        hooks = ("_forward_pre_hooks", "_state_dict_pre_hooks", "_load_state_dict_post_hooks")
        assert vars(part).keys() == vars(other).keys() and not any(vars(part)[kind] for kind in hooks)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_holds_a_kept_network(kind: str) -> None:
    kept = KINDS[kind](build(), masks_of(build()))
    seen = weakref.ref(kept.get_parameter("out.weight")), weakref.ref(kept)
    del kept
    gc.collect()
    assert seen[0]() is None and seen[1]() is None


LATER: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "emptied, loaded": lambda net, state: net.to_empty(device="cpu").load_state_dict(state),
    "assigned": lambda net, state: net.load_state_dict(state, assign=True),
}


@pytest.mark.parametrize("how", LATER)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True], ids=["built on meta", "moved to meta"])
def test_models_without_values_get_them_after_their_masks(kind: str, how: str, moved: bool) -> None:
    masks, state = {"0.weight": torch.eye(3)[:2] > 0}, nn.Sequential(nn.Linear(3, 2), nn.ReLU()).state_dict()
    with torch.device("cpu" if moved else "meta"):
        net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    kept = KINDS[kind](net, masks)
    LATER[how](kept.to("meta") if moved else kept, state)
    expected = torch.relu(torch.ones(1, 3) @ torch.where(masks["0.weight"], state["0.weight"], 0).T + state["0.bias"])
    assert torch.allclose(kept(torch.ones(1, 3)), expected)
    assert_zero(kept, masks)
    kept(torch.ones(1, 3)).sum().backward()
    assert not kept.get_parameter("0.weight").grad[~masks["0.weight"]].any()
