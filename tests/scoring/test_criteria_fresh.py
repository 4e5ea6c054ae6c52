"""noise, model, after, repeat and init; ntk-sap and prospr: against their definitions, by plain autograd on the modules."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from oracle.families import FAMILIES, Case
from torch import Tensor, nn

from pkcompiler.frontend.capture import capture
from pkcompiler.lang.library import find_pass
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.repeat import single
from pkcompiler.scoring.score import evaluate, score, workspace

FLOATING = [
    "mlp_bias",
    "residual",
    "concat",
    "shared_twice",
    "tied_weights",
    "silu_mlp",
    "class_token",
    "avg_pool",
    "max_pool",
    "batch_norm",
    "conv_dilated",
    "conv_transposed",
    "conv_padded_strided_grouped",
    "layer_norm",
    "squeeze_excite",
    "attention",
]


def one(body: str) -> str:
    return f'pass p {{ source = "x" {body} }}'


def numbers(shape: tuple[int, ...], *names: object, seed: int = 0, moment: tuple[int, int] = (0, 0), repetition: int = 0) -> Tensor:
    """The documented streams: SHA-256 of seed, stage, round, repetition and name."""
    text = ":".join(map(str, (seed, *moment, repetition, *names)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 4
    return torch.randn(shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def some_masks(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    named = [(n, p) for n, p in module.named_parameters() if p.dim() > 1]
    return {n: torch.rand(p.shape, generator=generator) > 0.3 for n, p in named}


def as_numbers(module: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {n: masks.get(n, torch.ones_like(p)) for n, p in module.named_parameters()}
    return {n: m.double().requires_grad_() for n, m in found.items()}


def run(module: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    buffers = {n: b.clone() for n, b in module.named_buffers()}
    output: Tensor = torch.func.functional_call(module, {**buffers, **weights}, (x,))
    return output


def close(found: object, wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        got = found[name] * 2.0**found.exponent  # type: ignore[index, attr-defined]
        scale = max(float(tensor.abs().max()), 1e-3)
        assert float((got - tensor).abs().max()) <= 1e-10 * scale, name


# ntk-sap ----------------------------------------------------------------------------------------------------------------


def shaken(module: nn.Module, m: dict[str, Tensor], x: Tensor, d: dict[str, Tensor]) -> Tensor:
    """mean ||f(Z; theta * m) - f(Z; (theta + d) * m)||^2"""
    theta = {n: p.detach() for n, p in module.named_parameters()}
    still = run(module, {n: t * m[n] for n, t in theta.items()}, x)
    moved = run(module, {n: (t + d[n]) * m[n] for n, t in theta.items()}, x)
    return (still - moved).flatten(1).square().sum(1).mean()


SHAKEN = """
  let Z = noise(count = 4)
  let d = 0.01 * noise(axes = param)
  let R = mean(sum((model(Z) - model(Z, theta = theta + d))^2, over = output), over = sample)
"""


@pytest.mark.parametrize("name", FLOATING)
def test_ntk_sap_is_the_derivative_by_the_mask(name: str) -> None:
    case = FAMILIES[name]()
    masks = some_masks(case.module)
    m = as_numbers(case.module, masks)
    z = numbers((4, *case.signed.shape[1:]), "noise", 0)
    d = {n: 0.01 * numbers(tuple(p.shape), "noise", 1, n) for n, p in case.module.named_parameters()}
    wanted = torch.autograd.grad(shaken(case.module, m, z, d), list(m.values()), allow_unused=True)
    found = score(case.module, case.example_inputs, one(SHAKEN + "score = grad(R, mask)"), masks=masks)
    close(found, {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(m.items(), wanted, strict=True)})


def test_derivatives_by_theta_go_through_the_expression() -> None:
    case = FAMILIES["batch_norm"]()
    theta = {n: p.detach().requires_grad_() for n, p in case.module.named_parameters()}
    x = numbers((4, *case.signed.shape[1:]), "noise", 0)
    value = run(case.module, {n: t**3 for n, t in theta.items()}, x).square().sum() + run(case.module, theta, x).sum()
    wanted = dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))
    text = "let Z = noise(count = 4) let W = theta^3 let f = model(Z, theta = W)"
    total = "sum(sum(f^2 + model(Z), over = output), over = sample)"
    close(score(case.module, case.example_inputs, one(f"{text} score = grad({total}, theta)")), wanted)
    times = {n: g * theta[n].detach() for n, g in wanted.items()}
    close(score(case.module, case.example_inputs, one(f"{text} score = theta * grad({total}, theta)")), times)


def test_published_pass_at_fresh_weights() -> None:
    """The library's ntk-sap: |mean over 5 draws|, weights from the factory, at masks."""
    case = FAMILIES["residual"]()
    masks = some_masks(case.module)

    def again(seed: int) -> nn.Module:
        fresh = type(case.module)().double()
        for n, p in fresh.named_parameters():
            p.data = numbers(tuple(p.shape), "again", n, seed=seed)
        return fresh

    total = {n: torch.zeros_like(p) for n, p in case.module.named_parameters()}
    for r in range(5):
        number = Draw(7, (0, 0), r).number("init")
        fresh = again(number)
        m = as_numbers(fresh, masks)
        z = numbers((100, *case.signed.shape[1:]), "noise", 0, seed=7, repetition=r)
        d = {
            n: 0.01 * numbers(tuple(p.shape), "noise", 1, n, seed=7, repetition=r) if p.dim() > 1 else torch.zeros_like(p)
            for n, p in fresh.named_parameters()
        }
        for n, g in zip(m, torch.autograd.grad(shaken(fresh, m, z, d), list(m.values())), strict=True):
            total[n] += g / 5
    found = score(case.module, case.example_inputs, "ntk-sap", masks=masks, seed=7, initialise=again)
    assert found.order == "largest"
    close(found, {n: t.abs() for n, t in total.items()})


def test_every_noise_that_is_written_is_a_draw_of_its_own_in_derivatives_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    z = "noise(count = 4)"

    def scores(lets: str, first: str, second: str) -> Tensor:
        number = "grad(sum(sum(model({})^2, over = output), over = sample), theta)"
        body = f"{lets} score = grad(dot({number.format(first)}, detach({number.format(second)})), theta)"
        return score(model, torch.zeros(1, 3, dtype=torch.float64), one(body))["0.weight"]

    written = scores("", z, z)
    assert torch.equal(written, scores(f"let p = {z} let q = {z}", "p", "q"))
    assert not torch.equal(written, scores(f"let p = {z}", "p", "p"))


def test_tokens_are_drawn_where_the_model_takes_integers() -> None:
    case = FAMILIES["embedding_sum"]()
    found = score(
        case.module,
        case.example_inputs,
        one("score = grad(sum(sum(model(noise(count = 9))^2, over = output), over = sample), mask)"),
    )
    generator = torch.Generator().manual_seed(Draw(0).number("noise", 0))
    x = torch.randint(case.vocabulary, (9, *case.signed.shape[1:]), generator=generator)
    m = as_numbers(case.module, {})
    value = run(case.module, {n: p.detach() * m[n] for n, p in case.module.named_parameters()}, x).square().sum()
    wanted = torch.autograd.grad(value, list(m.values()), allow_unused=True)
    close(found, {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(m.items(), wanted, strict=True)})
    score(case.module, case.example_inputs, "ntk-sap")


# prospr -----------------------------------------------------------------------------------------------------------------


def unrolled(
    case: Case, m: dict[str, Tensor], batches: list[tuple[Tensor, Tensor]], lr: float, momentum: float, train: bool
) -> Tensor:
    """The loss on the last batch after a step of SGD on each of the others, all in one graph."""
    case.module.train(train)
    theta = {n: p.detach() for n, p in case.module.named_parameters()}
    w = {n: t * m[n] for n, t in theta.items()}
    kept = {n: t.detach().clone() for n, t in m.items()}
    speed = {n: torch.zeros_like(t) for n, t in w.items()}
    for x, y in batches[:-1]:
        slopes = torch.autograd.grad(squares(run(case.module, w, x), y), list(w.values()), create_graph=True, allow_unused=True)
        for n, g in zip(list(w), slopes, strict=True):
            speed[n] = momentum * speed[n] + (0 if g is None else kept[n] * g)
            w[n] = w[n] - lr * speed[n]
    value = squares(run(case.module, w, batches[-1][0]), batches[-1][1])
    case.module.eval()
    return value


def samples(case: Case, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((count, *case.signed.shape[1:]), generator=generator, dtype=torch.float64)
    return x, torch.randn(run(case.module, dict(case.module.named_parameters()), x).shape, generator=generator, dtype=torch.float64)


def meta(case: Case, masks: dict[str, Tensor], batches: list[tuple[Tensor, Tensor]], *rest: object) -> dict[str, Tensor]:
    m = as_numbers(case.module, masks)
    found = torch.autograd.grad(unrolled(case, m, batches, *rest), list(m.values()), allow_unused=True)  # type: ignore[arg-type]
    return {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(m.items(), found, strict=True)}


@pytest.mark.parametrize("name", FLOATING)
def test_prospr_is_the_derivative_through_the_steps(name: str) -> None:
    case = FAMILIES[name]()
    masks, (x, y) = some_masks(case.module), samples(case, 8)
    batches = [(x[i::3], y[i::3]) for i in range(3)]
    body = "score = grad(after(loss, steps = 2, lr = 0.01), mask)"
    found = score(case.module, case.example_inputs, one(body), data=(x, y), loss=squares, masks=masks)
    close(found, meta(case, masks, batches, 0.01, 0.0, False))


@pytest.mark.parametrize("name", ["batch_norm", "tied_weights", "max_pool"])
@pytest.mark.parametrize("train", [False, True])
def test_momentum_same_batches_and_training_mode(name: str, train: bool) -> None:
    case = FAMILIES[name]()
    masks, (x, y) = some_masks(case.module), samples(case, 6)
    body = "score = grad(after(loss, steps = 3, lr = 0.02, momentum = 0.9, batches = same), mask)"
    text = one(body + (" mode = train" if train else ""))
    wanted = meta(case, masks, [(x, y)] * 4, 0.02, 0.9, train)
    close(score(case.module, case.example_inputs, text, data=(x, y), loss=squares, masks=masks), wanted)
    if train:
        return
    captured = capture(case.module, case.example_inputs, dtype=torch.float64)
    work = workspace(captured, find_pass(text), masks, torch.float64, Evidence((x, y), squares, 3))
    close(evaluate(find_pass(text), work, 0), wanted)


def test_prospr_of_the_library_on_classes() -> None:
    case = FAMILIES["batch_norm"]()
    classifier = nn.Sequential(case.module, nn.Flatten()).double()
    x, _ = samples(case, 12)
    y = torch.arange(12) % 3
    m = as_numbers(classifier, {})
    classifier.train()
    w = {n: p.detach() * m[n] for n, p in classifier.named_parameters()}
    for i in range(3):
        loss = nn.functional.cross_entropy(run(classifier, w, x[i::4]), y[i::4])
        w = {
            n: t - 0.1 * g
            for (n, t), g in zip(w.items(), torch.autograd.grad(loss, list(w.values()), create_graph=True), strict=True)
        }
    last = nn.functional.cross_entropy(run(classifier, w, x[3::4]), y[3::4])
    wanted = dict(zip(m, (g.abs() for g in torch.autograd.grad(last, list(m.values()))), strict=True))
    close(score(classifier.eval(), case.example_inputs, "prospr", data=(x, y)), wanted)


def test_after_is_derived_twice() -> None:
    case = FAMILIES["mlp_bias"]()
    x, y = samples(case, 6)
    batches = [(x[i::3], y[i::3]) for i in range(3)]
    theta = {n: p.detach().requires_grad_() for n, p in case.module.named_parameters()}
    w = dict(theta)
    for part in batches[:-1]:
        slopes = torch.autograd.grad(squares(run(case.module, w, part[0]), part[1]), list(w.values()), create_graph=True)
        w = {n: t - 0.05 * g for (n, t), g in zip(w.items(), slopes, strict=True)}
    last = squares(run(case.module, w, batches[-1][0]), batches[-1][1])
    first = torch.autograd.grad(last, list(theta.values()), create_graph=True)
    total = torch.stack([g.square().sum() for g in first]).sum()
    wanted = dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))
    body = "let L = after(loss, steps = 2, lr = 0.05) let g = grad(L, theta) score = grad(dot(g, g), theta)"
    close(score(case.module, case.example_inputs, one(body), data=(x, y), loss=squares), wanted)


# what is drawn ----------------------------------------------------------------------------------------------------------


def test_initial_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 64, 3, groups=2), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 32, 3)).double()
    x = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    he = score(model, x, one("score = theta init = he()"))
    assert float(he["0.weight"].std()) == pytest.approx((2 / 9) ** 0.5, rel=0.15)
    assert float(he["2.weight"].std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)  # torch's fan-in
    assert all(torch.equal(he[n], p) for n, p in model.named_parameters() if p.dim() < 2)
    normal = score(model, x, one("score = theta init = normal(std = 0.02)"))
    assert float(normal["2.weight"].std()) == pytest.approx(0.02, rel=0.05)
    fresh = score(model, x, one("score = theta init = fresh"))
    bound = 1 / (32 * 9) ** 0.5
    assert float(fresh["2.weight"].abs().max()) == pytest.approx(bound, rel=0.01)
    assert not torch.equal(fresh["2.weight"], dict(model.named_parameters())["2.weight"])


def test_fresh_is_he_where_nothing_resets() -> None:
    case = FAMILIES["class_token"]()
    texts = [one(f"score = theta init = {init}") for init in ("fresh", "he()")]
    first, second = (score(case.module, case.example_inputs, text) for text in texts)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_every_noise_that_is_written_is_one_draw() -> None:
    case = FAMILIES["mlp_bias"]()
    same = score(case.module, case.example_inputs, one("let d = noise(axes = param) score = d - d"))
    assert not any(t.any() for t in same.values())
    two = score(case.module, case.example_inputs, one("score = noise(axes = param) - noise(axes = param)"))
    assert all(t.all() for t in two.values())


@pytest.mark.parametrize("count", [1, 3])
def test_noise_weighs_the_inputs_of_paths(count: int) -> None:
    case = FAMILIES["deep_linear"]()
    body = f"score = grad(sum(paths(edge = theta, pools = sum, input = noise(count = {count})), over = sample), mask)"
    m = as_numbers(case.module, {})
    x = numbers((count, *case.signed.shape[1:]), "noise", 0)
    value = run(case.module, {n: p.detach() * m[n] for n, p in case.module.named_parameters()}, x).sum()
    wanted = torch.autograd.grad(value, list(m.values()))
    close(score(case.module, case.example_inputs, one(body)), dict(zip(m, wanted, strict=True)))


@pytest.mark.parametrize("name", ["ntk-sap", "prospr"])
def test_seeds_rounds_and_repetitions(name: str) -> None:
    case = FAMILIES["batch_norm"]()
    module = nn.Sequential(case.module, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    x, _ = samples(case, 8)
    captured = capture(module, case.example_inputs, dtype=torch.float64)
    chosen = find_pass(name)
    work = workspace(captured, chosen, {}, torch.float64, Evidence((x, torch.arange(8) % 3)))

    def at(seed: int, moment: tuple[int, int]) -> Tensor:
        found = evaluate(chosen, work, seed, moment)
        return torch.cat([t.flatten() for t in found.values()])

    first = at(1, (0, 1))
    assert torch.equal(first, at(1, (0, 1)))
    assert not torch.equal(first, at(2, (0, 1)))
    assert not torch.equal(first, at(1, (0, 2)))
    assert not torch.equal(first, at(1, (1, 1)))


@pytest.mark.parametrize(("spread", "draws"), [(0.0, 4), (0.5, 16), (2.0, 9), (1e6, 25)])
def test_the_standard_error_of_means(spread: float, draws: int):
    """theta (1 + s z) with z ~ N(0, 1): a mean of n draws has the variance theta^2 s^2 / n."""
    module, x = nn.Sequential(nn.Linear(200, 100)), torch.zeros(1, 200, dtype=torch.float64)
    found = score(module.double(), x, one(f"score = theta * (1 + {spread} * noise(axes = param)) repeat = {draws}"))
    variance = spread**2 / draws
    assert found.standard_error == pytest.approx((variance / (1 + variance)) ** 0.5, rel=0.05, abs=1e-7)
    assert score(module, x, one("score = theta * noise(axes = param)")).standard_error is None


@pytest.mark.parametrize("body", [SHAKEN + "score = abs(grad(R, mask)) init = he()", "score = abs(grad(loss, theta)) mode = train"])
def test_repeat_is_the_mean(body: str) -> None:
    case = FAMILIES["batch_norm"]()
    module = nn.Sequential(case.module, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    x, _ = samples(case, 6)
    captured = capture(module, case.example_inputs, dtype=torch.float64)
    chosen = find_pass(one(body + " repeat = 3"))
    work = workspace(captured, chosen, {}, torch.float64, Evidence((x, torch.arange(6) % 3)))
    singles = [single(chosen, work, Draw(4, (0, 0), r)) for r in range(3)]
    assert not torch.equal(singles[0].tensors["3.weight"], singles[1].tensors["3.weight"])
    close(evaluate(chosen, work, 4), {n: sum(s.plain().tensors[n] for s in singles) / 3 for n in singles[0].tensors})  # type: ignore[misc]


@pytest.mark.parametrize("name", ["ntk-sap", "prospr"])
def test_nothing_outside_is_touched(name: str) -> None:
    case = FAMILIES["batch_norm"]()
    module = nn.Sequential(case.module, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 3)).double().eval()
    x, _ = samples(case, 8)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    torch.manual_seed(11)
    states = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy(), random.getstate()
    score(module, case.example_inputs, name, data=(x, torch.arange(8) % 3))
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert not any(m.training for m in module.modules())
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state(legacy=False)["state"]["key"]).all() and states[2] == random.getstate()


# wrong input ------------------------------------------------------------------------------------------------------------
