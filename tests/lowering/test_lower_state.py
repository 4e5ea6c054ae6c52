"""State that a forward changes: a lowered network has the model's outputs and buffers after every call, or is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import Lowered, ModePair, apply_masks, lower

Forward = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A layer, buffers, and attributes that are none; its forward is what a test makes it."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.layer, self.norm, self.computed = nn.Linear(3, 3), nn.BatchNorm1d(3), forward
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("whole", torch.zeros((), dtype=torch.long), persistent=False)
        self.calls, self.seen, self.last, self.sum = 0, {"calls": [0]}, None, torch.zeros(3)
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return self.computed(self, x)


class Outer(nn.Module):
    """Calls a part with state twice, another once."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.a, self.b = Net(forward), Net(forward)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(self.a(x)))


def counted(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    net.whole = net.whole + 1
    return net.norm(net.layer(x)) + net.count * net.whole


def averaged(net: Net, x: Tensor) -> Tensor:
    h = net.layer(x)
    if net.training:
        net.mean = 0.9 * net.mean + 0.1 * h.mean(0)
    return h - net.mean


def added_in_place(net: Net, x: Tensor) -> Tensor:
    net.count.add_(1)
    net.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return net.layer(x) + net.count - net.mean


def returned_as_it_was(net: Net, x: Tensor) -> Tensor:
    before = net.mean
    net.mean = net.mean + x.mean(0)
    return net.layer(x) * before


def without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = net.layer(x).square().mean()
        net.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return net.layer(x) * scale - net.mean


def by_entries(net: Net, x: Tensor) -> Tensor:
    net.mean[0] = net.mean[0] + 1
    return net.layer(x) + net.mean


def through_the_list_of_buffers(net: Net, x: Tensor) -> Tensor:
    for buffer in net.buffers():
        buffer += 1
    return net.layer(x) + net.count


def into_a_fresh_tensor(net: Net, x: Tensor) -> Tensor:
    total = torch.zeros(3)
    total.add_(x.mean(0))
    return net.layer(x) + total


TRACED = [counted, averaged, added_in_place, returned_as_it_was]
EXPORTED = [without_gradients, by_entries, through_the_list_of_buffers, into_a_fresh_tensor]


def pair(forward: Forward, outer: bool, example: Tensor | None) -> tuple[nn.Module, Lowered | ModePair]:
    torch.manual_seed(0)
    net = Outer(forward) if outer else Net(forward)
    masks = {n: torch.rand(p.shape) < 0.5 for n, p in net.named_parameters() if n.endswith("layer.weight")}
    before = copy.deepcopy(net.state_dict())
    lowered = lower(net, masks, example)
    for state in (net.state_dict(), lowered.state_dict()):
        assert all(torch.equal(state[name], before[name]) for name in before if name not in masks)
    return apply_masks(net, masks), lowered


def assert_alike(net: nn.Module, lowered: nn.Module, calls: int = 5) -> None:
    """Outputs, gradients and buffers after every call, in both modes."""
    for mode in (True, False, True):
        for _ in range(calls):
            x = torch.randn(4, 3)
            outputs = [each.train(mode)(x) for each in (net, lowered)]
            assert torch.equal(*outputs)
            gradients = [
                torch.autograd.grad(y.sum(), list(n.parameters()), retain_graph=True, allow_unused=True)
                for y, n in zip(outputs, (net, lowered), strict=True)
            ]
            for a, b in zip(*gradients, strict=True):
                assert (a is None and b is None) or torch.allclose(a, b, atol=1e-6)
            assert all(torch.equal(buffer, lowered.get_buffer(name)) for name, buffer in net.named_buffers())


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "within"])
@pytest.mark.parametrize("forward", TRACED, ids=lambda f: f.__name__)
def test_buffers_are_kept_by_a_trace(forward: Forward, outer: bool) -> None:
    net, lowered = pair(forward, outer, None)
    assert_alike(net, lowered)
    again = lower(lowered, {}, torch.randn(4, 3))
    for module in net.modules():
        module._buffers = {name: buffer.detach() for name, buffer in module._buffers.items()}  # as of any copy
    assert_alike(net, again, calls=1)


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "within"])
@pytest.mark.parametrize("forward", [*EXPORTED, averaged], ids=lambda f: f.__name__)
def test_buffers_are_kept_by_an_export(forward: Forward, outer: bool) -> None:
    if forward is not averaged:
        with pytest.raises(PkcError, match="PKC272"):
            pair(forward, outer, None)
    assert_alike(*pair(forward, outer, torch.randn(4, 3)))


def python_counter(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return net.layer(x) * net.calls


def list_of_calls(net: Net, x: Tensor) -> Tensor:
    net.seen["calls"].append(1)
    return net.layer(x)


def last_output(net: Net, x: Tensor) -> Tensor:
    net.last = net.layer(x)
    return net.last


def plain_tensor(net: Net, x: Tensor) -> Tensor:
    net.sum = net.sum + x.mean(0)
    return net.layer(x) + net.sum


def own_generator(net: Net, x: Tensor) -> Tensor:
    return net.layer(x) + torch.rand(3, generator=net.generator)


def new_buffer(net: Net, x: Tensor) -> Tensor:
    net.register_buffer("fresh", x.mean(0))
    return net.layer(x)


def mode_of_a_part(net: Net, x: Tensor) -> Tensor:
    net.norm.eval()
    return net.norm(net.layer(x))


LOST = {
    python_counter: "'calls'",
    list_of_calls: "'seen'",
    last_output: "'last'",
    plain_tensor: "'sum'",
    own_generator: "'generator'",
    new_buffer: "'fresh'",
    mode_of_a_part: "'training' of module '(a.)?norm'",
}


@pytest.mark.parametrize("example", [None, torch.randn(4, 3)], ids=["traced", "exported"])
@pytest.mark.parametrize("forward", LOST, ids=lambda f: f.__name__)
def test_other_state_is_refused_by_name(forward: Forward, example: Tensor | None) -> None:
    for outer, owner in ((False, "Net"), (True, "module 'a'")):
        with pytest.raises(PkcError, match=rf"PKC279.*{LOST[forward]}") as error:
            pair(forward, outer, example)
        assert owner in str(error.value) or forward is mode_of_a_part
        assert "apply_masks" in error.value.diagnostics[0].notes[0]


def filled_by_the_first_call(net: Net, x: Tensor) -> Tensor:
    if getattr(net, "table", None) is None:
        net.table = torch.arange(3.0)
    return net.layer(x) * net.table


@pytest.mark.parametrize("unfilled", [{}, {"table": None}], ids=["absent", "None"])
def test_a_constant_that_the_first_call_fills_is_refused_until_it_is_filled(unfilled: dict[str, None]) -> None:
    net, x = Net(filled_by_the_first_call), torch.ones(2, 3)
    vars(net).update(unfilled)
    with pytest.raises(PkcError, match=r"PKC279.*'table'") as error:
        lower(net, {}, x)
    assert "call the model once before" in error.value.diagnostics[0].notes[-1]
    expected = net(x)
    assert torch.equal(lower(net, {}, x)(x), expected)


class Settings:
    """An object that several modules share, and that holds what one of them holds as well."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size, self.itself = size, self


def test_what_is_set_to_an_equal_value_is_no_change() -> None:
    def renewed(net: Net, x: Tensor) -> Tensor:
        net.settings.size = (*net.settings.size,)
        net.calls = int(str(net.calls))
        return net.layer(x)

    net = Net(renewed)
    net.settings = net.norm.settings = Settings((3, 3))
    net.norm.size = net.settings.size
    for example in (None, torch.randn(2, 3)):
        assert isinstance(lower(net, {}, example), Lowered)


def plain_tensor_in_place(net: Net, x: Tensor) -> Tensor:
    net.sum.add_(x.mean(0))
    return net.layer(x) + net.sum


def clipped(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.layer.weight.clamp_(-0.1, 0.1)
    return net.layer(x)


def clipped_data(net: Net, x: Tensor) -> Tensor:
    net.layer.weight.data.clamp_(-0.1, 0.1)
    return net.layer(x)


@pytest.mark.parametrize("forward", [plain_tensor_in_place, clipped, clipped_data], ids=lambda f: f.__name__)
def test_tensors_that_are_written_and_no_buffers_are_refused_by_name(forward: Forward) -> None:
    name = "'sum'" if forward is plain_tensor_in_place else "masked parameter 'layer.weight'"
    with pytest.raises(PkcError, match=f"PKC279.*{name}"):
        pair(forward, False, torch.randn(4, 3))


def other_shape(net: Net, x: Tensor) -> Tensor:
    net.mean = x
    return net.layer(x)


def other_type(net: Net, x: Tensor) -> Tensor:
    net.whole = net.whole + 0.5
    return net.layer(x)


@pytest.mark.parametrize(("forward", "name"), [(other_shape, "'mean'"), (other_type, "'whole'")], ids=["shape", "type"])
def test_a_buffer_that_becomes_another_is_refused_when_called(forward: Forward, name: str) -> None:
    _, lowered = pair(forward, False, None)
    with pytest.raises(PkcError, match=f"PKC279.*buffer {name}"):
        lowered(torch.randn(4, 3))
