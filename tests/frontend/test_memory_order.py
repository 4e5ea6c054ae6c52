"""What lies in memory in another order than that of its positions is pruned as its contiguous copy is, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pkcompiler

SAMPLES = (torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(3)), torch.arange(8) % 6)
PASSES = ("synflow", "synflow-l2", "px", "path-kernel-trace", "synflow-dist", "snip", "grasp", "ntk-sap", "prospr", "phew")


class Net(nn.Module):
    """A convolution, two linear layers, and a buffer that scales."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.wide, self.head = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("scale", torch.arange(1.0, 7.0).expand(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3)) * self.scale
        return self.head(torch.relu(self.wide(x)))


def transposed(net: Net) -> Net:
    net.wide.weight = nn.Parameter(net.wide.weight.detach().t().contiguous().t())
    return net


def sliced(net: Net) -> Net:
    big = torch.zeros(12, 18)
    big[::2, ::3] = net.wide.weight.detach()
    net.wide.weight = nn.Parameter(big[::2, ::3])
    return net


def tied(net: Net) -> Net:
    net.wide.weight = nn.Parameter(net.head.weight.t())
    return net


def expanded(net: Net) -> Net:
    net.wide.weight = nn.Parameter(net.wide.weight.detach()[:1].expand(6, 6))
    return net


def channels_last(net: Net) -> Net:
    return net.to(memory_format=torch.channels_last)


LAYOUTS = (channels_last, transposed, sliced, tied, expanded)


def contiguous(net: Net) -> Net:
    """The same with every entry in memory where its position says."""
    out = copy.deepcopy(net)
    for tensor in (*out.parameters(), *out.buffers()):
        tensor.data = tensor.data.contiguous()
    return out


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_masks_are_those_of_the_contiguous_model(layout) -> None:
    net = layout(Net().eval())
    strides = {n: p.stride() for n, p in net.named_parameters()}
    plain, x = contiguous(net), SAMPLES[0][:1]
    assert layout is sliced or any(a.stride() != b.stride() for a, b in zip(net.parameters(), plain.parameters(), strict=True))
    for name in PASSES if layout is channels_last else ("synflow", "ntk-sap"):
        rounds = None if name == "phew" else 3
        found, wanted = (pkcompiler.prune(m, x, name, density=0.5, rounds=rounds, data=SAMPLES).masks for m in (net, plain))
        assert {n: int((m != wanted[n]).sum()) for n, m in found.items()} == dict.fromkeys(wanted, 0), name
    assert {n: p.stride() for n, p in net.named_parameters()} == strides


@pytest.mark.parametrize("layout", [channels_last, transposed], ids=lambda f: f.__name__)
def test_in_float64_and_with_masks_of_the_same_layout(layout) -> None:
    """The model needs no copy for its precision, and masks made by ``ones_like`` lie as it does."""
    net = layout(Net().eval().double())
    masks = {"wide.weight": torch.ones_like(net.wide.weight, dtype=torch.bool), "conv.weight": net.conv.weight > -0.1}
    x, y = SAMPLES[0].double().to(memory_format=torch.channels_last), SAMPLES[1]
    plain = contiguous(net)
    for name in ("synflow", "px"):
        found = pkcompiler.prune(net, x[:1], name, density=0.5, rounds=3, data=(x, y), masks=masks)
        wanted = pkcompiler.prune(plain, x[:1].contiguous(), name, density=0.5, rounds=3, data=(x.contiguous(), y), masks=masks)
        assert all(torch.equal(m, wanted.masks[n]) for n, m in found.masks.items()), name


def test_fresh_models_of_a_factory_may_lie_as_they_like() -> None:
    text = 'pass own { source = "a test"  let R = paths(edge = abs(theta))  score = abs(theta * grad(R, theta))  init = fresh }'

    def make(seed: int, layout: Callable[[Net], Net] = lambda net: net) -> nn.Module:
        torch.manual_seed(seed)
        net = Net()
        net.conv.weight.data.normal_()
        return layout(net).eval()

    given = (Net().eval(), SAMPLES[0][:1], text)
    plain = pkcompiler.prune(*given, density=0.5, rounds=3, initialise=make)
    found = pkcompiler.prune(*given, density=0.5, rounds=3, initialise=lambda seed: make(seed, channels_last))
    assert all(torch.equal(m, plain.masks[n]) for n, m in found.masks.items())


@pytest.mark.parametrize("layout", [channels_last, tied, expanded], ids=lambda f: f.__name__)
def test_artifacts_and_numbers(layout, tmp_path: Path) -> None:
    """The folder is written, read and put to use; the path norms and the certificate are those of the contiguous model."""
    net, x = layout(Net().eval()), SAMPLES[0][:2]
    plain = contiguous(net)
    pruned = pkcompiler.prune(net, x, "synflow", density=0.6, rounds=2)
    lowered = pkcompiler.load(pruned.save(tmp_path / "out")).lower(net).eval()
    masked = copy.deepcopy(plain)
    for name, mask in pruned.masks.items():
        masked.get_parameter(name).data.mul_(mask)
    torch.testing.assert_close(lowered(x), masked(x))
    found, wanted = (pkcompiler.path_functional(m, x, edge="theta^2") for m in (net, plain))
    assert (float(found.mantissa), found.exponent) == (float(wanted.mantissa), wanted.exponent)
    assert pkcompiler.certify(net, x).holds


@pytest.mark.parametrize("layout", [tied, expanded], ids=lambda f: f.__name__)
def test_masks_in_place_agree_where_memory_is_shared(layout) -> None:
    """What one mask drops, the other keeps: no zeros in place are both, and each has its own memory once it is lowered."""
    net, x = layout(Net().eval()), SAMPLES[0][:2]
    whole = torch.ones(6, 6, dtype=torch.bool)
    masks = {"wide.weight": whole.clone(), "head.weight": whole.clone()}
    masks["wide.weight"][0, 1] = masks["head.weight"][2, 1] = False
    before = net.state_dict()["wide.weight"].clone()
    with pytest.raises(pkcompiler.PkcError) as caught:
        pkcompiler.apply_masks(net, masks)
    (found,) = caught.value.diagnostics
    assert (found.code, "share" in found.message) == ("PKC473" if layout is tied else "PKC474", True)
    assert torch.equal(net.state_dict()["wide.weight"], before)
    masked = contiguous(net)
    for name, mask in masks.items():
        masked.get_parameter(name).data.mul_(mask)
    torch.testing.assert_close(pkcompiler.lower(net, masks, x)(x), masked(x))


def test_masks_of_transposed_ties_that_agree_are_applied() -> None:
    net = tied(Net().eval())
    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    pkcompiler.apply_masks(net, {"wide.weight": mask, "head.weight": mask.t()})
    assert torch.equal(net.wide.weight != 0, mask) and torch.equal(net.head.weight != 0, mask.t())


class Attention(nn.Module):
    """As it is written everywhere: the result of the kernel is laid out by position, then seen as one row a token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.view(*x.shape[:2], 2, 4).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(torch.nn.functional.glu(y.transpose(1, 2).contiguous().view(x.shape).repeat(1, 1, 2), -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_view_of_what_a_kernel_lays_out_its_own_way_lifts(dtype: torch.dtype) -> None:
    """``contiguous()`` does nothing on what flash attention gives, and export records nothing of it."""
    found = pkcompiler.certify(Attention().to(dtype), torch.randn(2, 5, 8, dtype=dtype))
    assert max(found.max_relative_error, found.max_gradient_error, found.max_autograd_error) < 1e-9
