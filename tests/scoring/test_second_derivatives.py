"""Derivatives of derivatives and ``hvp``: against dense Hessians of plain autograd, and against every path one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle.case import Case
from torch import nn
from torch.nn import functional as F

from pkcompiler import PkcError, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.functions import gradient
from pkcompiler.scoring.score import evaluate, workspace
from tests.scoring.second_tools import (
    TIED,
    built,
    captured,
    close,
    crossings,
    dense,
    flat,
    hessian_of,
    labels,
    logits,
    masked,
    pass_of,
    scored,
    weights_of,
)


def user_loss(output, target):
    return output.tanh().square().mean() + (output.reshape(len(target), -1).sum(1) / 9 - target).square().mean()


def loss_value(case: Case, masks) -> torch.Tensor:
    with torch.no_grad():
        return user_loss(logits(case, weights_of(case, masks), case.signed), labels(case))


@pytest.mark.parametrize("name", ["attention", "layer_norm", "class_token", "conv_transposed", "composite_gate"])
def test_products_are_those_of_the_dense_hessian_behind_any_operator(name: str) -> None:
    case = built(name)
    _, h = dense(case, lambda w: user_loss(logits(case, w, case.signed), labels(case)), None)
    close(scored(case, pass_of("score = hvp(loss, theta)"), loss=user_loss), h @ case.theta)


@pytest.mark.parametrize("with_masks", [False, True], ids=["whole", "masked"])
def test_second_derivatives_are_the_dense_hessian(with_masks: bool) -> None:
    case = built("block")
    theta, masks = case.theta, masked(case) if with_masks else None
    g, h = dense(case, lambda w: user_loss(logits(case, w, case.signed), labels(case)), masks)
    mask = case.flat(masks or {})

    def found(body: str) -> np.ndarray:
        return scored(case, pass_of(body), masks, loss=user_loss)

    close(found("score = hvp(loss, theta^2)"), h @ theta**2)
    close(found("let g = grad(loss, theta); score = grad(dot(g, g), theta)"), 2 * h @ g)
    close(found("let g = grad(loss, theta); score = grad(dot(g, theta), theta)"), h @ theta + g)
    close(found("let g = grad(loss, theta); score = grad(dot(g, detach(g)), mask)"), theta * (h @ g))
    close(found("let m = grad(loss, mask); score = grad(dot(m, detach(m)), mask)"), theta * (h @ (theta**2 * g)))
    close(found("let g = grad(loss, theta); score = g * dot(g, hvp(loss, mask * g))"), g * (g @ h @ (mask * g)))
    close(found("score = grad(loss * dot(theta, theta), theta)"), g * (theta @ theta) + 2 * theta * float(loss_value(case, masks)))


@pytest.mark.parametrize(
    "body", ["score = hvp(loss, theta)", "let g = grad(mean(losses, over = sample), theta); score = grad(dot(g, g), theta)"]
)
def test_a_mean_of_losses_is_the_loss_and_batches_change_nothing(body: str) -> None:
    case = built("block")
    data = torch.cat([case.signed, case.data]), torch.arange(6) % 3
    mine = find_pass(pass_of(body))
    found = capture(case.module, case.example_inputs, dtype=torch.float64)
    lengths: list[int] = []
    found.module.register_forward_pre_hook(lambda module, inputs: lengths.append(len(inputs[0])))
    whole, cut = (evaluate(mine, workspace(found, mine, {}, torch.float64, Evidence(data, batch=b)), 0) for b in (None, 4))
    assert set(lengths) == {6, 4, 2}
    again = score(case.module, case.example_inputs, mine.text.replace("mean(losses, over = sample)", "loss"), data=data)
    for name in whole:
        close(cut[name].numpy(), whole[name].numpy(), 1e-12)
        close(again[name].numpy(), whole[name].numpy(), 1e-12)


def test_what_is_made_of_outputs_is_differentiated_twice_batch_by_batch() -> None:
    """A loss that joins all samples: not a sum over batches."""
    case = built("block")
    body = "let F = norm2(sum(output^2, over = output), over = sample) + cross_entropy(output)^2; score = hvp(F, theta)"

    def function(w):
        out = logits(case, w, case.signed)
        return out.square().sum(1).square().sum().sqrt() + F.cross_entropy(out, labels(case)) ** 2

    _, h = dense(case, function, None)
    mine = find_pass(pass_of(body))
    for batch in (None, 2):
        work = workspace(captured("block"), mine, {}, torch.float64, Evidence((case.signed, labels(case)), batch=batch))
        close(flat(evaluate(mine, work, 0).values()).numpy(), h @ case.theta)


def test_dropout_draws_the_same_in_every_run_of_a_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    mine = find_pass(
        pass_of("score = grad(dot(grad(loss, theta), theta), theta) - grad(loss, theta) - hvp(loss, theta); mode = train")
    )
    network = capture(model, x[:1], dtype=torch.float64)
    for batch in (None, 2):
        found = evaluate(mine, workspace(network, mine, {}, torch.float64, Evidence((x, y), batch=batch)), 0)
        assert max(float(t.abs().max()) for t in found.values()) < 1e-14


@pytest.mark.parametrize("name", ["block", "residual", "avg_pool", *TIED])
def test_second_derivatives_of_path_functionals_are_sums_over_paths(name: str) -> None:
    case = built(name)
    theta = case.theta
    counts, values = crossings(case, constants=False)
    by_w = hessian_of(counts, values**2, theta**2)
    slope = counts.T @ values**2 / theta**2
    by_theta = 4 * np.outer(theta, theta) * by_w + np.diag(2 * slope)
    by_edge = hessian_of(counts, abs(values), abs(theta))
    R = "let w = theta^2; let R = paths(edge = w, pools = sum)"
    S = "let a = abs(theta); let S = paths(edge = a, pools = sum)"
    v = theta / (1 + theta**2)
    close(scored(case, pass_of(f"{R}; score = grad(dot(grad(R, w), detach(theta / (1 + theta^2))), w)")), by_w @ v)
    close(scored(case, pass_of(f"{R}; score = hvp(R, theta / (1 + theta^2))")), by_theta @ v)
    close(scored(case, pass_of(f"{R}; score = grad(dot(grad(R, mask), mask), mask)")), theta * (by_theta @ theta))
    close(scored(case, pass_of(f"{S}; score = grad(dot(mask, grad(S, a)), a)")), by_edge @ np.ones_like(theta))
    close(scored(case, pass_of(f"{S}; score = hvp(S, theta / (1 + theta^2))")), np.sign(theta) * (by_edge @ (np.sign(theta) * v)))
    both = f"{R}; {S}; score = hvp(R + S^2, theta / (1 + theta^2))"
    total, first = abs(values).sum(), np.sign(theta) * (counts.T @ abs(values)) / abs(theta)
    signs = np.outer(np.sign(theta), np.sign(theta))
    close(scored(case, pass_of(both)), (by_theta + 2 * total * signs * by_edge + 2 * np.outer(first, first)) @ v)
    count = "let N = paths(edge = 1, pools = sum); score = grad(dot(grad(N, 1), mask), 1)"
    close(scored(case, pass_of(count)), hessian_of(counts, np.ones(len(values)), np.ones_like(theta)) @ np.ones_like(theta))


@pytest.mark.parametrize(("power", "dtype", "most"), [(50, torch.float64, 1023), (8, torch.float32, 127)])
def test_what_carries_an_exponent_carries_it_through_second_derivatives(power: int, dtype: torch.dtype, most: int) -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(11) for m in (nn.Linear(4, 4, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(4, 2, bias=False)).to(dtype)
    x = torch.zeros(1, 4, dtype=dtype)
    plain = score(model, x, "path-kernel-trace", dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p *= 2.0**power
    large = score(model, x, "path-kernel-trace", dtype=dtype)
    assert large.exponent > most, "the plain sum would fit: the test shows nothing"
    assert any(bool(t.abs().max() > 0) for t in plain.values())
    for name in plain:  # tau has the degree 2 * 12 - 2 in theta
        expected = plain[name] * 2.0 ** (plain.exponent + 22 * power - large.exponent)
        torch.testing.assert_close(large[name], expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("score = hvp(loss, loss)", "PKC111", "must have|which is a number"),
        ("score = hvp(output, theta)", "PKC112", "which has the axes"),
        ("score = hvp(loss)", "PKC110", "'hvp' takes 2 arguments, not 1"),
        ("score = hvp(hvp(loss, theta), theta)", "PKC112", "which has the axes"),
        ("score = hvp(dot(grad(loss, theta), theta), theta)", "PKC112", "up to derivatives of derivatives"),
        ("let h = hvp(loss, theta); score = grad(dot(h, h), theta)", "PKC112", "up to derivatives of derivatives"),
        ("score = grad(dot(squares(output, theta), theta), theta)", "PKC112", "up to derivatives of derivatives"),
        ("let w = theta^2; let R = paths(edge = w); score = grad(dot(grad(R, w), theta), w)", "PKC112", "cannot be derived by 'w'"),
        ("let w = theta^2; let R = paths(edge = w); score = grad(dot(grad(R, theta), mask), w)", "PKC112", "cannot be derived"),
        ("score = grad(grad(loss, theta), theta)", "PKC112", "which has the axes"),
        ("score = grad(dot(mask, mask), theta)", "PKC112", "does not depend on theta"),
        ("score = squares(loss, theta)", "PKC111", "squares"),
        ("score = theta * losses", "PKC111", "between"),
    ],
)
def test_misuse_is_reported_before_any_model(body: str, code: str, message: str) -> None:
    with pytest.raises(PkcError, match=message) as caught:
        find_pass(pass_of(body))
    assert code in {d.code for d in caught.value.diagnostics}


def test_an_operator_without_a_second_derivative_is_named() -> None:
    with pytest.raises(PkcError, match="aten::some_backward") as caught, gradient.refusing():
        raise RuntimeError("derivative for aten::some_backward is not implemented")
    assert caught.value.diagnostics[0].code == "PKC544"
    with pytest.raises(RuntimeError, match="anything else"), gradient.refusing():
        raise RuntimeError("anything else")
