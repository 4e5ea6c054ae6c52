"""State that a forward keeps outside of its modules: refused by name where it changes the output, else left alone."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import lower
from tests.lowering.test_lower_state import Forward, Net

COUNT, STEPS, KEPT = [0], 0, {"sum": torch.zeros(3)}


class Counts(Net):
    """Counts its calls in the class."""

    calls_of_all = 0


def helper() -> int:
    COUNT[0] += 1
    return COUNT[0]


def of_the_class(net: Net, x: Tensor) -> Tensor:
    Counts.calls_of_all += 1
    return net.layer(x) * Counts.calls_of_all


def of_its_type(net: Net, x: Tensor) -> Tensor:
    type(net).calls_of_all = getattr(type(net), "calls_of_all", 0) + 1
    return net.layer(x) * type(net).calls_of_all


def global_list(net: Net, x: Tensor) -> Tensor:
    return net.layer(x) * helper()


def global_number(net: Net, x: Tensor) -> Tensor:
    global STEPS
    STEPS += 1
    return net.layer(x) if STEPS % 2 else net.layer(x).relu()


def global_tensor(net: Net, x: Tensor) -> Tensor:
    KEPT["sum"] = KEPT["sum"] + 1
    return net.layer(x) * KEPT["sum"]


def global_tensor_in_place(net: Net, x: Tensor) -> Tensor:
    KEPT["sum"].add_(1)
    return net.layer(x) * KEPT["sum"]


def default(net: Net, x: Tensor, count: list[int] = [0]) -> Tensor:  # noqa: B006
    count[0] += 1
    return net.layer(x) * count[0]


def enclosed() -> Forward:
    count = 0

    def inner(net: Net, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return net.layer(x) * count if net.training else net.layer(x)

    return inner


def of_a_part(net: Net, x: Tensor) -> Tensor:
    return enclosed_part(net, x) * 2


enclosed_part = enclosed()

OUTSIDE = {
    "class": (of_the_class, "'calls_of_all' of class 'Counts'"),
    "type": (of_its_type, "'calls_of_all' of class 'Counts'"),
    "list": (global_list, "'COUNT' of the global names of"),
    "number": (global_number, "'STEPS' of the global names of"),
    "tensor": (global_tensor, "'KEPT' of the global names of"),
    "in place": (global_tensor_in_place, "'KEPT' of the global names of"),
    "default": (default, "'defaults' of the function default"),
    "nonlocal": (enclosed(), "'count' of the variables around enclosed.<locals>.inner"),
    "of a part": (of_a_part, "'count' of the variables around enclosed.<locals>.inner"),
}


@pytest.mark.parametrize("example", [None, torch.randn(4, 3)], ids=["traced", "example"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_state_outside_of_the_modules_that_changes_the_output_is_refused_by_name(kind: str, example: Tensor | None) -> None:
    forward, named = OUTSIDE[kind]
    with pytest.raises(PkcError) as error:
        lower(nn.Sequential(Counts(forward), nn.ReLU()), {}, example)
    assert [d.code for d in error.value.diagnostics] == ["PKC279"]
    assert named in str(error.value) and "apply_masks" in error.value.diagnostics[0].notes[0]


def exported_count(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = net.layer(x).mean()
    return net.layer(x) * scale * helper()


def drawn_by_numpy(net: Net, x: Tensor) -> Tensor:
    return net.layer(x) + float(np.random.rand())


def test_it_is_refused_of_an_exported_forward_too() -> None:
    with pytest.raises(PkcError, match=r"PKC279.*'COUNT'"):
        lower(Net(exported_count), {}, torch.randn(4, 3))
    with pytest.raises(PkcError, match=r"PKC279.*each time it is called"):
        lower(Net(drawn_by_numpy), {}, torch.randn(4, 3))


LOG, CACHE = logging.getLogger("tests.lowered"), {}


@functools.cache
def scale_of(size: int) -> float:
    return size**-0.5


def counts_logs_and_caches(net: Net, x: Tensor) -> Tensor:
    Counts.calls_of_all += 1
    helper()
    LOG.debug("called %d times", COUNT[0])
    if "range" not in CACHE:
        CACHE["range"] = torch.arange(3.0)
    return torch.nn.functional.dropout(net.layer(x) * CACHE["range"] * scale_of(3), training=net.training)


@pytest.mark.parametrize("example", [None, torch.randn(4, 3)], ids=["traced", "example"])
def test_what_is_counted_logged_or_cached_and_changes_no_output_is_left_alone(example: Tensor | None) -> None:
    CACHE.clear()
    net = Counts(counts_logs_and_caches)
    lowered = lower(net, {}, example)
    for mode in (True, False):
        x, outputs = torch.randn(4, 3), []
        for each in (net, lowered):
            torch.manual_seed(0)
            outputs.append(each.train(mode)(x))
        assert torch.equal(*outputs)


def cached_by_shape(net: Net, x: Tensor) -> Tensor:
    if "ones" not in CACHE:
        CACHE["ones"] = x.new_ones(3) * 2
    return net.layer(x) * CACHE["ones"]


def test_a_cache_that_a_call_fills_is_a_constant_where_there_is_an_example() -> None:
    CACHE.clear()
    with pytest.raises(PkcError, match=r"PKC272.*earlier call computed"):
        lower(Net(cached_by_shape), {})
    CACHE.clear()
    net, x = Net(cached_by_shape), torch.randn(4, 3)
    assert torch.equal(lower(net, {}, x)(x), net(x))
