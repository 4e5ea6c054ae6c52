"""What tests of second derivatives share: a block with everything in it, dense Hessians, paths one by one."""

from __future__ import annotations

from functools import cache
from math import prod

import numpy as np
import torch
from oracle.case import Case, family
from oracle.enumerate import Structure, list_paths
from oracle.families import FAMILIES
from torch import nn
from torch.nn import functional as F

from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.score import evaluate, workspace

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


BLOCK = FAMILIES.pop("block")  # of these tests alone
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
    work = workspace(captured(case.name), chosen, masks or {}, torch.float64, Evidence((case.signed, labels(case)), loss))
    found = evaluate(chosen, work, 0)
    return flat([found[n] for n, _ in case.module.named_parameters()]).numpy() * 2.0**found.exponent


def close(got, expected, tolerance=TOLERANCE) -> None:
    assert abs(expected).max() > 0
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


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


def crossings(case: Case, constants: bool) -> tuple[np.ndarray, np.ndarray]:
    """n_ip [paths, parameters] and the values v_p at theta, of all paths to all outputs (pools = sum)."""
    paths = [p for listed in list_paths(case.dag, Structure(constants=constants)) for p in listed]
    counts = np.array([np.bincount(p.parameters, minlength=len(case.theta)) for p in paths])
    return counts, np.array([p.coefficient * prod(case.theta[i] for i in p.parameters) for p in paths])


def hessian_of(counts: np.ndarray, values: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The Hessian in u of the sum of values, each a product of powers u_i^n_ip."""
    gradient = counts.T @ values
    return (counts.T @ (counts * values[:, None]) - np.diag(gradient)) / np.outer(u, u)
