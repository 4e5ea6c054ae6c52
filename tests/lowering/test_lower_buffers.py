"""Buffers that a forward reads, writes, swaps and makes one: outputs and buffers as the model's after every call, or a refusal."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import apply_masks, lower

BUFFERS = ("a", "b", "c")


class Net(nn.Module):
    """Two layers and three buffers; what happens between is what a test makes it."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.norm, self.between = nn.Linear(4, 5), nn.Linear(5, 3), nn.BatchNorm1d(5), between
        for i, name in enumerate(BUFFERS):
            self.register_buffer(name, torch.arange(5.0) + i)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x).relu()))


Step = Callable[[Net, list[Tensor], Tensor], None]


def read(draw: random.Random) -> Step:
    i, name = draw.randrange(2), draw.choice(BUFFERS)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        held[i] = getattr(net, name)

    return step


def assign(draw: random.Random) -> Step:
    i, name = draw.randrange(2), draw.choice(BUFFERS)
    return lambda net, held, mean: setattr(net, name, held[i])


def swap(draw: random.Random) -> Step:
    one, other = draw.sample(BUFFERS, 2)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        values = getattr(net, one), getattr(net, other)
        setattr(net, other, values[0])
        setattr(net, one, values[1])

    return step


def renew(draw: random.Random) -> Step:
    i, name = draw.randrange(2), draw.choice(BUFFERS)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        setattr(net, name, 0.5 * held[i] + mean)

    return step


def add_to_buffer(draw: random.Random) -> Step:
    name = draw.choice(BUFFERS)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        value = getattr(net, name)
        value += mean
        setattr(net, name, value)

    return step


def multiply_held(draw: random.Random) -> Step:
    i, way = draw.randrange(2), draw.randrange(4)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        if way == 0:
            held[i] *= 0.5
        elif way == 1:
            held[i].mul_(0.5)
        elif way == 2:
            held[i] = held[i].view(-1)
            held[i] -= 1
        else:
            part = held[i][1:3]
            part += 1

    return step


def hold_a_copy(draw: random.Random) -> Step:
    i = draw.randrange(2)

    def step(net: Net, held: list[Tensor], mean: Tensor) -> None:
        held[i] = held[i].clone()

    return step


STEPS = [read, assign, swap, renew, add_to_buffer, multiply_held, hold_a_copy]


def forward_of(seed: int, exported: bool) -> Callable[[Net, Tensor], Tensor]:
    draw = random.Random(seed)
    steps = [(draw.choice(STEPS)(draw), draw.random() < 0.2) for _ in range(draw.randrange(1, 6))]

    def between(net: Net, h: Tensor) -> Tensor:
        with torch.set_grad_enabled(not exported and torch.is_grad_enabled()):  # a switch is what no trace records
            mean = h.detach().mean(0)
        held = [net.a, net.b]
        for step, in_training in steps:
            if net.training or not in_training:
                step(net, held, mean)
        return h - held[0] + 2 * held[1] - 3 * net.c

    return between


def parts(between: Callable[[Net, Tensor], Tensor], example: Tensor | None) -> str:
    """What differs from the model within five calls in each mode; or the code of a refusal; or nothing."""
    torch.manual_seed(0)
    net = Net(between)
    masks = {"first.weight": torch.rand(5, 4) < 0.6}
    try:
        lowered = lower(net, masks, example)
    except PkcError as error:
        return error.diagnostics[0].code
    masked = apply_masks(copy.deepcopy(net), masks)
    for training in (True, False, True):
        for call in range(5):
            x = torch.randn(6, 4)
            if not torch.equal(masked.train(training)(x), lowered.train(training)(x)):
                return f"output of call {call}, training={training}"
            for name in BUFFERS:
                if not torch.equal(masked.get_buffer(name), lowered.get_buffer(name)):
                    return f"buffer {name} after call {call}, training={training}"
    return ""


@pytest.mark.parametrize("way", ["traced", "exported"])
def test_random_forwards_over_buffers_are_kept_or_refused(way: str) -> None:
    found = {}
    for seed in range(100 if way == "traced" else 12):
        example = torch.randn(6, 4) if way == "exported" else None
        found[seed] = parts(forward_of(seed, way == "exported"), example)
    wrong = {seed: what for seed, what in found.items() if what not in ("", "PKC279")}
    assert not wrong
    kept = Counter(found.values())
    assert kept[""] and kept["PKC279"], kept


def kept_alias(net: Net, h: Tensor) -> Tensor:
    old = net.a
    net.a += h.detach().mean(0)
    return h - old


def swapped(net: Net, h: Tensor) -> Tensor:
    net.b, net.a = net.a, net.b + 1
    return h - net.b


def assigned_from_another(net: Net, h: Tensor) -> Tensor:
    net.b = net.a
    net.a = h.detach().mean(0)
    return h - net.c


def of_a_view(net: Net, h: Tensor) -> Tensor:
    part = net.a[1:3]
    part += 1
    return h - net.a


def of_what_is_computed(net: Net, h: Tensor) -> Tensor:
    kept = h.detach()
    both = kept
    both *= 2
    return h - kept


def of_a_number(net: Net, h: Tensor) -> Tensor:
    rows = h.shape[0]
    before = rows
    rows += 1
    return h * rows - before


def of_a_norm(net: Net, h: Tensor) -> Tensor:
    net.norm.num_batches_tracked += 1
    return net.norm(h)


KEPT = [kept_alias, swapped, assigned_from_another, of_a_view, of_what_is_computed, of_a_number, of_a_norm]


@pytest.mark.parametrize("between", KEPT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("example", [None, torch.randn(6, 4)], ids=["traced", "example"])
def test_an_assignment_is_of_what_the_name_was_and_a_write_is_to_all_its_names(
    between: Callable[[Net, Tensor], Tensor], example: Tensor | None
) -> None:
    assert parts(between, example) == ""


def made_one_and_written(net: Net, h: Tensor) -> Tensor:
    net.b = net.a
    net.a += 1
    return h - net.b


def made_one_in_the_third_call(net: Net, h: Tensor) -> Tensor:
    value = net.b
    value -= 1
    net.b, net.a = net.a, net.c
    return h - net.c


@pytest.mark.parametrize("between", [made_one_and_written, made_one_in_the_third_call], ids=lambda f: f.__name__)
def test_buffers_made_one_and_written_in_place_are_refused_by_name(between: Callable[[Net, Tensor], Tensor]) -> None:
    with pytest.raises(PkcError, match=r"PKC279.*one tensor of the buffers 'a' and '[bc]'") as error:
        lower(Net(between), {})
    assert ".clone()" in str(error.value)


def norm_of_other_values(net: Net, h: Tensor) -> Tensor:
    net.norm.running_mean = net.norm.running_mean * 0.5
    return net.norm(h)


def test_a_norm_whose_buffers_are_assigned_is_not_called_as_a_whole() -> None:
    with pytest.raises(PkcError, match=r"PKC272.*'norm'.*'running_mean'"):
        lower(Net(norm_of_other_values), {})
    with pytest.raises(PkcError, match=r"PKC279.*buffer 'norm.running_mean' in call 1") as error:  # torch.export loses it
        lower(Net(norm_of_other_values), {}, torch.randn(6, 4))
    assert "copy_(" in str(error.value)


def test_a_tensor_of_two_names_is_not_given_another_value_under_both() -> None:
    def doubled(net: Net, h: Tensor) -> Tensor:
        net.a = net.a + 1
        return h - net.b

    net = Net(doubled)
    net.b = net.a
    with pytest.raises(PkcError, match=r"PKC272"):
        lower(net, {})


def data_assigned(net: Net, h: Tensor) -> Tensor:
    net.a.data = net.a.data * 0.9 + h.detach().mean(0)
    return h - net.a


def through_the_table(net: Net, h: Tensor) -> Tensor:
    net._buffers["a"] = net._buffers["a"] + 1
    return h - net.a


def data_of_all(net: Net, h: Tensor) -> Tensor:
    for buffer in (net.a, *list(net.buffers())[:1]):
        buffer.data.add_(1)
    return h - net.a


def data_of_parameters(net: Net, h: Tensor) -> Tensor:
    for parameter in net.second.parameters():
        parameter.data.mul_(0.9)
    return h


@pytest.mark.parametrize("between", [data_assigned, through_the_table, data_of_all, data_of_parameters], ids=lambda f: f.__name__)
def test_writes_around_the_version_counter_are_kept_or_refused(between: Callable[[Net, Tensor], Tensor]) -> None:
    assert parts(between, None) in ("PKC272", "PKC279")
    assert parts(between, torch.randn(6, 4)) in ("", "PKC279")
