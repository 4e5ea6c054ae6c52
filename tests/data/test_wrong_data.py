"""Data that a model does not take: what is wrong with them is said, with the sample, and nothing is read as something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pkcompiler
from pkcompiler.data import load_data
from pkcompiler.diagnostics import PkcError

X, Y = torch.linspace(-1, 1, 12).reshape(3, 4), torch.tensor([0, 1, 1])
TOKENS = torch.tensor([[1, 2], [0, 4], [3, 3]])


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def reader() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))


WAYS: dict[str, Callable[[nn.Module, Tensor, Any], object]] = {
    "score": lambda m, x, d: pkcompiler.score(m, x, "snip", data=d),
    "prune": lambda m, x, d: pkcompiler.prune(m, x, "snip", density=0.5, data=d),
    "path_functional": lambda m, x, d: pkcompiler.path_functional(m, x, input="data", data=d),
    "ntk": lambda m, x, d: pkcompiler.ntk(m, d, example_inputs=x).trace(),
    "run_analysis": lambda m, x, d: pkcompiler.run_analysis(m, x, "ntk", data=d),
    "dynamics": lambda m, x, d: pkcompiler.dynamics(m, d, lr=0.1, steps=1, example_inputs=x),
    "LossPathKernel": lambda m, x, d: pkcompiler.LossPathKernel(m, d, 0.1, 1, example_inputs=x),
}


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(PkcError) as caught:
        call()
    first = caught.value.diagnostics[0]
    return first.code, first.message


@pytest.mark.parametrize("way", WAYS)
def test_samples(way: str) -> None:
    bad = X.clone()
    bad[1, 2] = math.nan
    cases = [
        ((bad, Y), "PKC666", "1 sample: 1"),
        ((bad.nan_to_num(math.inf), Y), "PKC666", "1 sample: 1"),
        ((X.to("meta"), Y), "PKC505", "meta device"),
        ((X.to_sparse(), Y), "PKC505", "is sparse"),
    ]
    for data, code, said in cases:
        found = refusal(lambda data=data: WAYS[way](mlp(), X[:1], data))
        assert found[0] == code and said in found[1]
    assert refusal(lambda: WAYS[way](mlp(), X[:1], (X[:0], Y[:0])))[0] in ("PKC505", "PKC526")


@pytest.mark.parametrize("way", WAYS)
def test_tokens(way: str) -> None:
    past = TOKENS.clone()
    past[2, 0] = 7
    code, message = refusal(lambda: WAYS[way](reader(), TOKENS[:1], (past, Y)))
    assert code == "PKC505" and "fails at sample 2" in message
    code, message = refusal(lambda: WAYS[way](reader(), TOKENS[:1], (TOKENS.float(), Y)))
    assert code == "PKC505" and "float32, the example input int64" in message
    WAYS[way](reader(), TOKENS[:1], (TOKENS, Y))


@pytest.mark.parametrize("way", ["score", "prune"])
@pytest.mark.parametrize(
    ("y", "code"),
    [
        (3, "PKC663"),
        ("cat", "PKC663"),
        (Y[:2], "PKC663"),
        (torch.tensor(1), "PKC663"),
        (Y.to("meta"), "PKC663"),
        (torch.tensor([0.5, math.nan, 1.0]), "PKC666"),
        (torch.tensor([0.5, math.inf, 1.0]), "PKC666"),
    ],
)
def test_targets(way: str, y: object, code: str) -> None:
    assert refusal(lambda: WAYS[way](mlp(), X[:1], (X, y)))[0] == code


def test_a_failure_of_ours_is_not_blamed_on_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("ours")

    monkeypatch.setattr("pkcompiler.scoring.score.repeated", broken)
    with pytest.raises(IndexError, match="ours"):
        pkcompiler.score(mlp(), X[:1], "snip", data=(X, Y))


def test_too_few_samples_of_a_class_by_default_and_as_asked(tmp_path: Any) -> None:
    import numpy as np

    file = tmp_path / "few.npz"
    np.savez(file, x=X.numpy(), y=Y.numpy())
    assert "10 are drawn where no number is given" in refusal(lambda: load_data(f"{file}"))[1]
    assert "3 are asked for" in refusal(lambda: load_data(f"{file}(per_class = 3)"))[1]
