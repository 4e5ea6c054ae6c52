"""Second derivatives and the criteria made of them, against plain autograd, dense Hessians, and every path one by one."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import pytest
import torch
from oracle.case import Case, family
from oracle.enumerate import Structure, gram, list_paths, run
from oracle.families import FAMILIES
from torch import nn
from torch.nn import functional as F

from pkcompiler import PkcError, prune, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.explain import explain
from pkcompiler.lang.library import find_pass
from pkcompiler.pruning import second
from pkcompiler.pruning.score import evaluate, workspace

TOLERANCE = 1e-10


@family(1, 3, 3, piecewise=True)
class Block(nn.Module):
    """Convolutions with BatchNorm around a max-pool, an identity skip, an average pool beside; no path crosses a weight twice."""

    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
        self.b, self.m = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.c, self.out = nn.Conv2d(1, 2, 2, bias=False), nn.Linear(2, 3)

    def forward(self, x):
        y = F.max_pool2d(self.n(self.a(x)).relu(), 2, stride=1)
        y = (self.m(self.b(y)) + y + F.avg_pool2d(self.c(x), 2)).relu()
        return self.out(y.flatten(1))

    def paths(self, g, x):
        y = g.max_pool(g.gate(g.batch_norm(g.conv(x, self.a), self.n), "relu"), 2, 1, 0)
        beside = g.average_pool(g.conv(x, self.c), 2, 2, 0, True)
        y = g.gate(g.combine([(g.batch_norm(g.conv(y, self.b), self.m), 1.0), (y, 1.0), (beside, 1.0)]), "relu")
        return g.linear(y.reshape(-1), self.out)


BLOCK = FAMILIES.pop("block")  # of this file alone
ONCE = (
    "block",
    "mlp_bias",
    "residual",
    "concat",
    "batch_norm",
    "max_pool",
    "avg_pool",
    "class_token",
    "conv_padded_strided_grouped",
)
TIED = ("shared_twice", "tied_weights")


@cache
def built(name: str) -> Case:
    return BLOCK() if name == "block" else FAMILIES[name]()


def labels(case: Case) -> torch.Tensor:
    return torch.arange(len(case.signed)) % len(case.dag.outputs)


def masked(case: Case) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {n: torch.rand(p.shape, generator=generator) < 0.7 for n, p in case.module.named_parameters() if p.dim() > 1}


def pass_of(body: str) -> str:
    return 'pass mine {\n  source = "a test"\n' + "".join(f"  {line}\n" for line in body.split("; ")) + "}\n"


@cache
def captured(name: str):
    return capture(built(name).module, built(name).example_inputs, dtype=torch.float64)


def scored(case: Case, pass_: str, masks=None, loss=None) -> np.ndarray:
    """The scores, flat in the order of the case's parameters."""
    chosen = find_pass(pass_)
    work = workspace(captured(case.name), chosen, masks or {}, torch.float64, (case.signed, labels(case)), loss)
    found = evaluate(chosen, work, 0)
    return flat([found[n] for n, _ in case.module.named_parameters()]).numpy() * 2.0**found.exponent


def close(got, expected, tolerance=TOLERANCE) -> None:
    assert abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


# the model's run, by plain autograd --------------------------------------------------------------------------------------


def weights_of(case: Case, masks) -> dict[str, torch.Tensor]:
    named = case.module.named_parameters()
    return {n: (p.detach() * (masks or {}).get(n, torch.ones_like(p))).requires_grad_() for n, p in named}


def logits(case: Case, weights, x) -> torch.Tensor:
    return torch.func.functional_call(case.module, weights, (x,))


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def dense(case: Case, function, masks) -> tuple[np.ndarray, np.ndarray]:
    """The gradient and the whole Hessian of ``function(weights)`` at theta * mask, row by row."""
    weights = weights_of(case, masks)
    leaves = list(weights.values())
    first = flat(torch.autograd.grad(function(weights), leaves, create_graph=True))
    zeros = [torch.zeros_like(t) for t in leaves]
    rows = []
    for entry in first:
        row = torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True) if entry.requires_grad else zeros
        rows.append(flat([z if r is None else r for r, z in zip(row, zeros, strict=True)]))
    return first.detach().numpy(), torch.stack(rows).numpy()


def loss_of(case: Case, weights, temperature=1.0) -> torch.Tensor:
    return F.cross_entropy(logits(case, weights, case.signed) / temperature, labels(case))


@pytest.mark.parametrize("name", ["block", "residual", "batch_norm", "max_pool", "avg_pool", *TIED, "silu_mlp", "squeeze_excite"])
@pytest.mark.parametrize("with_masks", [False, True], ids=["whole", "masked"])
def test_criteria_of_the_loss_are_plain_autograd(name: str, with_masks: bool) -> None:
    case = built(name)
    masks = masked(case) if with_masks else None
    theta = case.theta
    g, h = dense(case, lambda w: loss_of(case, w, 200.0), masks)
    close(scored(case, "grasp", masks), theta * (h @ g))
    close(scored(case, "abs-grasp", masks), abs(theta * (h @ g)))
    weights = weights_of(case, masks)
    g = flat(torch.autograd.grad(loss_of(case, weights), list(weights.values()))).numpy()
    close(scored(case, "grasp-it", masks), g**2)
    close(scored(case, "force", masks), abs(theta * g))
    fisher = np.zeros_like(theta)
    for x, y in zip(case.signed, labels(case), strict=True):
        one = F.cross_entropy(logits(case, weights, x[None]), y[None])
        fisher += flat(torch.autograd.grad(one, list(weights.values()))).numpy() ** 2
    close(scored(case, "fisher", masks), theta**2 / 2 * fisher / len(case.signed))


def user_loss(output, target):
    return output.tanh().square().mean() + (output.reshape(len(target), -1).sum(1) / 9 - target).square().mean()


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


def loss_value(case: Case, masks) -> torch.Tensor:
    with torch.no_grad():
        return user_loss(logits(case, weights_of(case, masks), case.signed), labels(case))


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
    whole, cut = (evaluate(mine, workspace(found, mine, {}, torch.float64, data, batch=b), 0) for b in (None, 4))
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
        work = workspace(captured("block"), mine, {}, torch.float64, (case.signed, labels(case)), batch=batch)
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
        found = evaluate(mine, workspace(network, mine, {}, torch.float64, (x, y), batch=batch), 0)
        assert max(float(t.abs().max()) for t in found.values()) < 1e-14


class Scaled(nn.Module):
    """One weight per input and output: at one-hot inputs the Hessian of a sum of functions of the outputs is diagonal."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -1.2, 0.8, 2.0], dtype=torch.float64))

    def forward(self, x):
        return x * self.weight


def test_hessian_diagonal_is_exact_where_the_hessian_is_diagonal() -> None:
    x = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 4.0]], dtype=torch.float64)
    model = Scaled()
    found = score(model, x[:1], "hessian-diagonal", data=(x, torch.zeros(4)), loss=lambda o, y: o.pow(4).sum(1).mean())
    w = model.weight.detach()
    close(found["weight"].numpy(), (w**2 / 2 * 12 * w**2 * x.diagonal() ** 4 / 4).numpy())


def test_hessian_diagonal_estimates_the_diagonal_with_the_variance_that_theory_says() -> None:
    case = built("block")
    _, h = dense(case, lambda w: loss_of(case, w), None)
    beside = np.sqrt((h**2).sum(1) - np.diag(h) ** 2)
    theta = case.theta
    found = [scored(case, find_pass("hessian-diagonal").text.replace("repeat = 20", f"repeat = {n}")) for n in (20, 80)]
    for estimate, draws in zip(found, (20, 80), strict=True):
        sigma = theta**2 / 2 * beside / draws**0.5
        assert (abs(estimate - theta**2 / 2 * np.diag(h)) <= 5 * sigma + 1e-12).all()
        assert abs(estimate - theta**2 / 2 * np.diag(h)).max() > 0


# path functionals, path by path ------------------------------------------------------------------------------------------


def crossings(case: Case, constants: bool) -> tuple[np.ndarray, np.ndarray]:
    """n_ip [paths, parameters] and the values v_p at theta, of all paths to all outputs (pools = sum)."""
    paths = [p for listed in list_paths(case.dag, Structure(constants=constants)) for p in listed]
    counts = np.array([np.bincount(p.parameters, minlength=len(case.theta)) for p in paths])
    return counts, np.array([p.coefficient * prod(case.theta[i] for i in p.parameters) for p in paths])


def hessian_of(counts: np.ndarray, values: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The Hessian in u of the sum of values, each a product of powers u_i^n_ip."""
    gradient = counts.T @ values
    return (counts.T @ (counts * values[:, None]) - np.diag(gradient)) / np.outer(u, u)


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


# the criteria, path by path ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("with_masks", [False, True], ids=["whole", "masked"])
def test_path_kernel_trace_is_what_removing_the_weight_takes_away(name: str, with_masks: bool) -> None:
    case = built(name)
    masks = masked(case) if with_masks else None
    mask = case.flat(masks or {})
    whole = np.trace(gram(case.dag, case.theta, mask=mask))
    got = scored(case, "path-kernel-trace", masks)
    few = np.flatnonzero(mask)[:: 5 if name in ("max_pool", "block") else 1]
    removed = [whole - np.trace(gram(case.dag, case.theta, mask=mask * (np.arange(len(mask)) != i))) for i in few]
    close(got[few], np.array(removed))


@pytest.mark.parametrize("name", TIED)
def test_path_kernel_trace_is_approximate_where_paths_cross_a_weight_twice(name: str) -> None:
    """The trace counts n_ip^2 v_p^2 / w_i for each path, the score n_ip and products of them."""
    case = built(name)
    counts, values = crossings(case, constants=True)
    tau = counts / case.theta**2
    hessian = hessian_of(counts, values**2, case.theta**2)
    got = scored(case, "path-kernel-trace")
    close(got, (tau * values[:, None] ** 2).sum(0) + case.theta**2 * hessian.sum(1))
    whole = np.trace(gram(case.dag, case.theta))
    ones = np.arange(len(case.theta))
    removed = np.array([whole - np.trace(gram(case.dag, case.theta, mask=(ones != i).astype(float))) for i in ones])
    assert (abs(got - removed) > 1e-3 * abs(removed)).any()


def run_by_paths(case: Case, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each output: n_ip [paths, parameters] and v_p a_p(x) x_s(p), of the paths through the winners of the model's own run."""
    record = run(case.dag, case.theta, x)

    def winner(number, lists):
        return int(np.argmax(record.values[list(case.dag.nodes[number].sources)]))

    out = []
    for paths in list_paths(case.dag, Structure(constants=True, centring=True, at_data=True), winner):
        value = [p.coefficient * prod(case.theta[i] for i in p.parameters) for p in paths]
        active = [prod(record.factors[g] for g in p.gates + p.frozen) * prod(x[s] for s in p.sources) for p in paths]
        counts = np.array([np.bincount(p.parameters, minlength=len(case.theta)) for p in paths])
        out.append((counts, np.array(value) * np.array(active)))
    return out


@pytest.mark.parametrize("name", ["block", "residual", "batch_norm", "shared_twice"])
def test_snip_grasp_and_synflow_are_sums_over_paths(name: str) -> None:
    """The unified view: one sum over paths, weighed by derivatives of the loss, by their products, or by nothing."""
    case = built(name)
    theta, data = case.theta, case.encode(case.signed)
    size = len(theta)
    for temperature, pass_ in ((1.0, "snip"), (200.0, "grasp")):
        g, h = np.zeros(size), np.zeros((size, size))
        for x, y in zip(data, labels(case).tolist(), strict=True):
            outputs = run_by_paths(case, x)
            f = np.array([values.sum() for _, values in outputs]) / temperature
            p = np.exp(f - f.max()) / np.exp(f - f.max()).sum()
            first = (p - (np.arange(len(p)) == y)) / temperature / len(data)
            bend = (np.diag(p) - np.outer(p, p)) / temperature**2 / len(data)
            jacobian = np.array([counts.T @ values / theta for counts, values in outputs])
            g += first @ jacobian
            h += jacobian.T @ bend @ jacobian
            h += sum(a * hessian_of(counts, values, theta) for a, (counts, values) in zip(first, outputs, strict=True))
        close(scored(case, pass_), abs(theta * g) if pass_ == "snip" else theta * (h @ g), 1e-9)
    if name not in ("max_pool", "block"):  # whose synflow takes the largest path mass of a window
        counts, values = crossings(case, constants=False)
        for pass_, power in (("synflow", 1), ("synflow-l2", 2)):
            close(scored(case, pass_), counts.T @ abs(values) ** power)


# the language ------------------------------------------------------------------------------------------------------------


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
    with pytest.raises(PkcError, match="aten::some_backward") as caught, second.refusing():
        raise RuntimeError("derivative for aten::some_backward is not implemented")
    assert caught.value.diagnostics[0].code == "PKC544"
    with pytest.raises(RuntimeError, match="anything else"), second.refusing():
        raise RuntimeError("anything else")


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("grasp", "theta_i * (sum over j of d^2 L / (d theta_i d theta_j) * (d L / d theta_j))"),
        ("grasp-it", "(d loss / d theta_i)^2"),
        ("force", "|theta_i * d loss / d theta_i|"),
        ("fisher", "sum over samples n of (d losses_n / d theta_i)^2"),
        ("path-kernel-trace", "w_i * (sum over j of d^2 R / (d w_i d w_j) * mask_j)"),
        ("hessian-diagonal", "z_i * (sum over j of d^2 loss / (d theta_i d theta_j) * z_j)"),
    ],
)
def test_explain_prints_the_formula(name: str, formula: str) -> None:
    line = next(line for line in explain(name).split("\n") if line.strip().startswith("score_i = "))
    assert formula in line


@pytest.mark.parametrize("name", ["grasp", "path-kernel-trace"])
def test_a_run_scores_by_all_parameters_and_prunes_the_prunable(name: str) -> None:
    """Biases and gains take part in H v where they are not pruned, too."""
    case = built("block")
    data = case.signed, labels(case)
    scores = score(case.module, case.example_inputs, name, data=data)
    pruned = prune(case.module, case.example_inputs, name, density=0.5, rounds=1, data=data)
    flat_scores = torch.cat([scores[n].reshape(-1) for n in pruned.masks])
    kept = torch.cat([m.reshape(-1) for m in pruned.masks.values()])
    assert bool(flat_scores[kept].min() >= flat_scores[~kept].max()) and flat_scores.max() > flat_scores.min()
