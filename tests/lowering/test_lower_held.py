"""State that a module holds in objects without attributes: refused by name. What holds none is left alone."""

from __future__ import annotations

import array
import functools
import itertools
import logging
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import lower
from tests.lowering.test_lower_state import Net


class Slots:
    """Counts in a slot."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def step(self) -> int:
        self.count += 1
        return self.count


class Counter:
    """Counts in an attribute."""

    def __init__(self) -> None:
        self.count = 0

    def step(self) -> int:
        self.count += 1
        return self.count


def counted_in(held: np.ndarray | bytearray | array.array) -> int:
    held[0] += 1
    return int(held[0])


def counted_in_data(tensor: Tensor) -> Tensor:
    tensor.data.add_(1)
    return tensor


Use = Callable[[object], object]

HOLDERS: dict[str, tuple[Callable[[], object], Use]] = {
    "array of numpy": (lambda: np.zeros(1), counted_in),
    "bytearray": (lambda: bytearray(1), counted_in),
    "array": (lambda: array.array("d", [0.0]), counted_in),
    "slots": (Slots, lambda held: held.step()),
    "bound method": (lambda: Counter().step, lambda held: held()),
    "bound method of slots": (lambda: Slots().step, lambda held: held()),
    "partial": (lambda: functools.partial(Counter.step, Counter()), lambda held: held()),
    "count": (lambda: itertools.count(1), next),
    "cycle": (lambda: itertools.cycle([1.0, 2.0, 3.0]), next),
    "iterator": (lambda: iter([1.0, 2.0, 3.0] * 50), next),
    "enumerate": (lambda: enumerate([1.0, 2.0, 3.0] * 50), lambda held: next(held)[1]),
    "random": (lambda: random.Random(0), lambda held: held.random()),
    "generator of numpy": (lambda: np.random.default_rng(0), lambda held: float(held.random())),
    "random state of numpy": (lambda: np.random.RandomState(0), lambda held: float(held.rand())),
    "data of a tensor": (lambda: torch.zeros(3), counted_in_data),
    "data in a list": (lambda: [torch.zeros(3)], lambda held: counted_in_data(held[0])),
    "namespace": (lambda: SimpleNamespace(count=np.zeros(1)), lambda held: counted_in(held.count)),
}


@pytest.mark.parametrize("example", [None, torch.randn(4, 3)], ids=["traced", "example"])
@pytest.mark.parametrize("kind", HOLDERS)
def test_state_in_what_a_module_holds_is_refused_by_name(kind: str, example: Tensor | None) -> None:
    make, use = HOLDERS[kind]
    net = Net(lambda net, x: net.layer(x) * use(net.held))
    net.held = make()
    with pytest.raises(PkcError) as error:
        lower(nn.Sequential(net, nn.ReLU()), {}, example)
    assert [d.code for d in error.value.diagnostics] == ["PKC279"]
    assert "'held' of module '0'" in str(error.value)


@functools.cache
def scale_of(size: int) -> float:
    return size**-0.5


def test_what_a_module_holds_and_does_not_change_is_left_alone() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        net.log.debug("called")
        scale = net.cached(3) * len(net.pattern.findall("aa")) + len(net.path.parts) + float(net.table[0])
        return torch.nn.functional.dropout(net.layer(x) * scale, training=net.training)

    net = Net(forward)
    net.log, net.cached, net.pattern, net.path = logging.getLogger("tests.held"), scale_of, re.compile("a"), Path("a/b")
    net.table, net.draws = np.ones(3), itertools.count()
    for example in (None, torch.randn(4, 3)):
        lowered = lower(net, {}, example)
        for mode in (True, False):
            outputs = []
            for each in (net, lowered):
                torch.manual_seed(0)
                outputs.append(each.train(mode)(torch.ones(4, 3)))
            assert torch.equal(*outputs)


def test_parameters_that_a_forward_writes_and_a_graph_keeps_start_as_they_were() -> None:
    def grows(net: Net, x: Tensor) -> Tensor:
        net.scale.data.mul_(2)
        return net.layer(x) * net.scale

    net = Net(grows)
    net.scale = nn.Parameter(torch.ones(()), requires_grad=False)
    for example in (None, torch.randn(4, 3)):
        lowered = lower(net, {}, example)
        assert lowered.scale == net.scale == 1
        lowered(torch.randn(4, 3))
        assert lowered.scale == 2
