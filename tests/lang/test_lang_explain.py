"""Words, codes and formulas; a formula's meaning against a brute-force sum over paths."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest

from pkcompiler.codes import CODES, GROUPS
from pkcompiler.diagnostics import PkcError
from pkcompiler.lang import words
from pkcompiler.lang.explain.formula import formula
from pkcompiler.lang.explain.word import explain
from pkcompiler.lang.library import find_pass, library_names


def _formula(score: str, lets: str = "let R = paths(edge = theta^2)") -> str:
    return formula(find_pass(f'pass a {{ source = "x"\n{lets}\nscore = {score} }}')).split("\n")[0].removeprefix("score_i = ")


M2 = "sum over paths p through i of n_ip v_p^2"
M1 = "sum over paths p through i of n_ip |v_p|"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synflow", M1),
        ("synflow-l2", M2),
        ("synflow-pairs", M1),
        ("synflow-l2-value", M2),
        ("synflow-l2-authors", f"|theta_i| * ({M1})"),
        ("synflow-l2-phew", f"|theta_i|^(-1) * ({M2})"),
        ("synflow-dist", f"|{M1} mean(data)[s(p)]|"),
        ("synflow-l2-dist", f"{M2} mean(data^2)[s(p)]"),
        ("snip", "|theta_i * d loss / d theta_i|"),
        ("iter-snip", "|theta_i * d loss / d theta_i|"),
        ("magnitude", "|theta_i|"),
        ("random", "u_i"),
        ("erk-random", "u_i"),
    ],
)
def test_formulas_of_the_library(name: str, expected: str) -> None:
    assert formula(find_pass(name)).split("\n")[0] == f"score_i = {expected}"
    assert f"score_i = {expected}" in explain(name)


def test_the_derivative_by_theta_is_told_from_the_one_by_the_edge() -> None:
    assert _formula("theta^2 * grad(R, theta^2)") == M2
    assert _formula("theta^2 * grad(R, theta)") == f"2 * theta_i * ({M2})"
    assert _formula("theta * grad(R, theta)") == f"2 * ({M2})"
    assert _formula("grad(R, mask)") == f"2 * ({M2})"
    assert "left over" in formula(find_pass("synflow-l2-phew"))
    assert "left over" not in formula(find_pass("synflow-l2"))


def test_other_forms_are_written_in_the_usual_letters() -> None:
    assert _formula("abs(theta * grad(loss + R, theta))") == "|theta_i * d (loss + R) / d theta_i|"
    assert _formula("theta / norm2(theta, over = layer)", "") == "theta_i / norm2(theta, over = layer)"
    whole = "quantile(|theta|, 10%, over = param)"
    assert _formula("abs(theta) / quantile(abs(theta), 10%, over = param)", "") == f"|theta_i| / {whole}"
    assert _formula("abs(theta) - log(sqrt(abs(theta)))", "") == "|theta_i| - log(sqrt(|theta_i|))"
    for last in ("cross_entropy(output / 2)", "norm2(theta, over = layer)", "dot(theta, theta)"):
        assert _formula(f"abs(theta) * {last}", "") == f"|theta_i| * {last}"
    assert _formula("grad(N, 1)", "let N = paths(edge = 1)") == "sum over paths p through i of n_ip"
    assert (
        _formula("w * grad(Q, w)", "let w = theta^2 let Q = sum(paths(edge = w, gates = data), over = sample)")
        == "w_i * d Q / d w_i"
    )


PATHS = [(0, 1), (0, 2), (3, 2), (3, 3, 1), (1,)]  # the entries that each path crosses; one of them twice


@pytest.mark.parametrize(
    ("score", "lets", "said"),
    [
        ("grad(mean(losses, over = sample), theta)", "", ["losses_n = "]),
        ("theta * squares(losses, theta) * loss", "", ["loss = ", "losses_n = "]),
        ("abs(theta) * b", "let b = loss", ["with b", "loss = "]),
        ("theta * grad(sum(R, over = sample), theta) * prunable", "let R = paths(output = loss_gradient)", ["prunable_i = "]),
    ],
)
def test_the_letters_below_a_formula_are_those_of_what_it_reads(score: str, lets: str, said: list[str]) -> None:
    letters = ("loss = ", "losses_n = ", "prunable_i = ", "with b")
    below = formula(find_pass(f'pass a {{ source = "x"\n{lets}\nscore = {score} }}')).split("\n")[1:]
    assert [letter for line in below for letter in letters if line.startswith(letter)] == said


def _brute_force(score: str, theta: list[float], i: int) -> float:
    """The score of entry i by its text, with derivatives by central differences of the sum over PATHS."""
    edges = {"abs": abs, "square": lambda t: t * t}

    def functional(edge: str, weights: list[float]) -> float:
        return sum(math.prod(edges[edge](weights[e]) for e in path) for path in PATHS)

    def by_theta(edge: str) -> float:
        step = 1e-6
        up, down = [[t + s * step * (j == i) for j, t in enumerate(theta)] for s in (1, -1)]
        return (functional(edge, up) - functional(edge, down)) / (2 * step)

    slope = {"abs": math.copysign(1, theta[i]), "square": 2 * theta[i]}
    values = {f"T{e}": by_theta(e) for e in edges} | {f"E{e}": by_theta(e) / slope[e] for e in edges}
    return {
        "theta * grad(R, theta)": theta[i] * values["Tsquare"],
        "theta^2 * grad(R, theta)": theta[i] ** 2 * values["Tsquare"],
        "theta^2 * grad(R, theta^2)": theta[i] ** 2 * values["Esquare"],
        "abs(theta) * grad(R, theta^2) / 4": abs(theta[i]) * values["Esquare"] / 4,
        "grad(R, mask)": theta[i] * values["Tsquare"],
        "grad(Q, theta)": values["Tabs"],
        "abs(grad(Q, theta))": abs(values["Tabs"]),
        "theta^3 * grad(Q, abs(theta))": theta[i] ** 3 * values["Eabs"],
        "abs(theta)^0.5 * grad(Q, theta)": abs(theta[i]) ** 0.5 * values["Tabs"],
    }[score]


def _from_formula(text: str, theta: list[float], i: int) -> float:
    """The number that a derived formula says, read from its text."""
    value = 1.0
    square = "v_p^2" in text
    mass = sum(path.count(i) * math.prod(theta[e] ** 2 if square else abs(theta[e]) for e in path) for path in PATHS)
    for factor in re.sub(r"\(?sum over paths p through i of n_ip (v_p\^2|\|v_p\|)\)?", "M", text).split(" * "):
        base, _, power = factor.partition("^")
        known = {"M": mass, "theta_i": theta[i], "|theta_i|": abs(theta[i]), "sgn(theta_i)": math.copysign(1, theta[i])}
        value *= (known[base] if base in known else float(base)) ** float(power.strip("()") or 1)
    return value


@pytest.mark.parametrize(
    "score",
    [
        "theta * grad(R, theta)",
        "theta^2 * grad(R, theta)",
        "theta^2 * grad(R, theta^2)",
        "abs(theta) * grad(R, theta^2) / 4",
        "grad(R, mask)",
        "grad(Q, theta)",
        "abs(grad(Q, theta))",
        "theta^3 * grad(Q, abs(theta))",
        "abs(theta)^0.5 * grad(Q, theta)",
    ],
)
def test_a_formula_says_the_number_that_the_score_is(score: str) -> None:
    shown = _formula(score, "let R = paths(edge = theta^2) let Q = paths(edge = abs(theta))")
    source = random.Random(0)
    for _ in range(20):
        theta = [source.choice((-1, 1)) * source.uniform(0.5, 2) for _ in range(4)]
        for i in range(4):
            assert _from_formula(shown, theta, i) == pytest.approx(_brute_force(score, theta, i), rel=1e-6)


def test_every_word_is_explained() -> None:
    for row in words.WORDS:
        text = explain(row.name)
        assert row.doc in text
        assert row.due or "not in this version" in text
    assert "takes" in explain("rounds") and "default  1" in explain("rounds")
    assert "cubic" in explain("curve")
    assert "products" in explain("paths")


def test_every_pass_is_explained() -> None:
    for name in library_names():
        assert find_pass(name).source in explain(name)


def test_every_code_is_explained_and_every_code_of_the_language_has_a_row() -> None:
    for code in CODES:
        assert re.fullmatch(r"PKC\d{3}", code) and code[3] in GROUPS
        assert explain(code.lower()).startswith(code)
    root = Path(__file__).parents[2] / "pkcompiler"
    used = {c for f in (root / "lang").rglob("*.py") for c in re.findall(r'"(PKC\d{3})"', f.read_text())}
    assert used and used <= set(CODES)


def test_unknown_words_are_answered_with_the_nearest() -> None:
    with pytest.raises(PkcError) as caught:
        explain("curvve")
    assert caught.value.diagnostics[0].code == "PKC122"
    assert "pkc explain curve" in caught.value.diagnostics[0].notes[-1]


DOUBLING = {
    "sums": ("abs(grad(loss, theta))", "+", "a44"),
    "products": ("abs(theta)", "*", "a44"),
    "bases": ("abs(theta)", "^ 0.5 *", "a44"),
    "functionals": ("paths(edge = abs(theta))", "+", "grad(a44, theta)"),
    "second": ("paths(edge = abs(theta))", "+", "theta * grad(dot(grad(a44, theta), detach(theta)), theta)"),
    "noise": ("noise(axes = param)", "+", "abs(a44)"),
    "training": ("abs(after(loss, steps = 1, lr = 0.1))", "+", "abs(theta * grad(a44, theta))"),
}


@pytest.mark.parametrize("name", DOUBLING)
def test_names_on_names_are_walked_once(name: str) -> None:
    """Written out these scores have 2^44 parts: nothing that reads a pass writes them out."""
    start, op, score = DOUBLING[name]
    lets = f"let a0 = {start} " + " ".join(f"let a{i} = a{i - 1} {op} a{i - 1}" for i in range(1, 45))
    shown = _formula(score, lets)
    assert "a44" in shown and len(shown) < 200


def test_names_on_names_have_a_bound() -> None:
    lets = "let a0 = abs(theta) " + " ".join(f"let a{i} = -a{i - 1}" for i in range(1, 120))
    with pytest.raises(PkcError) as caught:
        _formula("a119", lets)
    found = caught.value.diagnostics[0]
    assert found.code == "PKC005" and "'a99' stands for more than 100 nested operations" in found.message
