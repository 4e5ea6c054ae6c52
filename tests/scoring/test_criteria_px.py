"""PX and the trace that it bounds, synflow-l2-dist and snip, against every path one by one."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import pytest
import torch
from oracle.case import Case, family
from oracle.enumerate import Setting, Structure, evaluate, list_paths, run
from oracle.families import FAMILIES
from torch import nn
from torch.nn import functional as F

from pkcompiler import PkcError, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring.detached import swept
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.score import evaluate as evaluated
from pkcompiler.scoring.score import workspace

TOLERANCE = 1e-10
REACH = Setting(edge="1", input="data^2", gates="data^2", pools="data")
SQUARES = Setting(edge="theta^2", pools="sum")


@family(1, 3, 3, piecewise=True)
class Shortcut(nn.Module):
    """Convolutions with BatchNorm around a max-pool, a shortcut with a BatchNorm and an average pool, one kernel used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
        self.b, self.m = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.down = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.BatchNorm2d(2))
        self.out = nn.Linear(2, 2)

    def forward(self, x):
        y = F.max_pool2d(self.n(self.a(x)).relu(), 2, stride=1)
        y = self.m(self.b(y)) + F.avg_pool2d(self.down(x), 2)
        return self.out(self.b(y.relu()).flatten(1))

    def paths(self, g, x):
        y = g.max_pool(g.gate(g.batch_norm(g.conv(x, self.a), self.n), "relu"), 2, 1, 0)
        z = g.average_pool(g.batch_norm(g.conv(x, self.down[0]), self.down[1]), 2, 2, 0, True)
        y = g.combine([(g.batch_norm(g.conv(y, self.b), self.m), 1.0), (z, 1.0)])
        return g.linear(g.conv(g.gate(y, "relu"), self.b).reshape(-1), self.out)


SHORTCUT = FAMILIES.pop("shortcut")  # of this file alone
PIECEWISE = ("shortcut", "mlp_bias", "residual", "concat", "batch_norm", "max_pool", "avg_pool", "shared_twice", "tied_weights")
SMOOTH = ("silu_mlp", "gate_constants", "layer_norm", "squeeze_excite", "attention", "embedding_sum", "class_token")


@cache
def built(name: str) -> Case:
    return SHORTCUT() if name == "shortcut" else FAMILIES[name]()


@cache
def captured(name: str):
    return capture(built(name).module, built(name).example_inputs, dtype=torch.float64)


def masks_of(case: Case) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {n: torch.rand(p.shape, generator=generator) < 0.8 for n, p in case.module.named_parameters()}


def scored(name: str, pass_name: str, masks=None) -> np.ndarray:
    case, chosen = built(name), find_pass(pass_name)
    data = (case.signed, torch.zeros(len(case.signed), dtype=torch.int64))
    found = evaluated(chosen, workspace(captured(name), chosen, masks or {}, torch.float64, Evidence(data)), 0)
    return np.ldexp(case.flat(dict(found.tensors)), found.exponent)


def same(got: np.ndarray, expected: np.ndarray) -> None:
    assert abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE * abs(expected).max())


# PX -----------------------------------------------------------------------------------------------------------------------


def reach_of(case: Case, x: np.ndarray) -> np.ndarray:
    """g_k(x) [outputs]: over the paths at one sample, the squared slopes and inputs."""
    record = run(case.dag, case.theta, x)
    lists = list_paths(
        case.dag, Structure(at_data=True), lambda n, _: int(np.argmax(record.values[list(case.dag.nodes[n].sources)]))
    )
    weigh = lambda p: prod(x[s] ** 2 for s in p.sources) * prod(record.factors[n] ** 2 for n in p.gates + p.frozen)  # noqa: E731
    return np.array([sum(weigh(p) for p in paths) for paths in lists])


@pytest.mark.parametrize("name", PIECEWISE)
def test_px_is_the_sum_over_enumerated_paths(name):
    """score_i = sum over paths p through i of n_ip v_p^2 g_k(p), g_k the sum over samples of what reaches k."""
    case = built(name)
    g = sum(reach_of(case, x) for x in case.encode(case.signed))
    expected = np.zeros_like(case.theta)
    for k, paths in enumerate(list_paths(case.dag, Structure())):
        for p in paths:
            mass = (p.coefficient * prod(case.theta[i] for i in p.parameters)) ** 2
            for i in p.parameters:
                expected[i] += mass * g[k]
    same(scored(name, "px"), expected)


@pytest.mark.parametrize("name", PIECEWISE + SMOOTH)
def test_px_under_masks(name):
    """Derivatives exist where the mask is 0, too: reach and squares from the oracle's own functionals."""
    case, masks = built(name), masks_of(built(name))
    given = {"mask": case.flat({n: m.double() for n, m in masks.items()}), "data": case.encode(case.signed)}
    g = evaluate(case.dag, case.theta, REACH, **given).each
    tau = evaluate(case.dag, case.theta, SQUARES, mask=given["mask"], output=g).grad
    same(scored(name, "px", masks), case.theta**2 * tau)


def test_the_reach_is_the_same_in_pieces_and_nothing_is_derived_through_it():
    case = built("shortcut")
    work = workspace(captured("shortcut"), find_pass("px"), {}, torch.float64, Evidence((case.signed, torch.zeros(3))))
    reach = settings(edge="1", gates="data^2", pools="data", dtype=torch.float64)
    whole, cut = (swept(work.captured, reach, work.samples, "data^2", {}, n) for n in (3, 2))
    assert whole.exponent == cut.exponent and not whole.tensor.requires_grad
    torch.testing.assert_close(whole.tensor, cut.tensor, rtol=1e-14, atol=0)


def test_what_is_detached_may_hold_a_derivative_and_may_be_used_again():
    case = built("mlp_bias")
    data = (case.signed, torch.tensor([0, 1, 0]))
    head = 'pass a { source = "x" let R = paths(edge = theta^2, input = data^2, gates = data^2)\n'
    for left, right in (
        (
            "let d = detach(grad(sum(R, over = sample), theta)) score = theta * d }",
            "score = theta * grad(sum(R, over = sample), theta) }",
        ),
        (
            "let S = sum(detach(R), over = sample) score = grad(S * sum(R, over = sample), mask) }",
            "let T = sum(R, over = sample) score = T * grad(T, mask) }",
        ),
    ):
        a, b = (score(case.module, case.example_inputs, head + text, data=data) for text in (left, right))
        for n in b:
            torch.testing.assert_close(a[n] * 2.0**a.exponent, b[n] * 2.0**b.exponent, rtol=1e-12, atol=1e-12)


# px-exact -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIECEWISE)
def test_px_exact_is_the_squared_sum_over_enumerated_paths(name):
    """theta_i^2 sum over n, k of (sum over paths p to k of a_p(x_n) x_s dv_p/dtheta_i)^2, constants as sources too."""
    case, masks = built(name), masks_of(built(name))
    mask = case.flat({n: m.double() for n, m in masks.items()})
    at_data = Setting(edge="theta", input="data", gates="data", pools="data", constants="on")
    expected = np.zeros_like(case.theta)
    for x in case.encode(case.signed):
        for k in range(len(case.dag.outputs)):
            weights = np.eye(len(case.dag.outputs))[k]
            expected += evaluate(case.dag, case.theta, at_data, mask=mask, data=x[None], output=weights).grad ** 2
    same(scored(name, "px-exact", masks), case.theta**2 * expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_px_exact_is_plain_autograd(name):
    case = built(name)
    total = {n: torch.zeros_like(p) for n, p in case.module.named_parameters()}
    for x in case.signed:
        for value in case.module(x[None]).reshape(-1):
            grads = torch.autograd.grad(value, list(case.module.parameters()), retain_graph=True, allow_unused=True)
            for (n, p), g in zip(case.module.named_parameters(), grads, strict=True):
                total[n] += 0 if g is None else p.detach() ** 2 * g**2
    same(scored(name, "px-exact"), case.flat(total))


@pytest.mark.parametrize("name", ["mlp_bias", "residual", "concat", "max_pool", "avg_pool"])
def test_px_bounds_px_exact_entry_by_entry(name):
    """Without constant sources and with no weight crossed twice (Cauchy and Schwarz, output by output)."""
    exact, bound = scored(name, "px-exact"), scored(name, "px")
    assert (exact <= bound * (1 + 1e-12)).all() and (exact < 0.9 * bound).any()


def score_of(body: str):
    case = built("mlp_bias")
    return score(case.module, case.example_inputs, f'pass a {{ source = "x" {body} }}', data=(case.signed, torch.tensor([0, 1, 0])))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("score = theta^2 * squares(loss, theta)", "PKC111"),
        ("score = theta^2 * squares(output / 200, theta)", "PKC111"),
        ("score = theta^2 * squares(output, theta^2)", "PKC112"),
        ("score = theta^2 * squares(output)", "PKC110"),
        ("mode = train score = squares(output, mask)", "PKC545"),
    ],
)
def test_squares_that_mean_nothing_are_diagnosed(body, code):
    with pytest.raises(PkcError) as caught:
        score_of(body)
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_squares_by_the_mask():
    found, expected = score_of("score = squares(output, mask)"), score_of("score = theta^2 * squares(output, theta)")
    assert all(torch.allclose(found[n], expected[n], rtol=1e-14) for n in expected)


# other passes of data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shortcut", "concat", "embedding_sum"])
@pytest.mark.parametrize(("pass_name", "power"), [("synflow-l2-dist-mean", 1), ("synflow-l2-dist-squared-mean", 2)])
def test_synflow_l2_dist_by_the_mean_and_its_square(name, pass_name, power):
    case, masks = built(name), masks_of(built(name))
    mask = case.flat({n: m.double() for n, m in masks.items()})
    mean = case.encode(case.data).mean(0, keepdims=True) ** power
    setting = Setting(edge="theta^2", input="mean(data)", pools="max")
    expected = case.theta**2 * evaluate(case.dag, case.theta, setting, mask=mask, data=mean).grad
    if case.vocabulary and power == 2:
        with pytest.raises(PkcError, match="integers"):
            score(case.module, case.example_inputs, pass_name, data=(case.data, None))
        return
    found = score(case.module, case.example_inputs, pass_name, data=(case.data, None), masks=masks)
    same(np.ldexp(case.flat(dict(found.tensors)), found.exponent), expected)


BY_PATHS = """pass snip-by-paths { source = "x"
  let f = paths(edge = theta, input = data, gates = data, pools = data, norms = data, constants = on, output = loss_gradient)
  score = abs(theta * grad(sum(f, over = sample), theta)) }"""


@pytest.mark.parametrize("name", ["shortcut", "batch_norm", "shared_twice", "max_pool"])
def test_snip_is_a_sum_over_paths_weighted_by_the_loss(name):
    """abs(sum over p through i of n_ip v_p sum over n of a_p(x_n) x_s dL/df_k(x_n)): in the language, and path by path."""
    case, y = built(name), torch.tensor([0, 1, 1])
    masks = masks_of(case)
    mask = case.flat({n: m.double() for n, m in masks.items()})
    with torch.no_grad():
        kept = {n: p * masks[n] for n, p in case.module.named_parameters()}
        output = torch.func.functional_call(case.module, kept, (case.signed,), tie_weights=True)
    weights = torch.autograd.grad(F.cross_entropy(output.requires_grad_(), y), output)[0].reshape(3, -1).numpy()
    setting = Setting(edge="theta", input="data", gates="data", pools="data", constants="on")
    signal = zip(case.encode(case.signed), weights, strict=True)
    paths = sum(evaluate(case.dag, case.theta, setting, mask=mask, data=x[None], output=w).grad for x, w in signal)
    for text in ("snip", BY_PATHS):
        found = score(case.module, case.example_inputs, text, data=(case.signed, y), masks=masks)
        same(np.ldexp(case.flat(dict(found.tensors)), found.exponent), abs(case.theta * paths))
