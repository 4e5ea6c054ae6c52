"""Exact path counts: the enumeration of every path, closed forms, masks, windows, and what keeps remainders exact."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle.case import Case
from oracle.enumerate import Setting, evaluate
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.paths.count import count_paths, mixed_radix, primes_for
from pkcompiler.paths.limits import Limits
from pkcompiler.paths.semiring import settings
from pkcompiler.report.analyze import analyze_graph


@cache
def built(name: str) -> tuple[Case, Capture]:
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


def count(captured: Capture, masks=None, **chosen: str) -> int:
    return count_paths(captured.graph, captured.tensors, settings(edge="1", **chosen), masks, captured.static_batch)


def random_masks(module: nn.Module, seed: int, density: float = 0.6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in module.named_parameters()}


@pytest.mark.parametrize("constants", ["off", "on"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_path_is_counted(name, constants):
    case, captured = built(name)
    for seed in range(3):
        masks = random_masks(case.module, seed)
        setting = Setting(edge="1", pools="sum", constants=constants)
        wanted = evaluate(case.dag, case.theta, setting, mask=case.flat(masks)).value
        assert count(captured, masks, pools="sum", constants=constants) == wanted


@pytest.mark.parametrize("widths", [[1, 1], [5, 3], [2, 9, 1, 4], [3, 3, 3, 3, 3, 3], [8, 1, 8, 1, 8]])
def test_paths_of_a_linear_chain_are_the_product_of_its_widths(widths):
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    assert count(capture(nn.Sequential(*layers), torch.zeros(1, widths[0]))) == prod(widths)


def test_a_count_of_many_digits():
    deep = nn.Sequential(*[nn.Linear(7, 7) for _ in range(120)])
    with_biases = sum(7 ** (i + 1) for i in range(120))
    assert count(capture(deep, torch.zeros(1, 7))) == 7**121 + with_biases


def test_an_unread_half_of_astronomical_size_does_not_hide_the_few_paths_that_count():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(200)])
            self.out = nn.Linear(66, 1, bias=False)

        def forward(self, x):
            return self.out(torch.cat([self.deep(x[:, :64]), x[:, 64:]], 1))

    captured = capture(Half(), torch.zeros(1, 66))
    mask = torch.zeros(1, 66, dtype=torch.bool)
    mask[0, 64:] = True
    assert count(captured, {"out.weight": mask}) == 2
    assert count(captured) == 64**201 + 2


def test_an_empty_mask_leaves_no_path():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    assert count(capture(model, torch.zeros(1, 3)), {"0.weight": torch.zeros(4, 3, dtype=torch.bool)}) == 0


def test_windows_pass_one_or_all_of_their_entries():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3, bias=False))
    captured = capture(model, torch.zeros(1, 1, 6, 6))
    assert count(captured, pools="max") == 9 * 8 * 3
    assert count(captured, pools="sum") == 9 * 32 * 3


def test_windows_compare_counts_that_no_float_tells_apart():
    """2**60 + 1 paths against 2**60: the larger passes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.doubling = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(59))
            self.last = nn.Linear(2, 4)

        def forward(self, x):
            for layer in self.doubling:
                x = layer(x)
            return self.last(x).amax(1)

    captured = capture(Two(), torch.zeros(1, 2))
    for best in range(4):
        bias = torch.arange(4) == best
        assert count(captured, {"last.bias": bias}) == 2**60 + 1
    assert count(captured, {"last.bias": torch.zeros(4, dtype=torch.bool)}) == 2**60


def test_sums_longer_than_the_usual_are_exact():
    """2**20 positions averaged after a convolution with 2**13 paths each: remainders must leave room."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Conv1d(8, 8, 1, bias=False) for _ in range(14)])

        def forward(self, x):
            return nn.functional.adaptive_avg_pool1d(self.layers(x), 1)

    captured = capture(Wide(), torch.zeros(1, 8, 2**12))
    assert count(captured) == 8**15 * 2**12
    assert Limits.of(captured.graph, settings(edge="1")).bits <= 53 - 13


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_count_exceeds_its_limit(name):
    case, captured = built(name)
    for masks in (None, random_masks(case.module, 1)):
        for pools in ("max", "sum"):
            chosen = settings(edge="1", pools=pools, constants="on")
            limits = Limits.of(captured.graph, chosen, masks, captured.static_batch)
            found = count_paths(captured.graph, captured.tensors, chosen, masks, captured.static_batch)
            assert found < 2**limits.total and 20 <= limits.bits <= 52


def test_a_tower_of_squares_has_too_many_digits_to_count():
    """Each gated product squares the number of paths: 2**n digits after n of them."""

    class Tower(nn.Module):
        def __init__(self, height: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(height))

        def forward(self, x):
            for layer in self.layers:
                y = layer(x)
                x = y * torch.sigmoid(y)[:, :1] * y
            return x

    low, high = (capture(Tower(n), torch.zeros(1, 2), dtype=torch.float64) for n in (2, 60))
    assert count(low) > 1 and count(high) is None
    report = analyze_graph(high.graph, high.tensors)
    assert report.totals["paths"].status == "approximate"
    assert report.totals["paths"].value.log10 > 1e9 and report.to_json()["totals"]["paths"]["value"] is None
    assert "10^" in str(report)


@given(st.lists(st.integers(0, 2**100), min_size=1, max_size=5), st.sampled_from([20, 34, 43, 51]))
def test_mixed_radix_digits_order_as_the_integers_do(numbers, bits):
    primes = primes_for(101, bits)
    digits = mixed_radix([torch.tensor([n % p for n in numbers], dtype=torch.float64) for p in primes], primes)
    keys = list(zip(*(d.tolist() for d in digits), strict=True))
    assert sorted(range(len(numbers)), key=keys.__getitem__) == sorted(range(len(numbers)), key=numbers.__getitem__)
