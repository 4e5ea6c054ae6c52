"""Expressions of passes against independent evaluations: plain autograd, identities, and forms that mean the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pkcompiler import PkcError, score
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring import terms
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.functions.arithmetic import REDUCERS
from pkcompiler.scoring.functions.chance import seeded_uniform
from pkcompiler.scoring.terms import PARAM, Term

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3
DATA = (X, Y)


def network() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).double()
    nn.init.uniform_(model[1].weight, -1.5, 1.5)
    nn.init.uniform_(model[1].bias, -0.5, 0.5)
    model[1].running_mean.uniform_(-0.3, 0.3)
    return model.eval()


def pass_of(body: str) -> str:
    return 'pass mine {\n  source = "a test"\n' + "".join(f"  {line}\n" for line in body.split("; ")) + "}\n"


def scores(body: str, masks=None, data=DATA):
    return score(network(), X[:1], pass_of(body), data=data, masks=masks)


def plain(found):
    return {n: t * 2.0**found.exponent for n, t in found.items()}


def same(left, right, rtol=1e-10):
    a, b = plain(left), right if isinstance(right, dict) else plain(right)
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=rtol * float(max(t.abs().max() for t in b.values())))


def half_masks():
    generator = torch.Generator().manual_seed(5)
    return {n: torch.rand(p.shape, generator=generator) < 0.6 for n, p in network().named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("name", ["synflow", "snip", "phew"])
def test_masks_of_numbers_are_masks(name):
    masks = half_masks()
    numbers = {n: m.double() for n, m in masks.items()}
    found, expected = (score(network(), X[:1], name, data=DATA, masks=m) for m in (numbers, masks))
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("masks", [None, half_masks()], ids=["whole", "masked"])
def test_snip_is_plain_autograd_at_the_masked_weights(masks):
    model = network()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if masks and name in masks:
                parameter *= masks[name]
    F.cross_entropy(model(X), Y).backward()
    theta = dict(network().named_parameters())
    expected = {n: (theta[n].detach() * p.grad).abs() for n, p in model.named_parameters()}
    same(score(network(), X[:1], "snip", data=DATA, masks=masks), expected)


def test_a_loss_is_accumulated_before_the_absolute_value():
    from pkcompiler.frontend.capture import capture
    from pkcompiler.lang.library import find_pass
    from pkcompiler.scoring.score import evaluate, workspace

    snip = find_pass("snip")
    captured = capture(network(), X[:1], dtype=torch.float64)
    whole, cut = (evaluate(snip, workspace(captured, snip, {}, torch.float64, Evidence(DATA, batch=b)), 0) for b in (None, 5))
    same(cut, whole)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (
            "let R = paths(edge = abs(theta)); score = theta * grad(R, theta)",
            "let R = paths(edge = abs(theta)); score = abs(theta) * grad(R, abs(theta))",
        ),
        (
            "let R = paths(edge = theta^2); score = theta * grad(R, theta)",
            "let R = paths(edge = theta^2); score = 2 * theta^2 * grad(R, theta^2)",
        ),
        ("let R = paths(edge = theta^2); score = grad(R, mask)", "let R = paths(edge = theta^2); score = theta * grad(R, theta)"),
        (
            "let R = paths(edge = abs(theta)); score = grad(R, theta) * theta",
            "let R = paths(edge = abs(theta)); score = grad(R, theta) / (1 / theta)",
        ),
        (
            "let R = paths(edge = abs(theta)); score = theta * grad(log(R), theta)",
            "let R = paths(edge = abs(theta)); score = theta * grad(R, theta) / R",
        ),
        (
            "let R = paths(edge = abs(theta)); score = theta * grad(R^2, theta)",
            "let R = paths(edge = abs(theta)); score = 2 * R * (theta * grad(R, theta))",
        ),
        (
            "let R = paths(edge = theta^2); score = theta * grad(sqrt(R), theta)",
            "let R = paths(edge = theta^2); score = theta * grad(R, theta) / (2 * sqrt(R))",
        ),
        ("score = abs(theta * grad(loss, theta))", "score = abs(theta * grad(cross_entropy(output), theta))"),
        (
            "let R = paths(edge = theta^2, input = mean(data)^2); score = theta^2 * grad(R, theta^2)",
            "let m = mean(data); let R = paths(edge = theta^2, input = m * m); score = theta^2 * grad(R, theta^2)",
        ),
        (
            "let R = paths(edge = abs(theta), input = data); score = theta * grad(mean(R, over = sample), theta)",
            "let R = paths(edge = abs(theta), input = data, output = each); "
            "score = theta * grad(sum(mean(R, over = sample), over = output), theta)",
        ),
        (
            "let R = paths(edge = abs(theta), pools = sum, input = data); score = theta * grad(mean(R, over = sample), theta)",
            "let R = paths(edge = abs(theta), pools = sum, input = mean(data)); score = theta * grad(R, theta)",
        ),
        ("score = abs(theta) / sum(abs(theta), over = layer)", "score = abs(theta) / (norm2(sqrt(abs(theta)), over = layer)^2)"),
        (
            "let R = paths(edge = abs(theta)); let S = paths(edge = theta^2); score = theta * grad(R + S, theta)",
            "let R = paths(edge = abs(theta)); let S = paths(edge = theta^2); "
            "score = theta * grad(R, theta) + theta * grad(S, theta)",
        ),
        (
            "let R = paths(edge = abs(theta)); score = theta * grad(R * detach(R), theta)",
            "let R = paths(edge = abs(theta)); score = R * (theta * grad(R, theta))",
        ),
        ("score = dot(theta, theta) * abs(theta)", "score = sum(theta^2, over = param) * abs(theta)"),
    ],
)
def test_two_ways_to_say_the_same(left, right):
    for masks in (None, half_masks()):
        a, b = scores(left, masks), scores(right, masks)
        assert any(float(t.abs().max()) > 0 for t in b.values())
        same(a, b)


def test_px_is_the_weighted_functional_of_its_definition():
    """theta^2 dR/dw with R = sum over samples and outputs of g_k(x_n) R_2,k: one functional per output, weighted by hand."""
    text = pass_of(
        "let w = theta^2; let reach = paths(edge = 1, input = data^2, gates = data^2, pools = data, output = each); "
        "let R = paths(edge = w, pools = sum, output = sum(detach(reach), over = sample)); score = w * grad(R, w)"
    )
    got = plain(score(network(), X[:1], text, data=DATA))
    from pkcompiler import path_functional

    reach = path_functional(network(), X[:1], edge="1", input="data^2", gates="data^2", pools="data", output="each", data=DATA)
    weights = reach.mantissa.sum(0) * 2.0**reach.exponent
    total = {n: torch.zeros_like(t) for n, t in got.items()}
    for k in range(3):
        one = path_functional(network(), X[:1], edge="theta^2", pools="sum", output=torch.eye(3, dtype=torch.float64)[k])
        for name, grad in one.grad.items():
            total[name] += weights[k] * grad * 2.0**one.exponent
    theta = dict(network().named_parameters())
    for name, t in got.items():
        torch.testing.assert_close(t, theta[name].detach() ** 2 * total[name], rtol=1e-10, atol=1e-12)


def test_uniform_numbers_depend_on_seed_and_name_alone():
    like = torch.zeros(50)
    assert torch.equal(seeded_uniform("a.weight", like, 1), seeded_uniform("a.weight", like, 1))
    assert not torch.equal(seeded_uniform("a.weight", like, 1), seeded_uniform("a.weight", like, 2))
    assert not torch.equal(seeded_uniform("a.weight", like, 1), seeded_uniform("b.weight", like, 1))


def test_scoring_leaves_the_model_alone():
    model = network().float().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    score(model, X[:1].float(), "snip", data=(X.float(), Y))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("body", "data", "code"),
    [
        ("score = abs(theta * grad(loss, theta))", None, "PKC502"),
        ("score = abs(theta * grad(loss, theta))", (X, torch.rand(12)), "PKC506"),
        ("score = (theta - theta) / (theta - theta)", None, "PKC507"),
        ("score = abs(theta * grad(loss, theta))", (X[:, :, :3], Y), "PKC505"),
    ],
)
def test_what_cannot_be_scored_is_diagnosed(body, data, code):
    with pytest.raises(PkcError) as caught:
        scores(body, data=data)
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.full((12,), 14), "target 14, but the model has"),
        (torch.full((12,), -1), "target -1, but the model has"),
        (torch.zeros(12, 2, dtype=torch.long), "the targets are no class labels of this output"),
    ],
)
@pytest.mark.parametrize("loss", ["loss", "cross_entropy(output)"])
def test_labels_that_do_not_fit_the_output_are_diagnosed(y, message, loss):
    with pytest.raises(PkcError, match=message) as caught:
        scores(f"score = abs(theta * grad({loss}, theta))", data=(X, y))
    assert caught.value.diagnostics[0].code == "PKC506"


@pytest.mark.parametrize("loss", [lambda o, y: o, lambda o, y: 1.0])
def test_a_loss_that_is_no_number_is_diagnosed(loss):
    with pytest.raises(PkcError, match="returned") as caught:
        score(network(), X, "snip", data=DATA, loss=loss)
    assert caught.value.diagnostics[0].code == "PKC412"


@pytest.mark.parametrize("name", ["snip", "grasp", "px"])
def test_the_classes_of_a_language_model_are_last(name):
    """Labels [sample, position] of an output [sample, position, class]: as by a loss that flattens them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7))
    x, y = torch.randint(0, 7, (4, 3)), torch.randint(0, 7, (4, 3))

    def flattened(output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    by_hand = find_pass(name).text.replace("cross_entropy(output / 200)", "loss")
    temperature = 200 if name == "grasp" else 1
    found = score(model, x[:1], name, data=(x, y))
    expected = score(model, x[:1], by_hand, data=(x, y), loss=lambda o, t: flattened(o / temperature, t))
    assert all(torch.allclose(found[n], expected[n], rtol=1e-12, atol=0) for n in expected)


REDUCED: dict[str, Callable[[np.ndarray, int | None], np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "norm2": lambda t, axis: np.sqrt(np.sum(np.square(t), axis)),
}


@pytest.mark.parametrize("name", REDUCERS)
def test_a_reducer_is_one_function_over_every_axis(name: str) -> None:
    """Over samples, outputs, a layer and all parameters, beside NumPy; a reducer without a definition here fails."""
    reducer, function = REDUCERS[name], REDUCED[name]
    plain = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = Term(frozenset({"sample", "output"}), plain)
    np.testing.assert_allclose(terms.reduce(reducer, values, "sample").tensor, function(plain.numpy(), 0), rtol=1e-14)
    flat = plain.reshape(3, 8).numpy()
    np.testing.assert_allclose(terms.reduce(reducer, values, "output").tensor, function(flat, 1), rtol=1e-14)
    weights = Term(PARAM, {"a": plain[0], "b": -plain[1, :, 0]})
    layers = terms.reduce(reducer, weights, "layer").tensors
    for part, given in weights.tensors.items():
        np.testing.assert_allclose(layers[part], np.full(given.shape, function(given.numpy().ravel(), 0)), rtol=1e-14)
    every = np.concatenate([t.numpy().ravel() for t in weights.tensors.values()])
    np.testing.assert_allclose(terms.reduce(reducer, weights, "param").tensor, function(every, 0), rtol=1e-14)
    alone = Term(frozenset({"output"}), torch.tensor(-2.0, dtype=torch.float64))
    np.testing.assert_allclose(terms.reduce(reducer, alone, "output").tensor, function(np.array([-2.0]), 0))
