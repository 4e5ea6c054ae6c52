"""Analyses against the enumeration of paths, against direct calls, and against pruning; their laws and their errors."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from oracle.case import Case
from oracle.enumerate import Setting, evaluate, gram
from oracle.families import FAMILIES
from torch import nn

from pkcompiler.analyses.run import analyse_capture, analyse_graph, run_analysis
from pkcompiler.analyses.values import Series
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.kernel.path_kernel import path_kernel
from pkcompiler.lang.library import find_analysis
from pkcompiler.measured import Measured
from pkcompiler.predict.mean_trace import predict_trace
from pkcompiler.tangent.dynamics import dynamics
from pkcompiler.tangent.ntk import ntk

FEW = ("mlp_bias", "residual", "tied_weights", "shared_twice", "conv_dilated", "batch_norm", "gated_product", "layer_norm")
KERNEL = """analysis kernel {
  source = "a test"
  let R  = paths(edge = theta^2, pools = sum, constants = on)
  let G  = gram(R)
  report "R" = R
  report "trace" = trace(G)
  report "norm" = frobenius(G)
  report "values" = eigenvalues(G, 5)
  report "rank" = effective_rank(G) / stable_rank(G)
  report "diagonal" = diagonal(G)
  report "share" = mask * theta^2 * grad(R, theta^2) / R
}"""


def network(wide: int = 8) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, 3)).double()


X = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(9) % 3
DATA = (X, Y)


def some_masks(model: nn.Module, part: float = 0.8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {n: torch.rand(p.shape, generator=generator) < part for n, p in model.named_parameters()}


def found(report: str, lets: str = "", **given):
    """The value of one report line on the network."""
    text = f'analysis a {{ source = "x" {lets} report "a" = {report} }}'
    return run_analysis(network(), X[:1], text, **given)["a"]


@cache
def built(name: str) -> tuple[Case, Capture]:
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", FEW)
def test_figures_of_the_path_kernel_are_those_of_all_paths(name: str, masked: bool) -> None:
    case, captured = built(name)
    masks = some_masks(case.module) if masked else None
    mask = None if masks is None else case.flat(masks)
    report = analyse_capture(captured, find_analysis(KERNEL), masks=masks)
    matrix = gram(case.dag, case.theta, mask=mask)
    squared = evaluate(case.dag, case.theta, Setting(edge="theta^2", pools="sum", constants="on"), mask=mask)
    values = np.linalg.eigvalsh(matrix)[::-1]
    norm, scale = np.linalg.norm(matrix), np.trace(matrix)
    assert float(report["R"]) == pytest.approx(squared.value, rel=1e-10)
    assert float(report["trace"]) == pytest.approx(scale, rel=1e-10)
    assert float(report["norm"]) == pytest.approx(norm, rel=1e-10)
    np.testing.assert_allclose(report["values"].floats(), values[:5], rtol=0, atol=1e-9 * norm)
    assert float(report["rank"]) == pytest.approx(scale / norm**2 * values[0], rel=1e-8)
    for label, flat in (("diagonal", np.diag(matrix)), ("share", squared.grad * (case.theta**2) / squared.value)):
        flat = flat if mask is None else flat * mask
        for parameter, measured in report[label].items():
            entries = dict(case.module.named_parameters())[parameter].numel()
            places = [case.parameter_index(parameter, i) for i in range(entries)]
            assert float(measured) == pytest.approx(flat[places].sum(), rel=1e-9, abs=1e-12 * scale), (label, parameter)
    assert {row.status for row in report.rows} == {"approximate" if name == "layer_norm" else "exact"}


def test_shipped_figures_are_those_of_direct_calls() -> None:
    model, masks = network(), some_masks(network())
    kernel, theta = path_kernel(model, X[:1], masks), ntk(model, DATA, masks)
    report = run_analysis(model, X[:1], "path-kernel", masks=masks)
    assert float(report["trace"]) == float(kernel.trace())
    assert report["largest eigenvalues"].floats() == kernel.eigenvalues(10).tolist()
    assert float(report["effective rank"]) == pytest.approx(float(kernel.effective_rank()), rel=1e-12)
    assert float(report["stable rank"]) == pytest.approx(float(kernel.stable_rank()), rel=1e-12)
    assert torch.equal(report["spectral density"].nodes, kernel.density().nodes)
    report = run_analysis(model, X[:1], "ntk", masks=masks, data=DATA)
    direct = {
        "trace": theta.trace(),
        "condition number": theta.condition_number(),
        "alignment with the targets": theta.alignment(),
        "largest stable step": theta.largest_stable_step(),
        "trace with frozen gates": theta.frozen().trace(),
        "bound of the trace with frozen gates": theta.bound(),
        "distance between true and frozen gates": theta.difference(),
        "expected trace per sample, without data": predict_trace(
            model, X[:1], masks=masks, mean=X.mean(0), second_moment=X.square().mean(0)
        ).trace,
    }
    for label, measured in direct.items():
        assert (float(report[label]), report[label].status) == (float(measured), measured.status), label
    assert report["expected trace per sample, without data"].error == direct["expected trace per sample, without data"].error
    report = run_analysis(model, X[:1], "dynamics", masks=masks, data=DATA)
    rate = float(theta.largest_stable_step()) / 2
    curves = dynamics(model, DATA, lr=rate, steps=50, masks=masks)
    assert float(report["learning rate"]) == rate
    assert report["loss after each step"].floats() == curves.predicted_steps.tolist()
    assert report["loss under gradient flow"].floats() == curves.predicted_flow.tolist()


def test_kernels_on_data_have_the_axes_of_the_data() -> None:
    theta = ntk(network(), DATA)
    diagonal = found("diagonal(ntk())", data=DATA)
    assert isinstance(diagonal, Series) and diagonal.axes == ("sample", "output")
    torch.testing.assert_close(diagonal.values, theta.traces())
    per_sample = found("sum(diagonal(ntk()), over = output)", data=DATA)
    torch.testing.assert_close(per_sample.values, theta.traces().sum(1))
    density = found("density(frozen(ntk()))", data=DATA)
    torch.testing.assert_close(density.nodes, theta.frozen().spectrum()[0])
    width = density.grid[1] - density.grid[0]
    assert float(density.density.sum() * width) == pytest.approx(1, abs=0.02)
    assert density.error is None and density.status == "exact"
    tail = "dynamics(frozen(ntk()), lr = 0.01, steps = 7)"
    assert found(tail, data=DATA).floats() == pytest.approx(found(tail.replace("frozen(ntk())", "ntk()"), data=DATA).floats())


def test_margins_and_quantiles() -> None:
    logits = network()(X).detach()
    others = logits.clone()
    others[torch.arange(9), Y] = -math.inf
    margins = logits[torch.arange(9), Y] - others.amax(1)
    torch.testing.assert_close(found("margin(output)", data=DATA).values, margins)
    for part in (0, 10, 37, 50, 100):
        value = found(f"quantile(margin(output), {part}%, over = sample)", data=DATA)
        assert float(value) == pytest.approx(float(margins.quantile(part / 100)), rel=1e-12)
    weights = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert float(found("quantile(abs(theta), 0.3, over = param)")) == pytest.approx(float(weights.abs().quantile(0.3)), rel=1e-12)
    assert float(found("sum(sign(theta), over = param)")) == float(weights.sign().sum())
    scores = found("quantile(output, 50%, over = output)", data=DATA)
    torch.testing.assert_close(scores.values, logits.median(1).values)


def test_what_has_param_is_shown_per_tensor_as_its_sum_or_as_it_is() -> None:
    named = {n: p.detach() for n, p in network().named_parameters()}
    sums = found("theta^2")
    spread = found("2 * norm2(theta, over = layer)")
    for name, p in named.items():
        assert float(sums[name]) == pytest.approx(float(p.square().sum()), rel=1e-12)
        assert float(spread[name]) == pytest.approx(2 * float(p.norm()), rel=1e-12)
    shares = found("theta^2 / sum(theta^2, over = param)")
    assert sum(map(float, shares.values())) == pytest.approx(1, rel=1e-12)


# what a number says it is ---------------------------------------------------------------------------------------------


def test_errors_of_estimates_are_carried_to_first_order() -> None:
    p = found("predicted_trace()")
    assert p.status == "estimated" and p.error and p.error > 0
    twice, logarithm, gone = (
        found("3 * predicted_trace()"),
        found("log(predicted_trace())"),
        found("predicted_trace() - predicted_trace()"),
    )
    assert twice.standard_error == pytest.approx(3 * p.standard_error, rel=1e-12)
    assert logarithm.standard_error == pytest.approx(p.standard_error / float(p), rel=1e-9)
    assert (float(gone), gone.error, gone.status) == (0, 0, "estimated")
    named = found("q^2 / R", "let q = predicted_trace() let R = paths(edge = theta^2)")
    assert named.standard_error == pytest.approx(2 * float(named) / float(p) * p.standard_error, rel=1e-9)
    share = found("theta^2 / predicted_trace()")["0.weight"]
    assert share.standard_error == pytest.approx(float(share) / float(p) * p.standard_error, rel=1e-9)


def test_independent_estimates_add_their_squares() -> None:
    wide = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 10)).double()
    text = 'analysis a { source = "x" let G = gram(paths(edge = theta^2)) report "n" = frobenius(G) report "p" = predicted_trace() '
    report = run_analysis(
        wide, X[:1], text + 'report "both" = frobenius(G) + predicted_trace() report "rank" = effective_rank(G) }'
    )
    parts = [report["n"].standard_error, report["p"].standard_error]
    assert all(e > 0 for e in parts)
    assert report["both"].standard_error == pytest.approx(math.hypot(*parts), rel=1e-9)
    assert report["rank"].status == "estimated" and report["rank"].standard_error > 0


def test_what_is_approximate_without_an_error_gives_none_to_sums() -> None:
    smooth = nn.Sequential(nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    text = 'analysis a { source = "x" let G = gram(paths(edge = theta^2)) report "both" = frobenius(G) + predicted_trace() }'
    both = run_analysis(smooth, torch.zeros(1, 32).double(), text)["both"]
    assert both.status == "approximate" and both.error is None


def test_errors_are_carried_through_the_weights_of_a_functional() -> None:
    lets = "let q = predicted_trace() let R = paths(edge = theta^2, output = q * max(output, over = sample))"
    value, plain = (
        found("R", lets, data=DATA),
        predict_trace(network(), X[:1], mean=X.mean(0), second_moment=X.square().mean(0)).trace,
    )
    assert value.status == "estimated"
    assert value.standard_error / float(value) == pytest.approx(plain.standard_error / float(plain), rel=1e-9)


def test_an_expression_is_what_its_worst_part_is() -> None:
    lets = "let T = ntk() let R = paths(edge = theta^2)"
    assert found("bound(T) - trace(T)", lets, data=DATA).status == "bound"
    assert float(found("bound(T) - trace(T)", lets, data=DATA)) > 0
    assert found("trace(T) * predicted_trace()", lets, data=DATA).status == "estimated"
    assert found("dynamics(T, lr = bound(T), steps = 2)", lets, data=DATA).status == "bound"
    nothing = found("log(R - R - 1)", lets)
    assert nothing.status == "not predicted" and "no number" in nothing.note and math.isnan(float(nothing))
    assert float(found("1 / (R - R)", lets)) == math.inf


def test_names_of_words_do_not_mix_with_values_of_the_same_name() -> None:
    lets = "let on = paths(edge = theta^2, constants = on, input = ones) let ones = 2"
    assert float(found("on * ones", lets)) == pytest.approx(2 * float(path_kernel(network(), X[:1], pools="max").value()))
    assert found("on", "let on = trace(gram(paths(edge = theta^2, constants = on)))").status == "exact"


def test_a_chain_of_names_is_walked_once() -> None:
    lets = "let a0 = predicted_trace() " + " ".join(f"let a{i} = a{i - 1} + a{i - 1}" for i in range(1, 40))
    assert found("a39", lets).standard_error == pytest.approx(2.0**39 * found("predicted_trace()").standard_error)


def test_the_same_bits_again() -> None:
    first = run_analysis(network(30), X[:1], "path-kernel").to_json()
    assert first == run_analysis(network(30), X[:1], "path-kernel").to_json()


# without a model, under masks, wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["path-norms", "path-kernel", "conditioning", "collapse"])
def test_a_graph_and_its_tensors_are_enough_where_no_data_is_read(name: str) -> None:
    model, masks = network(), some_masks(network())
    captured = capture(model, X[:1], dtype=torch.float64)
    alone = analyse_graph(captured.graph, captured.tensors, find_analysis(name), masks=masks)
    whole = run_analysis(model, X[:1], name, masks=masks)
    assert alone.masked and alone.to_json()["rows"] == whole.to_json()["rows"]


def test_masks_count_and_nothing_is_changed() -> None:
    model, masks = network().train(), some_masks(network())
    before = {n: p.clone() for n, p in model.state_dict().items()}
    whole, cut = (run_analysis(model, X[:1], "path-norms", masks=m) for m in (None, masks))
    assert float(cut["path L1 norm (R_1)"]) < float(whole["path L1 norm (R_1)"])
    assert whole.masked is False and cut.masked is True
    zeroed = network()
    with torch.no_grad():
        for n, p in zeroed.named_parameters():
            p.mul_(masks[n])
    same = run_analysis(zeroed, X[:1], "path-norms")
    for label in ("path L1 norm (R_1)", "squared path L2 norm (R_2)"):
        assert float(cut[label]) == pytest.approx(float(same[label]), rel=1e-12)
    assert sum(map(float, found("mask", masks=masks).values())) == sum(int(m.sum()) for m in masks.values())
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("report", "given", "code", "said"),
    [
        ("trace(ntk())", {}, "PKC502", "reads data"),
        ("collapse(snip)", {}, "PKC502", "reads data"),
        ("alignment(ntk())", {"data": (X, None)}, "PKC527", "targets"),
        ("margin(output)", {"data": (X, None)}, "PKC506", "targets"),
        ("margin(output)", {"data": (X, Y + 1)}, "PKC506", "has 3 outputs"),
        ("trace(ntk())", {"data": (X[:, :2], Y)}, "PKC505", "shape"),
        ("sum(mask, over = param)", {"masks": {"none": torch.ones(2)}}, "PKC401", "'none'"),
        ("dynamics(ntk(), lr = 0 - 1, steps = 2)", {"data": DATA}, "PKC528", "learning rate"),
        ("trace(gram(paths(edge = abs(theta))))", {}, "PKC120", "gram()"),
    ],
)
def test_wrong_input_is_diagnosed(report: str, given: dict, code: str, said: str) -> None:
    with pytest.raises(PkcError, match="(?s)" + said.replace("(", r"\(").replace(")", r"\)")) as caught:
        found(report, **given)
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize(
    "report", ["trace(ntk())", "predicted_trace()", "loss", "mean(margin(output), over = sample)", "collapse(snip)"]
)
def test_what_runs_the_model_needs_one(report: str) -> None:
    captured = capture(network(), X[:1], dtype=torch.float64)
    analysis = find_analysis(f'analysis a {{ source = "x" report "a" = {report} }}')
    with pytest.raises(PkcError, match="only a graph") as caught:
        analyse_graph(captured.graph, captured.tensors, analysis)
    assert caught.value.diagnostics[0].code == "PKC550"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x), self.b(x)


def test_kernels_on_data_are_of_the_first_output() -> None:
    analysis = find_analysis('analysis a { source = "x" report "a" = trace(ntk()) }')
    first, second = (capture(Two(), X[:1], dtype=torch.float64, output=i) for i in (0, 1))
    assert float(analyse_capture(first, analysis, data=X)["a"]) == pytest.approx(9 * 2 + 2 * float(X.square().sum()))
    with pytest.raises(PkcError) as caught:
        analyse_capture(second, analysis, data=X)
    assert caught.value.diagnostics[0].code == "PKC551"


class Attends(nn.Module):
    """Queries and keys multiply: paths cross the projection twice."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(16, 48), nn.Linear(16, 2)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return self.head(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)


def test_a_line_that_is_too_large_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pkcompiler.kernel.hessian_diagonal.MOST", 10)
    report = run_analysis(Attends(), torch.zeros(1, 3, 16), "path-kernel")
    share = report["part of the trace of each tensor"]
    assert share.status == "not predicted" and "PKC521" in share.note
    assert "not predicted" in str(report) and json.dumps(report.to_json(), allow_nan=False)
    assert report["trace"].status == "estimated" and len(report["largest eigenvalues"].floats()) == 10


def test_a_network_without_a_path_has_figures() -> None:
    masks = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in network().named_parameters()}
    report = run_analysis(network(), X[:1], "path-kernel", masks=masks)
    assert float(report["trace"]) == 0 and report["effective rank"].status == "not predicted"
    assert [row.status for row in run_analysis(network(), X[:1], "conditioning", masks=masks).rows][1:] == ["not predicted"] * 2


def test_plain_data_hold_everything_and_no_nan() -> None:
    text = """analysis a { source = "x" let G = gram(paths(edge = theta^2))
      report "n" = trace(G) report "p" = theta report "nan" = log(0 - trace(G)) report "inf" = log(trace(G) - trace(G))
      report "v" = log(eigenvalues(G, 3) - eigenvalues(G, 3)) report "d" = density(G) report "c" = collapse(magnitude) }"""
    report = run_analysis(network(), X[:1], text)
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    rows = {row["label"]: row for row in plain["rows"]}
    assert [row["kind"] for row in plain["rows"]] == [row.kind for row in report.rows]
    assert rows["n"]["value"]["value"] == float(report["n"]) and rows["n"]["formula"] == "trace(G)"
    assert rows["nan"]["status"] == "not predicted" and rows["nan"]["value"]["value"] is None
    assert rows["inf"]["value"]["value"] is None and rows["v"]["value"]["values"] == [None] * 3
    assert set(rows["p"]["value"]) == set(rows["c"]["value"]) | {f"{i}.bias" for i in (0, 2, 4)}
    assert sum(rows["d"]["value"]["weights"]) == pytest.approx(1)
    assert all(row["label"] in str(report) for row in plain["rows"])
    assert isinstance(report["n"], Measured) and "3 rows" not in repr(report)
