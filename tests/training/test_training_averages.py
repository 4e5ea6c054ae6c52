"""Averages of weights beside a schedule that prunes in training: one call holds every round's masks on them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pkcompiler.diagnostics import PkcError
from tests.training.training_runs import GRADUAL, REWIND, RIGL, Training, network

KINDS = {
    "equal weights": AveragedModel,
    "exponential": lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
}


def averaged(text: str, kind: str, follow: bool = True) -> tuple[Training, AveragedModel]:
    """A run in which an average is updated after every step; that it is masked is looked at after every update."""
    kept: list[AveragedModel] = []

    def check(cycle: object) -> None:
        assert not follow or zeros(run, kept[0])

    def update(cycle: object) -> None:
        kept[0].update_parameters(run.net)
        check(cycle)

    run = Training(text, after_step=update, after_epoch=check)
    kept.append(KINDS[kind](run.net))
    if follow:
        assert run.cycles.follow(kept[0]) is kept[0]
    run.run()
    return run, kept[0]


def zeros(run: Training, average: AveragedModel) -> bool:
    """Whether the average has no weight where a mask has none."""
    parameters, state = dict(average.module.named_parameters()), average.state_dict()
    return all(not t[~m].any() for n, m in run.cycles.masks.items() for t in (parameters[n], state[f"module.{n}"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [GRADUAL, REWIND, RIGL], ids=["gradual", "rewind", "rigl"])
def test_one_call_keeps_an_average_masked(text: str, kind: str) -> None:
    run, average = averaged(text, kind)
    assert run.cycles.visits and zeros(run, average) and any(p.any() for p in average.parameters())
    with torch.no_grad():
        assert average.eval()(run.x).isfinite().all()


def test_without_the_call_an_average_is_dense() -> None:
    assert not zeros(*averaged(GRADUAL, "equal weights", follow=False))


def test_a_network_of_the_same_parameters_follows_too() -> None:
    run = Training(GRADUAL)
    twin = copy.deepcopy(run.net)
    run.cycles.follow(twin)
    run.run()
    parameters = dict(twin.named_parameters())
    assert all(not parameters[n][~m].any() and m.any() for n, m in run.cycles.masks.items())


@pytest.mark.parametrize("other", [nn.Linear(6, 3), nn.Sequential(*network()[:4]), nn.Sequential(nn.Linear(6, 9), *network()[1:])])
def test_an_average_of_another_model_is_refused_by_name(other: nn.Module) -> None:
    with pytest.raises(PkcError, match=r"PKC461.*parameter '"):
        Training(GRADUAL).cycles.follow(AveragedModel(other))
