"""Path polynomials against the explicit enumeration of an independent oracle, at the families' random parameters."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import sympy
import torch
from oracle.case import Case
from oracle.enumerate import Setting, evaluate, gram, path_jacobian, run
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.symbolic import Polynomials, polynomials

TOLERANCE = 1e-10
SMALL = ("class_token", "product_shared", "rms_norm", "shared_twice", "tied_weights")


@cache
def both(name: str) -> tuple[Case, Polynomials, np.ndarray]:
    """The case, its polynomials, and where the parameters of the graph stand in the oracle's order."""
    case = FAMILIES[name]()
    captured = capture(case.module, case.example_inputs, dtype=torch.float64)
    order = np.concatenate([_positions(case, s.name, s.type.shape) for s in captured.graph.parameters])
    return case, polynomials(case.module, case.example_inputs, limit=3000), order


def _positions(case: Case, name: str, shape: tuple) -> list[int]:
    return [case.parameter_index(name, i) for i in range(int(np.prod(shape)))]


def at(poly: Polynomials, theta: np.ndarray, what: object) -> np.ndarray:
    return np.asarray(sympy.lambdify(poly.parameters, what, "numpy")(*theta), dtype=float)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_r1_and_r2_are_the_oracles(name):
    case, poly, order = both(name)
    edges = ("theta^2",) if len(poly.paths) > 1000 else ("theta^2", "abs(theta)")
    for edge in edges:
        mine = poly.r2 if edge == "theta^2" else poly.r1
        expected = evaluate(case.dag, case.theta, Setting(edge=edge, pools="sum", constants="on"))
        assert at(poly, case.theta[order], mine) == pytest.approx(expected.value, rel=TOLERANCE)
        assert len(poly.paths) == expected.paths


@pytest.mark.parametrize("name", SMALL)
def test_the_gram_matrix_and_the_trace_are_the_oracles(name):
    case, poly, order = both(name)
    expected = gram(case.dag, case.theta)[np.ix_(order, order)]
    found = at(poly, case.theta[order], poly.gram)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert at(poly, case.theta[order], poly.trace) == pytest.approx(np.trace(expected), rel=TOLERANCE)


@pytest.mark.parametrize("name", ["product_shared", "rms_norm"])
def test_the_path_kernel_is_the_oracles(name):
    """Paths are matched by their values and rows; the kernels then agree entry by entry."""
    case, poly, order = both(name)
    values, rows = path_jacobian(case.dag, case.theta)
    theta = case.theta[order]
    mine = np.column_stack([at(poly, theta, list(poly.values)), at(poly, theta, poly.jacobian)])
    theirs = np.column_stack([values, rows[:, order]])
    first, second = (np.lexsort(np.round(m, 9).T) for m in (mine, theirs))
    expected = rows[second] @ rows[second].T
    kernel = at(poly, theta, poly.kernel)[np.ix_(first, first)]
    assert np.abs(kernel - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_with_gates_as_symbols_the_polynomial_is_the_function():
    case, _, _ = both("mlp_bias")
    poly = polynomials(case.module, case.example_inputs, gates="symbols")
    x = case.signed[0]
    record = run(case.dag, case.theta, x.numpy().reshape(-1))
    gates = iter([f for f, node in zip(record.factors, case.dag.nodes, strict=True) if type(node).__name__ == "Gate"])
    symbols = sorted(set().union(*(f.free_symbols for f in poly.f)) - set(poly.parameters), key=lambda s: s.name)
    inputs = {s: float(v) for s, v in zip([s for s in symbols if s.name.startswith("x[")], x.reshape(-1), strict=True)}
    slopes = {s: float(next(gates)) for s in _in_order([s for s in symbols if not s.name.startswith("x[")], poly)}
    order = both("mlp_bias")[2]
    values = dict(zip(poly.parameters, case.theta[order], strict=True)) | inputs | slopes
    with torch.no_grad():
        expected = case.module(x[None]).reshape(-1).tolist()
    assert [float(f.subs(values)) for f in poly.f] == pytest.approx(expected, rel=1e-9)


def _in_order(gates: list, poly: Polynomials) -> list:
    """Gates by operation in the order of the first path that crosses them, then by entry."""
    seen = [name.partition("[")[0] for p in poly.paths for name in p.gates]
    return sorted(gates, key=lambda s: (_depth(s.name.partition("[")[0], seen), int(s.name.partition("[")[2].rstrip("]"))))


def _depth(operation: str, seen: list[str]) -> int:
    return sorted(set(seen), key=lambda n: float(n) if n.isdigit() else 0).index(operation)


def test_a_hand_derived_network():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1, bias=False))
    poly = polynomials(model, torch.zeros(1, 2))
    a, b, bias, out = poly.parameters
    x, y = sympy.symbols("x[0] x[1]", real=True)
    names = {s.name: s for s in poly.f[0].free_symbols}
    assert [s.name for s in poly.parameters] == ["0.weight[0,0]", "0.weight[0,1]", "0.bias[0]", "1.weight[0,0]"]
    source = sorted(n for n in names if n not in {s.name for s in poly.parameters})
    x, y = (names[n] for n in source)
    assert sympy.expand(poly.f[0] - out * (a * x + b * y + bias)) == 0
    assert sympy.expand(poly.r2 - out**2 * (a**2 + b**2 + bias**2)) == 0
    assert poly.kernel == sympy.Matrix(
        [[out**2 + a**2, a * b, a * bias], [a * b, out**2 + b**2, b * bias], [a * bias, b * bias, out**2 + bias**2]]
    )
    assert sympy.expand(poly.trace - 3 * out**2 - a**2 - b**2 - bias**2) == 0


def test_latex_is_balanced():
    _, poly, _ = both("tied_weights")
    for what in ("f", "r1", "r2", "trace"):
        text = poly.latex(what)
        assert text.count("{") == text.count("}")
        assert r"\mathrm{" in text


def test_too_many_paths_are_refused_with_their_number():
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20))
    with pytest.raises(PkcError, match=r"PKC535.*168,420 paths") as caught:
        polynomials(model, torch.zeros(1, 20))
    assert "closed_forms" in str(caught.value)


def test_a_matrix_that_is_too_large_is_refused_and_the_rest_is_there():
    poly = polynomials(nn.Linear(20, 15), torch.zeros(1, 20))
    with pytest.raises(PkcError, match="PKC535"):
        _ = poly.kernel
    assert poly.trace == 315


def test_wrong_arguments_are_named():
    with pytest.raises(PkcError, match="PKC538"):
        polynomials(nn.Linear(2, 2), torch.zeros(1, 2), gates="closed")
    with pytest.raises(PkcError, match="PKC535"):
        polynomials(nn.Linear(2, 2), torch.zeros(1, 2)).latex("spectrum")
