"""What is refused of noise, model, after, repeat and init, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oracle.families import FAMILIES, Case
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import check_files, find_pass
from pkcompiler.scoring.score import score
from tests.scoring.test_criteria_fresh import one, samples, squares


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("score = grad(sum(model(theta), over = sample), mask)", "PKC111", "needs the axes of the input"),
        ("score = grad(mean(sum(model(noise(), theta = 2), over = output), over = sample), mask)", "PKC111", "must be weights"),
        ("score = grad(sum(model(noise(), statistics = theta), over = output), mask)", "PKC111", "must be samples of the input"),
        (
            "score = grad(sum(model(noise(), statistics = mean(noise(), over = sample)), over = output), mask)",
            "PKC111",
            "must be samp",
        ),
        ("score = grad(sum(sum(model(noise(), statistics = prunable)), over = output), mask)", "PKC111", "must be samples"),
        ("score = grad(sum(prunable, over = param), theta)", "PKC112", "does not depend on theta"),
        ("score = noise()", "PKC111", "must have one value per parameter"),
        ("score = noise(axes = output)", "PKC105", "input | param"),
        ("score = noise(axes = param, count = 3)", "PKC110", "samples of what"),
        ("score = grad(sum(sum(model(noise(count = 0)), over = sample), over = output), mask)", "PKC106", "from 1"),
        ("score = grad(after(loss, lr = 1), mask)", "PKC110", "steps = ... is missing"),
        ("score = grad(after(loss, steps = 2), mask)", "PKC110", "lr = ... is missing"),
        ("score = grad(after(norm2(theta, over = param), steps = 2, lr = 0.1), mask)", "PKC567", "loss and output"),
        ("score = grad(after(paths(edge = theta), steps = 2, lr = 0.1), mask)", "PKC567", "loss and output"),
        ("score = grad(after(output, steps = 2, lr = 0.1), mask)", "PKC567", "not a number"),
        ("score = grad(after(loss, steps = 0, lr = 0.1), mask)", "PKC106", "from 1 to"),
        ("score = grad(after(loss, steps = 2, lr = theta), mask)", "PKC106", "plain number"),
        ("score = grad(after(loss, steps = 2, lr = 0.1, momentum = 1), mask)", "PKC106", "below 1"),
        ("score = grad(after(loss, steps = 2, lr = 0.1, batches = new), mask)", "PKC105", "each | same"),
        ("score = theta init = xavier()", "PKC105", "must be fresh, he()"),
        ("score = theta init = he", "PKC105", "must be fresh, he()"),
        ("score = theta init = normal(std = 0)", "PKC105", "must be fresh, he()"),
        ("score = theta init = fresh, he()", "PKC105", "must be fresh, he()"),
        ("score = theta repeat = 0", "PKC106", "from 1"),
    ],
)
def test_wrong_declarations(body: str, code: str, said: str) -> None:
    with pytest.raises(PkcError) as caught:
        find_pass(one(body))
    found = [d for d in caught.value.diagnostics if d.severity == "error"]
    assert [d.code for d in found] == [code]
    assert said in f"{found[0].message} {found[0].label}" and found[0].notes


def test_repeat_without_anything_random_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "mine.pkc"
    said = {
        "score = abs(theta) repeat = 5": ["PKC566"],
        "score = abs(theta) init = fresh repeat = 5": [],
        "score = noise(axes = param) repeat = 5": [],
        "score = abs(grad(loss, theta)) mode = train repeat = 5": [],
    }
    for body, codes in said.items():
        file.write_text(one(body))
        assert [d.code for d in check_files([str(file)])] == codes


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (
            lambda c, x, y: score(
                c.module, c.example_inputs, one("score = grad(after(loss, steps = 9, lr = 1), mask)"), data=(x, y), loss=squares
            ),
            "PKC567",
        ),
        (
            lambda c, x, y: score(
                c.module, c.example_inputs, one("score = grad(after(loss, steps = 4, lr = 1e200), mask)"), data=(x, y), loss=squares
            ),
            "PKC569",
        ),
        (lambda c, x, y: score(c.module, c.example_inputs, "prospr"), "PKC502"),
        (lambda c, x, y: score(c.module, c.example_inputs, "ntk-sap", initialise=lambda seed: nn.Linear(2, 2)), "PKC531"),
    ],
)
def test_wrong_runs(call: Callable[[Case, Tensor, Tensor], object], code: str) -> None:
    case = FAMILIES["mlp_bias"]()
    x, y = samples(case, 6)
    with pytest.raises(PkcError) as caught:
        call(case, x, y)
    assert caught.value.diagnostics[0].code == code


def test_integers_do_not_take_fractions() -> None:
    case = FAMILIES["embedding_sum"]()
    text = one("score = grad(sum(sum(model(0.5 * noise()), over = output), over = sample), mask)")
    with pytest.raises(PkcError, match="takes integers"):
        score(case.module, case.example_inputs, text)


def test_explained_formulas() -> None:
    said = explain("ntk-sap")
    assert "score_i = |mean over 5 draws of d R / d mask_i|" in said
    assert "with R = mean(sum((f - model(Z, theta = theta + d, statistics = Z))^2, over = output), over = sample)" in said
    assert "with d = 0.01 * prunable * noise(axes = param)" in said and "prunable_i = 1 where a pass may prune" in said
    assert "at E * mask" in said and "drawn anew in every round and repetition" in said
    assert "w_{j+1} = w_j - lr * mask * d loss_j / d w_j" in explain("prospr")
