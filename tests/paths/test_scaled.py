"""Carried exponents change no bit: whatever the window, a sweep gives the numbers of the plain computation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.zoo import MODELS

from pkcompiler.frontend.capture import capture
from pkcompiler.paths import scaled
from pkcompiler.paths.functional import open_functional
from pkcompiler.paths.scaled import Scaled, aligned, times_power
from pkcompiler.paths.semiring import settings


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(-3000, 3000), st.floats(0.5, 1.0, exclude_max=True))
def test_a_power_of_two_is_exact_or_out_of_range(dtype, power, mantissa):
    x = torch.tensor(mantissa, dtype=dtype)
    got = float(times_power(x, power))
    try:
        expected = float(torch.tensor(math.ldexp(float(x), power), dtype=dtype))
    except OverflowError:
        expected = math.inf
    info = torch.finfo(dtype)
    if info.tiny <= expected <= info.max or expected in (0.0, math.inf):
        assert got == expected
    else:
        assert got <= info.tiny * 2


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5), st.integers(-400, 400))
def test_settling_keeps_the_value(entries, exponent):
    value = Scaled(torch.tensor(entries, dtype=torch.float64), exponent)
    settled = value.settled()
    assert torch.equal(times_power(settled.tensor, settled.exponent - exponent), value.tensor) or min(map(abs, entries)) < 1e-290


def test_branches_are_aligned_at_the_larger_exponent():
    big, small, zero = (Scaled(torch.tensor([v], dtype=torch.float64), e) for v, e in ((1.0, 900), (3.0, 898), (0.0, 5000)))
    tensors, exponent = aligned([big, small, zero])
    assert exponent == 900
    assert [float(t) for t in tensors] == [1.0, 0.75, 0.0]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vit", "densenet40"])
@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2"])
def test_the_window_changes_no_bit(name, edge, monkeypatch):
    captured = CAPTURES.setdefault(name, capture(*MODELS[name](), dtype=torch.float64))
    results = []
    for window in (10**6, 0):
        monkeypatch.setattr(scaled, "WINDOW", window)
        results.append(open_functional(captured.graph, captured.tensors, settings(edge=edge)))
    plain, carried = results
    assert plain.exponent == 0
    assert carried.exponent != 0
    assert math.ldexp(carried.mantissa, carried.exponent) == plain.mantissa
    for parameter, grad in plain.grad.items():
        assert torch.equal(times_power(carried.grad[parameter], carried.exponent), grad), parameter


CAPTURES: dict[str, object] = {}
