"""grasp and its kin, force, fisher, hessian-diagonal, path-kernel-trace: against plain autograd and every path one by one."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import Structure, gram, list_paths, run
from torch import nn
from torch.nn import functional as F

from pkcompiler import prune, score
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import find_pass
from tests.scoring.second_tools import (
    ONCE,
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
    loss_of,
    masked,
    scored,
    weights_of,
)


@pytest.mark.parametrize("name", ["block", "residual", "batch_norm", "max_pool", "avg_pool", *TIED, "silu_mlp", "squeeze_excite"])
@pytest.mark.parametrize("with_masks", [False, True], ids=["whole", "masked"])
def test_criteria_of_the_loss_are_plain_autograd(name: str, with_masks: bool) -> None:
    case = built(name)
    masks = masked(case) if with_masks else None
    theta = case.theta
    g, h = dense(case, lambda w: loss_of(case, w, 200.0), masks)
    kept = flat([(masks or {}).get(n, torch.ones_like(p)) for n, p in case.module.named_parameters()]).numpy()
    close(scored(case, "grasp-all", masks), theta * (h @ (kept * g)))
    close(scored(case, "abs-grasp-all", masks), abs(theta * (h @ (kept * g))))
    default = {s.name for s in captured(name).graph.prunable}
    prunable = flat([torch.full_like(p, n in default) for n, p in case.module.named_parameters()]).numpy()
    close(scored(case, "grasp", masks), theta * (h @ (prunable * kept * g)))
    close(scored(case, "abs-grasp", masks), abs(theta * (h @ (prunable * kept * g))))
    weights = weights_of(case, masks)
    g = flat(torch.autograd.grad(loss_of(case, weights), list(weights.values()))).numpy()
    close(scored(case, "grasp-it", masks), g**2)
    close(scored(case, "force", masks), abs(theta * g))
    fisher = np.zeros_like(theta)
    for x, y in zip(case.signed, labels(case), strict=True):
        one = F.cross_entropy(logits(case, weights, x[None]), y[None])
        fisher += flat(torch.autograd.grad(one, list(weights.values()))).numpy() ** 2
    close(scored(case, "fisher", masks), theta**2 / 2 * fisher / len(case.signed))


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
    for temperature, pass_ in ((1.0, "snip"), (200.0, "grasp-all")):
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


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("grasp", "theta_i * (sum over j of d^2 L / (d theta_i d theta_j) * ((prunable_j * mask_j) * d L / d theta_j))"),
        ("grasp-all", "theta_i * (sum over j of d^2 L / (d theta_i d theta_j) * (mask_j * d L / d theta_j))"),
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


@pytest.mark.filterwarnings("ignore:.*position alone chose it:UserWarning")  # dead units score 0 where data are read
@pytest.mark.parametrize("name", ["grasp", "grasp-all", "path-kernel-trace"])
def test_a_run_scores_by_all_parameters_and_prunes_the_prunable(name: str) -> None:
    """Biases and gains take part in H v where they are not pruned, too."""
    case = built("block")
    data = case.signed, labels(case)
    scores = score(case.module, case.example_inputs, name, data=data)
    pruned = prune(case.module, case.example_inputs, name, density=0.5, rounds=1, data=data)
    flat_scores = torch.cat([scores[n].reshape(-1) for n in pruned.masks])
    kept = torch.cat([m.reshape(-1) for m in pruned.masks.values()])
    assert bool(flat_scores[kept].min() >= flat_scores[~kept].max()) and flat_scores.max() > flat_scores.min()
