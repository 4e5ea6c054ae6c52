"""Laws of selection: exact counts, ties by position, masks that only shrink, floors, quotas, curves, the published rule."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkcompiler import PkcError
from pkcompiler.lang.check.curves import density_at
from pkcompiler.lang.plan import plan_of
from pkcompiler.selection.candidates import Candidates, apportion, check_reachable, quotas
from pkcompiler.selection.select import SAMPLE, best, kth_largest, select

SHAPES = {"a": (4, 5), "b": (3, 2, 3, 3), "c": (7, 1)}


def pool(protected=(), floors=None) -> Candidates:
    sizes = {n: int(np.prod(s)) for n, s in SHAPES.items()}
    return Candidates(sizes, SHAPES, frozenset(protected), floors or {})


def scores_of(values) -> dict[str, torch.Tensor]:
    flat = torch.tensor(values, dtype=torch.float64)
    pieces = flat.split([int(np.prod(s)) for s in SHAPES.values()])
    return {n: p.reshape(s) for (n, s), p in zip(SHAPES.items(), pieces, strict=True)}


N = pool().total
VALUES = st.lists(st.integers(-3, 3).map(float), min_size=N, max_size=N)


def flat(masks) -> np.ndarray:
    return np.concatenate([masks[n].numpy().reshape(-1) for n in SHAPES])


@given(VALUES, st.floats(0.01, 1))
@settings(max_examples=60)
def test_exact_keeps_so_many_and_breaks_ties_by_position(values, density):
    kept = flat(select(scores_of(values), {}, pool(), density))
    expected = np.zeros(N, dtype=bool)
    expected[sorted(range(N), key=lambda i: (-values[i], i))[: round(density * N)]] = True
    assert (kept == expected).all()


@given(VALUES, VALUES, st.floats(0.05, 1), st.floats(0.05, 1))
@settings(max_examples=40)
def test_masks_only_shrink_unless_all_compete(first, second, high, low):
    high, low = max(high, low), min(high, low)
    before = select(scores_of(first), {}, pool(), high)
    after = select(scores_of(second), before, pool(), low)
    assert not (flat(after) & ~flat(before)).any()
    assert flat(after).sum() == min(round(low * N), flat(before).sum())
    free = select(scores_of(second), before, pool(), low, among="all")
    assert (flat(free) == flat(select(scores_of(second), {}, pool(), low))).all()


@given(VALUES, st.floats(0.05, 1))
def test_smallest_is_largest_of_the_negated(values, density):
    down = select(scores_of(values), {}, pool(), density, order="smallest")
    assert (flat(down) == flat(select(scores_of([-v for v in values]), {}, pool(), density))).all()


@given(st.lists(st.floats(0, 1), min_size=N, max_size=N), st.lists(st.floats(0, 1), min_size=2, max_size=4))
@settings(max_examples=60)
def test_the_published_rule_is_the_published_code(values, densities):
    """Round after round: score zero where pruned, threshold the k-th smallest of all, keep what exceeds it."""
    scores = np.array(values)
    published = np.ones(N, dtype=bool)
    ours: dict[str, torch.Tensor] = {}
    for density in sorted(densities, reverse=True):
        masked = np.where(published, scores, 0.0)
        k = int((1 - density) * N)
        if k >= 1:
            published = masked > np.sort(masked)[k - 1]
        ours = select(scores_of(values), ours, pool(), density, rule="kth_le")
        assert (flat(ours) == published).all()


def test_protected_parameters_keep_everything_and_floors_are_served_first():
    values = scores_of([*range(20), *([0.0] * 54), *([-1.0] * 7)])
    masks = select(values, {}, pool(protected={"b"}, floors={"c": 3}), 62 / N)
    assert masks["b"].all()
    assert int(masks["c"].sum()) == 3
    assert masks["c"].reshape(-1).tolist() == [True] * 3 + [False] * 4
    assert masks["a"].reshape(-1).nonzero().flatten().tolist() == [15, 16, 17, 18, 19]


@given(st.floats(0.02, 1))
def test_uniform_and_erk_hand_out_exactly_the_budget(density):
    for scope in ("uniform", "erk"):
        shares = quotas(pool(), density, scope)
        assert sum(shares.values()) == round(density * N)
        assert all(0 <= shares[n] <= pool().sizes[n] for n in shares)
    assert quotas(pool(), density, "layer") == {n: round(density * s) for n, s in pool().sizes.items()}


@given(st.floats(0.3, 1), st.integers(0, 7), st.integers(0, 10))
def test_floors_are_taken_from_the_others_shares(density, small, other):
    floors = {"c": small, "a": other}
    for scope in ("uniform", "erk"):
        shares = quotas(pool(floors=floors), density, scope)
        assert sum(shares.values()) == max(round(density * N), 0)
        assert all(shares[n] >= k for n, k in floors.items())


def test_a_floor_under_the_published_rule_is_refused():
    text = 'schedule s { prune magnitude { density = 10%; select = kth_le; floor "*" = 1% } }'.replace("; ", "\n").replace(
        "{ ", "{\n"
    )
    with pytest.raises(PkcError, match="exclude each other"):
        plan_of(schedule=text.replace(" }", "\n}"))


def test_erk_densities_are_proportional_to_the_sum_of_the_dimensions():
    shares = apportion(100, {"wide": 200.0, "narrow": 20.0}, {"wide": 10_000, "narrow": 100})
    assert shares == {"wide": 91, "narrow": 9}
    assert apportion(100, {"a": 1.0, "b": 1.0}, {"a": 10, "b": 1000}) == {"a": 10, "b": 90}


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.999), st.booleans())
@settings(max_examples=12, deadline=None)
def test_the_bracketed_threshold_is_the_exact_one(seed, fraction, ties):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(5 * SAMPLE).astype(np.float32) ** 3
    if ties:
        values = np.round(values, 1)
    k = max(1, int(fraction * values.size))
    threshold, above = kth_largest(values, k)
    assert threshold == np.sort(values)[values.size - k]
    assert above == (values > threshold).sum()
    assert best(values, k).sum() == k


@pytest.mark.parametrize("curve", ["exponential", "linear", "cubic"])
@given(st.floats(1e-6, 0.999), st.integers(1, 120), st.floats(0, 1))
def test_curves_fall_from_the_start_to_the_target(curve, rho, n, lift):
    start = rho + lift * (1 - rho)
    densities = [start, *(density_at(curve, k, n, rho, start) for k in range(1, n + 1))]
    assert densities[-1] == rho
    assert all(a >= b - 1e-12 for a, b in pairwise(densities))


def test_a_curve_at_its_formula():
    assert density_at("exponential", 1, 2, 0.01) == pytest.approx(0.1)
    assert density_at("linear", 1, 4, 0.2) == pytest.approx(0.8)
    assert density_at("cubic", 1, 2, 0.2) == pytest.approx(1 - 0.8 * 7 / 8)


def test_an_unreachable_target_says_by_how_much():
    with pytest.raises(PkcError, match="4 too many") as caught:
        check_reachable(pool(protected={"b"}), 50 / N, "density = 0.6")
    assert caught.value.diagnostics[0].code == "PKC403"
    suggested = float(re.search(r"a density of (\S+) keeps", caught.value.diagnostics[0].notes[-1])[1])
    found = pool(protected={"b"})
    check_reachable(found, suggested, "density")
    assert found.kept_at(suggested) - found.sizes["b"] >= len(found.competing)
    with pytest.raises(PkcError, match="every weight is protected"):
        check_reachable(pool(protected=set(pool().sizes)), 0.1, "density")


def test_nan_scores_are_refused_by_name():
    values = scores_of([0.0] * N)
    values["b"][0, 0, 0, 0] = float("nan")
    with pytest.raises(PkcError, match="'b'"):
        select(values, {}, pool(), 0.5)
