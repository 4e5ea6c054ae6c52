"""grasp, abs-grasp and ntk-sap are what the released programs compute: over the prunable weights, at the same statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pkcompiler import PkcError, prune, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.score import evaluate, workspace
from tests.scoring import released
from tests.scoring.test_criteria_fresh import numbers


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def normed_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3)
    )


def convolutions() -> nn.Module:
    first = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, groups=1, bias=False)]
    return nn.Sequential(*first, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


MODELS = {"mlp": (mlp, (4,)), "normed_mlp": (normed_mlp, (4,)), "convolutions": (convolutions, (1, 4, 4))}


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = MODELS[name]
    net = released.redrawn(make, lambda size, entry: numbers(size, "built", entry)).eval()
    return net, numbers((8, *shape), "data"), torch.arange(8) % 3


def halves(net: nn.Module) -> dict[str, Tensor]:
    return {n: numbers(tuple(w.shape), "masks", n) > -0.6 for n, w in released.prunable(net)}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-14) -> None:
    scale = max(float(t.abs().max()) for t in wanted.values())
    assert scale > 0
    for name, tensor in wanted.items():
        assert float((found[name] - tensor).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_grasp_is_what_the_released_program_computes(name: str, mode: str) -> None:
    """Four times the score, for both g and H are sums over two halves there; the half is the batch of a BatchNorm in training."""
    net, x, y = built(name)
    captured = capture(net, x[:1], dtype=torch.float64)
    names = [n for n, _ in released.prunable(net)]
    net.train(mode == "train")
    wanted = dict(zip(names, released.grasp(net, x, y, [w for _, w in released.prunable(net)]), strict=True))
    found = {}
    for pass_ in ("grasp", "abs-grasp", "grasp-all"):
        chosen = find_pass(find_pass(pass_).text.replace("rounds = 1", f"mode = {mode}\n rounds = 1"))
        got = evaluate(chosen, workspace(captured, chosen, {}, torch.float64, Evidence((x, y), batch=4)), 0)
        found[pass_] = {n: 4 * got[n] * 2.0**got.exponent for n in names}
    same(found["grasp"], wanted)
    same(found["abs-grasp"], {n: t.abs() for n, t in wanted.items()})
    with pytest.raises(AssertionError):
        same(found["grasp-all"], wanted, 1e-3)


def test_prunable_is_what_include_adds_and_except_leaves_in() -> None:
    """The released algorithm over weights and biases; what except protects counts as prunable in g and H."""
    net, x, y = built("mlp")
    names = [n for n, _ in net.named_parameters()]
    wanted = dict(zip(names, released.grasp(net, x, y, list(net.parameters())), strict=True))
    text = 'schedule s {\n prune grasp {\n  density = 50%\n  include = bias\n  except = "2.*"\n }\n}\n'
    masks = prune(net, x[:1], schedule=text, data=(x, y)).masks
    competing = [n for n in names if not n.startswith("2.")]
    assert set(masks) - set(competing) <= {"2.weight", "2.bias"} and all(bool(m.all()) for n, m in masks.items() if n[0] == "2")
    kept = torch.cat([masks[n].flatten() for n in competing])
    order = torch.cat([wanted[n].flatten() for n in competing])
    assert bool(order[kept].min() > order[~kept].max()) and bool(kept.any()) and not bool(kept.all())


def test_prunable_has_a_value_for_every_parameter() -> None:
    net, x, _ = built("convolutions")
    found = score(net, x[:1], 'pass p { source = "x" score = prunable }')
    weights = {n for n, _ in released.prunable(net)}
    assert all(bool((found[n] == float(n in weights)).all()) for n, _ in net.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_ntk_sap_is_what_the_released_program_computes(name: str) -> None:
    """The sum over 100 samples and 5 draws is 500 times the mean; the model's own statistics are read by neither."""
    net, x, _ = built(name)
    masks = halves(net)

    def fresh(seed: int) -> nn.Module:
        return released.redrawn(MODELS[name][0], lambda size, entry: numbers(size, "fresh", entry, seed=seed)).eval()

    draws = []
    for r in range(5):
        again = fresh(Draw(7, (0, 0), r).number("init"))
        shift = {n: 0.01 * numbers(tuple(w.shape), "noise", 1, n, seed=7, repetition=r) for n, w in released.prunable(again)}
        draws.append((again, numbers((100, *x.shape[1:]), "noise", 0, seed=7, repetition=r), shift))
    wanted = released.ntk_sap(draws, masks)
    found = score(net, x[:1], "ntk-sap", masks=masks, seed=7, initialise=fresh)
    same({n: 500 * found[n] * 2.0**found.exponent * masks[n] for n in wanted}, wanted, 1e-12)


def test_statistics_of_one_value_and_in_training_mode_are_refused() -> None:
    net, x, _ = built("normed_mlp")
    body = "score = grad(sum(sum(model(noise(), statistics = noise(count = 1)), over = output), over = sample), mask)"
    for text, said in ((body, "two values or more"), (body + " mode = train", "its own batch")):
        with pytest.raises(PkcError, match=said) as caught:
            score(net, x[:1], f'pass p {{ source = "x" {text} }}')
        assert caught.value.diagnostics[0].code == "PKC565"
