"""Checked expressions as typed ones: what is the same is one node, and what is drawn is its own."""

from __future__ import annotations

import pickle

import pytest

from pkcompiler.lang.ast import Call, Typed
from pkcompiler.lang.library import analysis_names, find_analysis, find_pass, library_names


def typed(text: str) -> Typed:
    return find_pass(f'pass a {{ source = "x"\n{text} }}').typed


def calls(node: Typed, function: str) -> list[Typed]:
    return [part for part in node.walk() if isinstance(part.expr, Call) and part.expr.function == function]


def test_what_is_written_twice_is_one_node() -> None:
    score = typed("score = grad(loss, theta) / norm2(grad(loss, theta), over = layer)")
    assert len(calls(score, "grad")) == 1


def test_a_name_is_one_node_wherever_it_is_read() -> None:
    score = typed("let g = grad(loss, theta)\nlet h = g\nscore = h * g + g")
    (derivative,) = calls(score, "grad")
    assert sorted(str(node.expr.value) for node in score.walk() if node.let) == ["g", "h"]  # type: ignore[union-attr]
    assert all(node.value is derivative for node in score.walk() if node.let)


def test_every_noise_that_is_written_is_a_draw_of_its_own() -> None:
    assert len(calls(typed("score = noise(axes = param) * noise(axes = param)"), "noise")) == 2
    assert len(calls(typed("let z = noise(axes = param)\nscore = z * z"), "noise")) == 1


def test_numbers_and_words_tell_expressions_apart() -> None:
    score = "score = theta / quantile(theta, {}, over = param) + theta / quantile(theta, {}, over = {})"
    assert [
        len(calls(typed(score.format(*given)), "quantile"))
        for given in (
            ("10%", "10%", "param"),
            ("10%", "20%", "param"),
            ("10%", "10%", "layer"),
        )
    ] == [1, 2, 2]


def test_what_is_left_out_is_what_the_record_says() -> None:
    """A default that is written is the same expression, in whatever order; another word is another."""
    pair = "score = grad(paths(), theta) * grad(paths({}), theta)"
    same, other = "constants = off, gates = open", "constants = on"
    assert len(calls(typed(pair.format(same)), "paths")) == 1
    assert len(calls(typed(pair.format(other)), "paths")) == 2
    (order,) = calls(typed("score = balance(theta) scope = layer"), "balance")
    assert dict(order.words) == {"nodes": 0.01, "kernels": 1.0}


def test_edges_are_found_through_names() -> None:
    score = typed("let w = theta^2\nlet R = paths(edge = w)\nscore = w * grad(R, w)")
    (functional,), (derivative,) = calls(score, "paths"), calls(score, "grad")
    assert functional.named["edge"].edge == derivative.args[1].edge == "theta^2"


@pytest.mark.parametrize(
    ("text", "derived"),
    [
        ("grad(loss, theta)", True),
        ("detach(grad(loss, theta))", False),
        ("squares(output, theta) * theta", True),
        ("hvp(loss, theta)", True),
        ("theta", False),
    ],
)
def test_a_derivative_is_seen_through_all_but_detach(text: str, derived: bool) -> None:
    assert typed(f"let e = {text}\nscore = e * theta").derived is derived


def test_declarations_of_the_library_travel_with_their_types() -> None:
    for name in library_names():
        found = pickle.loads(pickle.dumps(find_pass(name)))
        assert found.typed.axes == {"param"} and len(list(found.typed.walk())) == len(list(find_pass(name).typed.walk()))
    for name in analysis_names():
        assert all(line.axes == line.typed.axes for line in pickle.loads(pickle.dumps(find_analysis(name))).reports)
