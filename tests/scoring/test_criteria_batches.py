"""Scores do not depend on how samples are cut into batches, whatever the loss divides by; what a loss may return."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler import PkcError, score
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.score import evaluate, workspace
from pkcompiler.scoring.total_loss import load_loss

N, CLASSES, IGNORED = 8, 4, -100
WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 0.5], dtype=torch.float64)


@cache
def drawn() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double(), torch.randn(N, 3, dtype=torch.float64)


@cache
def reading() -> tuple[nn.Module, Tensor]:
    """A language model: [sample, position] to [sample, position, class]."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double(), torch.randint(7, (N, 3))


LABELS = torch.tensor([0, IGNORED, 2, 3, 1, 1, IGNORED, 0])
TOKENS = torch.tensor(
    [[0, 1, 2], [IGNORED, 3, 3], [IGNORED] * 3, [2, 2, 1], [0, IGNORED, IGNORED], [3, 0, 1], [1, 1, 2], [0, 2, 3]]
)
ELSE = torch.where(LABELS == IGNORED, 3, LABELS)


def pair(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The squares of the true class's logits by what the classes weigh."""
    weights = WEIGHTS[target]
    return (weights * (output.gather(1, target[:, None])[:, 0] - 1) ** 2).sum(), weights.sum()


LOSSES = {
    "ignored": (None, LABELS),
    "tokens": (None, TOKENS),
    "weights": (nn.CrossEntropyLoss(weight=WEIGHTS.float(), ignore_index=3, label_smoothing=0.1), ELSE),
    "returned": (lambda o, y: F.cross_entropy(o, y, WEIGHTS), ELSE),
    "likelihood": (lambda o, y: F.nll_loss(o.log_softmax(1), y, weight=WEIGHTS), LABELS),
    "probabilities": (lambda o, y: F.cross_entropy(o, y), F.one_hot(ELSE, CLASSES).double().roll(1, 1) / 2 + 0.125),
    "pair": (pair, ELSE),
    "plain": (lambda o, y: (o.gather(1, y[:, None]) - 1).square().mean(), ELSE),
}
BODIES = [
    "score = hvp(loss, theta)",
    "score = squares(losses, mask) + abs(grad(mean(losses, over = sample), theta))",
    "score = grad(norm2(losses, over = sample), theta)",
    "let L = after(loss, steps = 1, lr = 0.1, momentum = 0.5, batches = same); score = grad(L, mask)",
    "let L = after(loss, steps = 1, lr = 0.1); let g = grad(L, theta); score = grad(dot(g, g), theta)",
    "let f = paths(edge = theta, input = ones, output = loss_gradient); score = theta * grad(sum(f, over = sample), theta)",
]
PASSES = ["snip", "iter-snip", "force", "grasp", "grasp-it", "fisher", "hessian-diagonal", "prospr"]


def pass_of(text: str) -> str:
    return text if " " not in text else 'pass mine { source = "a test" ' + text.replace(";", "\n") + " }"


@cache
def captured(tokens: bool):
    model, x = reading() if tokens else drawn()
    return capture(model, x[:1], dtype=torch.float64)


def scored(text: str, loss, target: Tensor, batch: int | None) -> Tensor:
    chosen, tokens = find_pass(pass_of(text)), target is TOKENS
    x = (reading() if tokens else drawn())[1]
    found = evaluate(chosen, workspace(captured(tokens), chosen, {}, torch.float64, Evidence((x, target), loss, batch)), 0)
    return torch.cat([t.flatten() for t in found.values()]) * 2.0**found.exponent


def same(found: Tensor, wanted: Tensor) -> None:
    assert bool(torch.isfinite(wanted).all()) and float(wanted.abs().max()) > 0
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))


AGAIN = ("iter-snip", "force", "hessian-diagonal")


def readable(name: str, text: str) -> bool:
    """grasp has its own loss; a part of the tokens has no label; paths of integers have other sources; AGAIN is snip or hvp."""
    if text in AGAIN:
        return name in ("ignored", "pair")
    return not ((text == "grasp" and LOSSES[name][0] is not None) or (name == "tokens" and ("prospr" in text or "paths" in text)))


@pytest.mark.parametrize(("name", "text"), [(n, t) for t in (*PASSES, *BODIES) for n in LOSSES if readable(n, t)])
def test_batches_change_no_score(name: str, text: str) -> None:
    loss, target = LOSSES[name]
    whole = scored(text, loss, target, None)
    for batch in (1, 3):
        same(scored(text, loss, target, batch), whole)


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("name", [n for n in LOSSES if n != "tokens"])
def test_the_loss_is_the_one_of_all_samples(name: str, batch: int | None) -> None:
    """By plain autograd of the user's own loss on everything; its samples are the parts of that."""
    loss, target = LOSSES[name]
    model, x = drawn()
    double = (
        nn.CrossEntropyLoss(weight=WEIGHTS.float().double(), ignore_index=3, label_smoothing=0.1) if name == "weights" else loss
    )
    value = (double or F.cross_entropy)(model(x), target)
    mean = value[0] / value[1] if isinstance(value, tuple) else value
    parameters = list(model.parameters())
    grads = torch.autograd.grad(mean, parameters)
    theta = torch.cat([p.detach().flatten() for p in parameters])
    same(scored("snip", loss, target, batch), (theta * torch.cat([g.flatten() for g in grads])).abs())
    same(
        scored("score = theta * grad(mean(losses, over = sample), theta)", loss, target, batch).abs(),
        scored("snip", loss, target, None),
    )


def test_an_ignored_sample_counts_for_nothing() -> None:
    model, x = drawn()
    kept = LABELS != IGNORED
    for text in PASSES[:5]:
        few = score(model, x[:1], text, data=(x[kept], LABELS[kept]))
        all_of_them = scored(text, None, LABELS, 3)
        same(all_of_them, torch.cat([t.flatten() for t in few.values()]) * 2.0**few.exponent)


def test_fisher_squares_what_each_sample_adds_to_the_mean() -> None:
    model, x = drawn()
    total = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(N):
        summed = pair(model(x[i : i + 1]), ELSE[i : i + 1])[0]
        grads = torch.autograd.grad(summed * N / pair(model(x), ELSE)[1], list(model.parameters()))
        total = [t + g.square() for t, g in zip(total, grads, strict=True)]
    wanted = [p.detach().square() / 2 * t / N for p, t in zip(model.parameters(), total, strict=True)]
    same(scored("fisher", pair, ELSE, 3), torch.cat([t.flatten() for t in wanted]))


def test_a_file_returns_the_sum_and_its_weight(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(output, target):\n    return (output[:, 0] - target).square().sum(), 2.5 * len(target)\n")
    loss, _ = load_loss(f"{file}:loss")
    by_hand = scored("snip", lambda o, y: (o[:, 0] - y).square().mean() / 2.5, ELSE, None)
    for batch in (None, 1, 3):
        same(scored("snip", loss, ELSE, batch), by_hand)


@pytest.mark.parametrize(
    ("loss", "batch", "said"),
    [
        (lambda o, y: (o.sum(), o.sum()), None, "a weight with a derivative"),
        (lambda o, y: (o.sum(), o), None, "a weight with a derivative"),
        (lambda o, y: (o.sum(), torch.ones(3)), None, r"a weight a tensor of shape \(3,\)"),
        (lambda o, y: (o.sum(), 1, 2), None, r"\(a tensor of shape \(\), a int, a int\)"),
        (lambda o, y: (o, 1), None, r"\(a tensor of shape \(8, 4\), a int\)"),
        (lambda o, y: (1.0, 1), None, r"\(a float, a int\)"),
        (lambda o, y: "low", None, "a str"),
        (lambda o, y: (o.sum(), -1.0), 3, "the weight that the loss returned is -1"),
        (lambda o, y: (o.sum(), float("nan")), 3, "the weight that the loss returned is nan"),
        (lambda o, y: (o.sum(), (o.detach()[:1, 0]).square()), 3, "changes with the output"),
        (lambda o, y: (o.sum(), len(y)) if len(y) == 3 else o.mean(), 3, "for some batches, and a number for others"),
        (lambda o, y: o.square().sum(), 3, "no mean over samples"),
        (lambda o, y: o.square().sum(), 1, "no mean over samples"),
        (lambda o, y: 2 * F.cross_entropy(o, y, WEIGHTS), 3, "no mean over samples"),
        (lambda o, y: o.square().mean().sqrt(), 3, "no mean over samples"),
    ],
)
def test_what_a_loss_may_not_return(loss, batch, said: str) -> None:
    with pytest.raises(PkcError, match=said) as caught:
        scored("snip", loss, ELSE, batch)
    assert caught.value.diagnostics[0].code == "PKC412"


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_losses_of_samples_that_are_no_parts_of_the_loss_are_refused(batch) -> None:
    """One sample alone loses the weight of its class, and twice a mean of torch's is not known by its denominator."""
    with pytest.raises(PkcError, match="no mean over samples") as caught:
        scored("fisher", lambda o, y: 2 * F.cross_entropy(o, y, WEIGHTS), ELSE, batch)
    assert caught.value.diagnostics[0].code == "PKC412"
    assert float(scored("snip", lambda o, y: 2 * F.cross_entropy(o, y, WEIGHTS), ELSE, None).max()) > 0


def test_a_loss_may_read_no_targets() -> None:
    chosen, (_, x) = find_pass("snip"), drawn()
    given = [Evidence(x, lambda o, y: o.square().mean(), b) for b in (None, 1, 3)]
    work = [workspace(captured(False), chosen, {}, torch.float64, evidence) for evidence in given]
    whole, *cut = [torch.cat([t.flatten() for t in evaluate(chosen, w, 0).values()]) for w in work]
    for found in cut:
        same(found, whole)


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize(
    ("text", "loss"),
    [("snip", None), ("grasp", None), ("fisher", None), ("snip", nn.CrossEntropyLoss()), ("prospr", lambda o, y: (o.sum(), 0))],
)
def test_samples_that_weigh_nothing_have_no_loss(text: str, loss, batch: int | None) -> None:
    with pytest.raises(PkcError, match="every target is ignored") as caught:
        scored(text, loss, torch.full((N,), IGNORED), batch)
    assert caught.value.diagnostics[0].code == "PKC506"
