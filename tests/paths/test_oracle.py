"""The oracle itself: its two writings of each network agree, and it knows the figures that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle.dag import Dag
from oracle.enumerate import SCORES, Setting, Structure, evaluate, gram, list_paths, path_jacobian, run, scores
from oracle.families import FAMILIES, Case
from torch import nn

SIGNED = Setting(edge="theta", input="data", gates="data", pools="data", norms="data", constants="on")
MOST_PATHS = 20_000


@pytest.fixture(params=sorted(FAMILIES))
def case(request) -> Case:
    return FAMILIES[request.param]()


def masks_of(case: Case) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {n: (torch.rand(p.shape, generator=generator) < 0.75).double() for n, p in case.module.named_parameters()}


def test_own_run_is_the_module(case):
    expected = case.module(case.signed).detach().numpy().reshape(len(case.signed), -1)
    for x, row in zip(case.encode(case.signed), expected, strict=True):
        np.testing.assert_allclose(run(case.dag, case.theta, x).values[list(case.dag.outputs)], row, rtol=1e-12, atol=1e-12)


def test_signed_sum_over_paths_is_the_module(case):
    expected = case.module(case.signed).detach().numpy().reshape(len(case.signed), -1)
    for x, row in zip(case.encode(case.signed), expected, strict=True):
        result = evaluate(case.dag, case.theta, SIGNED, data=x[None])
        assert 0 < result.paths <= MOST_PATHS
        np.testing.assert_allclose(result.each, row, rtol=0, atol=1e-12 * max(1.0, result.mass))


def test_signed_sum_over_paths_is_the_masked_module(case):
    masks = masks_of(case)
    masked = {n: p * masks[n] for n, p in case.module.named_parameters()}
    expected = torch.func.functional_call(case.module, masked, (case.signed,)).sum().item()
    result = evaluate(case.dag, case.theta, SIGNED, mask=case.flat(masks), data=case.encode(case.signed))
    assert result.value == pytest.approx(expected, rel=0, abs=1e-12 * max(1.0, result.mass))


def test_gradient_is_autograd_where_slopes_are_locally_constant(case):
    if not case.piecewise:
        pytest.skip("the true gradient also flows through the slopes")
    case.module(case.signed).sum().backward()
    expected = np.concatenate([p.grad.numpy().reshape(-1) for p in case.module.parameters()])
    result = evaluate(case.dag, case.theta, SIGNED, data=case.encode(case.signed))
    np.testing.assert_allclose(result.grad, expected, rtol=0, atol=1e-12 * max(1.0, result.grad_mass.max()))


@pytest.mark.parametrize("edge", ["abs(theta)", "theta^2", "1"])
def test_derivative_is_the_slope_of_the_functional(case, edge):
    """Each R is a polynomial in the edge values: a central difference of a cubic polynomial is close."""
    setting, theta, h = Setting(edge=edge, pools="sum", constants="on"), case.theta, 1e-5
    if edge == "1":
        mask = np.ones_like(theta)
        up, down = (evaluate(case.dag, theta, setting, mask=mask + s * h * np.arange(1, len(theta) + 1)).value for s in (1, -1))
        result = evaluate(case.dag, theta, setting)
        expected = result.grad @ np.arange(1, len(theta) + 1) * 2 * h
    else:
        step = 1.0 + h
        up, down = (evaluate(case.dag, theta * s, setting).value for s in (step, 1 / step))
        result = evaluate(case.dag, theta, setting)
        power = 1 if edge == "abs(theta)" else 2
        expected = (result.grad * abs(theta) ** power).sum() * 2 * h * power
    assert up - down == pytest.approx(expected, rel=1e-4)


def test_gram_is_the_hessian_form(case):
    """G = diag(dR_2/dw) + diag(theta) H diag(theta), H by central differences of dR_2/dw (docs/theory.md, section 3)."""
    theta, setting = case.theta, Setting(edge="theta^2", pools="sum", constants="on")
    w, h = theta**2, 1e-4
    tau = evaluate(case.dag, theta, setting).grad
    direction = np.random.default_rng(0).uniform(0.5, 1.0, len(theta)) * w
    up, down = (evaluate(case.dag, np.sqrt(w + s * h * direction), setting).grad for s in (1, -1))
    u = direction / theta
    expected = tau * u + theta * (up - down) / (2 * h)
    np.testing.assert_allclose(gram(case.dag, theta) @ u, expected, rtol=1e-5, atol=1e-9 * abs(expected).max())


def test_path_kernel_of_a_square_by_hand():
    """y = w (w x): v = w^2, J = 2 w, Pi = 4 w^2, while tau = dR_2/dw^2 = 2 w^2."""
    layer = nn.Linear(1, 1, bias=False)
    dag = Dag(layer)
    dag.outputs = tuple(dag.linear(dag.linear(dag.input(1), layer), layer))
    v, jacobian = path_jacobian(dag, np.array([-3.0]))
    assert (v.tolist(), jacobian.tolist()) == ([9.0], [[-6.0]])
    assert gram(dag, np.array([-3.0])).tolist() == [[36.0]]
    assert evaluate(dag, np.array([-3.0]), Setting(edge="theta^2")).grad.tolist() == [18.0]


def test_the_sum_of_tau_is_not_the_trace_with_weights_tied_on_a_path():
    case = FAMILIES["shared_twice"]()
    v, jacobian = path_jacobian(case.dag, case.theta)
    assert len(v) == len(jacobian) == sum(len(p) for p in list_paths(case.dag, Structure(constants=True)))
    pi = jacobian @ jacobian.T
    assert np.trace(pi) == pytest.approx(np.trace(gram(case.dag, case.theta)))
    tau = evaluate(case.dag, case.theta, Setting(edge="theta^2", pools="sum", constants="on")).grad
    assert np.trace(pi) > tau.sum() * 1.001


def test_tau_sums_to_the_trace_where_no_path_crosses_twice():
    case = FAMILIES["batch_norm"]()
    tau = evaluate(case.dag, case.theta, Setting(edge="theta^2", pools="sum", constants="on")).grad
    assert tau.sum() == pytest.approx(np.trace(gram(case.dag, case.theta)), rel=1e-12)


COUNTS = {
    "deep_linear": 3**5,
    "mlp_bias": ((3 + 1) * 4 + 1) * 3 * 2 + 2,
    "shared_twice": 2 * (3 * (3 * 4 + 1) + 3 * 4 + 1),
    "product_shared": 2 * (2 * 3 * 3 + 1),
    "gated_product": 2 * (3 * 4 * 4 + 1),
    "embedding_sum": 2 * (3 * (2 * 3 * 4 + 1) + 1),
    "attention": 6 * (2 * (3 * (2 * 3 * 3) * 3) + 1),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_counts_by_hand(name):
    case = FAMILIES[name]()
    result = evaluate(case.dag, case.theta, Setting(edge="1", pools="sum"))
    assert result.value == result.paths == COUNTS[name]


def test_average_pool_constants_are_squared_and_dropped():
    """A window of 4 with one edge of weight 1 each: L1 gives 4/4, L2 gives 4/16, the count 4."""
    dag = Dag(nn.Linear(1, 1, bias=False))
    dag.outputs = tuple(dag.average_pool(dag.input(1, 2, 2), 2, 2, 0, True).reshape(-1))
    got = [evaluate(dag, np.ones(1), Setting(edge=e)).value for e in ("abs(theta)", "theta^2", "1")]
    assert got == [1.0, 0.25, 4.0]


def test_max_pools_pass_one_winner():
    case = FAMILIES["max_pool"]()
    largest, every = (evaluate(case.dag, case.theta, Setting(pools=p)) for p in ("max", "sum"))
    assert largest.value < every.value and largest.paths < every.paths
    assert (largest.grad <= every.grad + 1e-9).all()


def test_constants_add_paths_only_where_there_are_constants(case):
    off, on = (evaluate(case.dag, case.theta, Setting(pools="sum", constants=c)) for c in ("off", "on"))
    has = case.name in ("batch_norm", "both_bounded", "gate_constants", "literals", "squeeze_excite", "sums_of_factors")
    assert (on.paths > off.paths) is has


def test_masked_scores_exist_where_the_mask_is_zero():
    case = FAMILIES["mlp_bias"]()
    mask = np.ones_like(case.theta)
    mask[case.parameter_index("c.weight", 0)] = 0.0
    for name in SCORES:
        assert scores(case.dag, case.theta, name, mask=mask, data=case.encode(case.data))[case.parameter_index("c.weight", 0)] > 0


def test_the_published_families_are_here():
    named = (
        "mlp_bias deep_linear residual concat conv_padded_strided_grouped conv_dilated conv_transposed avg_pool max_pool batch_norm"
    )
    more = "shared_twice gated_product squeeze_excite silu_mlp layer_norm attention causal_attention embedding_sum class_token"
    assert set(f"{named} {more}".split()) <= set(FAMILIES)


def test_batch_norm_family_has_gains_of_both_signs():
    module = FAMILIES["batch_norm"]().module
    gains = torch.cat([module.n.weight, module.m.weight])
    assert gains.min() < 0 < gains.max() and module.n.running_mean.abs().min() > 0
