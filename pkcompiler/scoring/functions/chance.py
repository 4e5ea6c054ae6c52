"""``uniform()``: random scores."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from pkcompiler.lang.ast import Typed
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.terms import PARAM, Term


def _uniform(evaluation: Evaluation, node: Typed) -> Term:
    """Uniform on [0, 1), drawn per parameter name from the seed: a parameter's numbers do not depend on the others."""
    return Term(PARAM, {name: seeded_uniform(name, t, evaluation.seed) for name, t in evaluation.work.theta.items()})


def seeded_uniform(name: str, like: Tensor, seed: int) -> Tensor:
    """Uniform numbers in float64 on the CPU, seeded with SHA-256 of seed and name, in the dtype and device of ``like``."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)


VALUES: dict[str, Binding] = {"uniform": _uniform}
