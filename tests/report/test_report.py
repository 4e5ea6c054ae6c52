"""The report: conservation, shares, masks, warnings, its text and its JSON."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from oracle.case import Case
from oracle.enumerate import Setting, evaluate, gains_of, list_paths
from oracle.families import FAMILIES
from torch import Tensor, nn

import pkcompiler
from pkcompiler import analyze
from pkcompiler.cli import main
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.measured import digits
from pkcompiler.report.analyze import analyze_graph
from pkcompiler.report.layout import percent, scientific
from pkcompiler.report.report import Figure, Mass, Report

R_1 = Setting(edge="abs(theta)", pools="sum", constants="on")
R_2 = Setting(edge="theta^2", pools="sum", constants="on")
COUNT = Setting(edge="1", pools="sum", constants="on")


def chain(*widths: int, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Sequential:
    torch.manual_seed(2)
    stem = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*stem, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 3, bias=False))


class Residual(nn.Module):
    """y = out(b(a(x)) + s(x)): the cut through a and s, and the cut through b and s."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.s, self.out = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(3, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x))) + self.s(x)))


def masks_of(module: nn.Module, density: float, seed: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in module.named_parameters()}


@cache
def built(name: str) -> tuple[Case, Capture]:
    case = FAMILIES[name]()
    return case, capture(case.module, case.example_inputs, dtype=torch.float64)


@cache
def report_of(name: str, density: float | None = None) -> Report:
    case, captured = built(name)
    return analyze_graph(captured.graph, captured.tensors, None if density is None else masks_of(case.module, density))


def value(mass: Mass) -> float:
    return math.ldexp(mass.mantissa, mass.exponent)


def rows(report: Report) -> dict:
    return {row.name: row for row in report.rows}


@pytest.mark.parametrize("density", [None, 0.7])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_totals_are_sums_over_the_listed_paths(name, density):
    case, report = built(name)[0], report_of(name, density)
    mask = None if density is None else case.flat(masks_of(case.module, density))
    l1, l2, count = (evaluate(case.dag, case.theta, s, mask=mask) for s in (R_1, R_2, COUNT))
    kept = 1.0 if mask is None else mask
    assert report.totals["paths"].value == count.value
    assert value(report.totals["l1"].value) == pytest.approx(l1.value, rel=1e-11)
    assert value(report.totals["l2_squared"].value) == pytest.approx(l2.value, rel=1e-11)
    assert value(report.totals["l2"].value) == pytest.approx(math.sqrt(l2.value), rel=1e-11)
    assert value(report.totals["tau"].value) == pytest.approx((l2.grad * kept).sum(), rel=1e-11)
    if not l2.value:
        return
    crossing = (case.theta**2 * kept * l2.grad, abs(case.theta) * kept * l1.grad, l2.grad * kept)
    wholes = (l2.value, l1.value, (l2.grad * kept).sum())
    for row in report.rows:
        at = [i for i, (n, _) in enumerate(case.dag.parameters) if n == row.name]
        got = (row.l2, row.l1, row.tau)
        assert got == pytest.approx([part[at].sum() / whole for part, whole in zip(crossing, wholes, strict=True)], rel=1e-10)


@pytest.mark.parametrize("density", [None, 0.7])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_share_from_the_inputs_is_that_of_the_paths_that_begin_there(name, density):
    case, report = built(name)[0], report_of(name, density)
    squares = case.theta**2 * (1 if density is None else case.flat(masks_of(case.module, density)))
    paths = [p for listed in list_paths(case.dag, COUNT.structure()) for p in listed]
    gains, mass = gains_of(case.dag), {True: 0.0, False: 0.0}
    for path in paths:
        fixed = path.coefficient * math.prod(gains[g] for g in path.gates)
        mass[bool(path.sources)] += fixed**2 * math.prod(squares[i] for i in path.parameters)
    whole = sum(mass.values())
    assert report.totals["fed_share"].value == (pytest.approx(mass[True] / whole, abs=1e-12) if whole else None)


@pytest.mark.parametrize("density", [None, 0.6])
@pytest.mark.parametrize("model", [chain(5, 7, 6, 3), convolutions()], ids=["mlp", "cnn"])
def test_every_layer_of_a_chain_without_biases_carries_all_of_the_mass(model, density):
    x = torch.zeros(1, 5) if isinstance(model[0], nn.Linear) else torch.zeros(1, 2, 8, 8)
    report = analyze(model, x, None if density is None else masks_of(model, density))
    assert [row.l1 for row in report.rows] == pytest.approx([1.0] * len(report.rows), rel=1e-12)
    assert [row.l2 for row in report.rows] == pytest.approx([1.0] * len(report.rows), rel=1e-12)
    assert sum(row.tau for row in report.rows) == pytest.approx(1.0, rel=1e-12)


def test_a_cut_carries_what_does_not_begin_beyond_it():
    """docs/theory.md, section 2: a cut, its later biases and nothing else make up R (each source is on one side)."""
    found = rows(analyze(Residual(), torch.zeros(1, 3)))
    cuts = (
        ("a.weight", "s.weight", "a.bias", "b.bias", "out.bias"),
        ("b.weight", "s.weight", "b.bias", "out.bias"),
        ("out.weight", "out.bias"),
    )
    for cut in cuts:
        assert sum(found[n].l1 for n in cut) == pytest.approx(1.0, rel=1e-12)
        assert sum(found[n].l2 for n in cut) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", ["mlp_bias", "batch_norm", "max_pool", "attention", "shared_twice"])
def test_masks_of_ones_change_nothing(name):
    case = built(name)[0]
    without = analyze(case.module, case.example_inputs)
    ones = {n: torch.ones_like(p, dtype=torch.bool) for n, p in case.module.named_parameters()}
    prunable = {row.name: ones[row.name] for row in without.rows if row.prunable}
    with_masks = analyze(case.module, case.example_inputs, prunable)
    assert with_masks.to_json() == without.to_json() and str(with_masks) == str(without)
    everything = analyze(case.module, case.example_inputs, ones).totals
    assert everything["prunable"].value == sum(m.numel() for m in ones.values()), "what has a mask counts"


@pytest.mark.parametrize("density", [None, 0.3])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_json_round_trip(name, density):
    report = report_of(name, density)
    data = report.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["schema"] == 1 and data["columns"].keys() <= data["parameters"][0].keys()
    assert all(figure["status"] in ("exact", "approximate", "bound", "undefined") for figure in data["totals"].values())
    assert int(data["totals"]["paths"]["value"]) == report.totals["paths"].value


def test_centring_makes_figures_approximate():
    assert report_of("layer_norm").totals["l1"].status == report_of("layer_norm").totals["paths"].status == "approximate"
    assert report_of("rms_norm").totals["l1"].status == report_of("mlp_bias").columns["l2_share"] == "exact"


def test_sparsity_is_of_the_prunable_direct_and_effective():
    model = chain(2, 3, 1, bias=True)
    masks = {"0.weight": torch.tensor([[1, 1], [1, 0], [0, 0]]).bool(), "2.weight": torch.tensor([[1, 0, 1]]).bool()}
    report = analyze(model, torch.zeros(1, 2), masks)
    got = {name: report.totals[name].value for name in ("parameters", "prunable", "kept", "effective")}
    assert got == {"parameters": 13, "prunable": 9, "kept": 5, "effective": 4}
    assert report.totals["direct_sparsity"] == Figure(1 - 5 / 9) and report.totals["effective_sparsity"] == Figure(1 - 4 / 9)
    row = rows(report)["0.weight"]
    assert (row.kept, row.effective, row.fed, row.units, row.alive) == (3, 2, 2, 3, 1)
    assert rows(report)["0.bias"].alive == 2


def test_a_graph_and_its_tensors_are_enough():
    captured = capture(convolutions(), torch.zeros(1, 2, 8, 8), dtype=torch.float64)
    graph = pkcompiler.parse_graph(str(captured.graph))
    alone, whole = analyze_graph(graph, captured.tensors, name="Sequential"), analyze(convolutions(), torch.zeros(1, 2, 8, 8))
    assert alone.to_json() == whole.to_json()


def kinds(report: Report) -> set[tuple[str, str]]:
    return {(w.kind, w.subject) for w in report.warnings}


class Sum(nn.Linear):
    """A linear layer whose weight is shifted by a parameter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight + self.shift, self.bias)


def test_computed_weights_are_named():
    """A sum of parameters: the weight is none. With a mask on what it is computed from, nothing is left to say."""
    model = nn.Sequential(Sum(5, 4), nn.ReLU(), nn.Linear(4, 3))
    name = "0.weight"
    (found,) = analyze(model, torch.randn(1, 5)).warnings
    assert (found.kind, found.subject) == ("computed-weights", name) and "20 entries" in found.message and name in found.help
    assert analyze(model, torch.randn(1, 5), masks={name: torch.ones(4, 5, dtype=torch.bool)}).warnings == ()


def test_a_sound_network_has_no_warnings():
    assert kinds(analyze(chain(4, 8, 3, bias=True), torch.zeros(1, 4))) == set()


def test_collapse_comes_first_and_says_what_to_do():
    model = chain(4, 8, 3, bias=True)
    report = analyze(model, torch.zeros(1, 4), {"0.weight": torch.zeros(8, 4, dtype=torch.bool)})
    assert {("collapsed", "model"), ("collapsed", "0.weight")} <= kinds(report)
    assert report.warnings[0].kind == "collapsed" and report.warnings[0].help
    assert report.totals["shortest_path"].value is None and report.totals["fed_share"].value == 0
    assert str(report).index("warning[collapsed]") < str(report).index("parameters")


def test_layers_near_collapse_dead_units_and_dead_outputs():
    model = chain(4, 40, 3)
    mask = torch.zeros(40, 4, dtype=torch.bool)
    mask[0] = True
    last = torch.ones(3, 40, dtype=torch.bool)
    last[0] = False
    report = analyze(model, torch.zeros(1, 4), {"0.weight": mask, "2.weight": last})
    assert kinds(report) == {("near-collapse", "0.weight"), ("dead-units", "model"), ("dead-outputs", "model")}
    assert "of 43 units 40 are dead" in next(w.message for w in report.warnings if w.kind == "dead-units")


def test_non_finite_weights_are_named_and_leave_norms_undefined():
    model = chain(4, 8, 3)
    model[2].weight.data[0, :2] = math.nan
    report = analyze(model, torch.zeros(1, 4))
    assert report.warnings[0].kind == "non-finite" and "2 of 24" in report.warnings[0].message
    assert report.totals["l1"] == Figure(None, "undefined") and report.totals["paths"].value == 4 * 8 * 3
    json.dumps(report.to_json(), allow_nan=False)
    assert "undefined" in str(report)


def test_zeros_are_no_mask():
    model = chain(4, 8, 3)
    model[0].weight.data[:4] = 0
    assert ("unmasked-zeros", "model") in kinds(analyze(model, torch.zeros(1, 4)))
    masks = {n: p != 0 for n, p in model.named_parameters()}
    assert kinds(analyze(model, torch.zeros(1, 4), masks)) == {("dead-units", "model")}
    model[2].weight.data[:] = 0
    report = analyze(model, torch.zeros(1, 4))
    assert ("all-zero", "2.weight") in kinds(report)
    assert report.totals["l1"].value.to_json()["log10"] is None and rows(report)["0.weight"].l1 is None
    assert "all-zero" in str(report)


@pytest.mark.parametrize(("scale", "kind"), [(1e30, "exploding-mass"), (1e-30, "vanishing-mass")])
def test_mass_outside_of_float32(scale, kind):
    model = chain(4, 8, 8, 3)
    for layer in model[::2]:
        layer.weight.data *= scale
    report = analyze(model.double(), torch.zeros(1, 4))
    assert kinds(report) == {(kind, "model")}
    json.dumps(report.to_json(), allow_nan=False)


def test_an_output_that_hardly_depends_on_the_input():
    model = chain(4, 8, 8, 3, bias=True)
    model[0].weight.data *= 1e-6
    report = analyze(model, torch.zeros(1, 4))
    assert kinds(report) == {("vanishing-mass", "model")} and "biases" in report.warnings[0].message


def test_norms_of_any_size():
    model = chain(*[90] * 41)
    for parameter in model.parameters():
        parameter.data *= 1e9
    captured = capture(model, torch.zeros(1, 90), dtype=torch.float64)
    deep = analyze_graph(captured.graph, captured.tensors)
    for name, edge in (("l1", "abs(theta)"), ("l2_squared", "theta^2")):
        matrices = [t.abs() if edge == "abs(theta)" else t.square() for t in captured.tensors.values()]
        mass, log10 = torch.ones(90, dtype=torch.float64), 0.0
        for matrix in matrices:
            mass = matrix @ mass
            log10, mass = log10 + math.log10(mass.max()), mass / mass.max()
        assert deep.totals[name].value.log10 == pytest.approx(log10 + math.log10(mass.sum()), rel=1e-10)
    assert deep.totals["paths"].value == 90**41 and deep.totals["l1"].value.log10 > 308
    assert deep.totals["l2"].value.log10 == pytest.approx(deep.totals["l2_squared"].value.log10 / 2, rel=1e-12)


def test_masses():
    assert Mass(0.75, 3).root().to_json()["value"] == pytest.approx(math.sqrt(6))
    assert Mass(0.5, -2001).root().log10 == pytest.approx(-2002 * math.log10(2) / 2)
    assert Mass(1.0, 5000).to_json() == {"value": None, "mantissa": 1.0, "exponent": 5000, "log10": 5000 * math.log10(2)}
    assert Mass(1.0, -5000).to_json()["value"] is None
    assert Mass(0.0, 0).to_json() == {"value": 0.0, "mantissa": 0.0, "exponent": 0, "log10": None}
    assert scientific(Mass(0.0, 0)) == "0" and scientific(Mass(0.625, 4)) == "1.000e+1 (10^1.00)"


def test_digits_of_numbers_that_str_refuses():
    number = 7**12345
    text = digits(number)
    assert len(text) == math.floor(12345 * math.log10(7)) + 1 and digits(10**9000) == "1" + "0" * 9000
    assert int(text[-18:]) == number % 10**18 and int(text[:15]) == number // 10 ** (len(text) - 15)


def test_text_shows_every_row_in_full():
    report = report_of("batch_norm", 0.7)
    lines = str(report).splitlines()
    assert {line.split()[0] for line in lines if line.strip()} >= {row.name for row in report.rows}
    assert "..." not in str(report) and "\x1b" not in str(report)
    assert (percent(None), percent(0.0), percent(0.5), percent(1e-9)) == ("-", "0.00%", "50.00%", "1.0e-07%")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = capture(chain(4, 8, 3), torch.zeros(1, 4), dtype=torch.float64)
    monkeypatch.setattr(
        "pkcompiler.cli.analyze.opened",
        lambda **_: SimpleNamespace(capture=lambda _: captured, name="net", seed=0, initialise=None),
    )


@pytest.mark.usefixtures("opened")
def test_the_command_prints_the_report(tmp_path: Path):
    runner, file = CliRunner(), tmp_path / "report.json"
    shown = runner.invoke(main, ["analyze", "net.py:build", "--json", str(file)], catch_exceptions=False)
    assert shown.exit_code == 0 and shown.stdout.startswith("net, nothing masked\n") and "2.weight" in shown.stdout
    piped = runner.invoke(main, ["analyze", "net.py", "--json", "-"], catch_exceptions=False)
    assert json.loads(piped.stdout) == json.loads(file.read_text()) and json.loads(piped.stdout)["schema"] == 1


@pytest.mark.usefixtures("opened")
def test_a_json_file_that_cannot_be_written(tmp_path: Path):
    result = CliRunner().invoke(main, ["analyze", "net.py", "--json", str(tmp_path / "no" / "report.json")])
    assert result.exit_code == 1 and "PKC631" in result.stderr and "--json -" in result.stderr


def test_the_command_reads_an_artifact_without_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    captured = capture(chain(4, 8, 3), torch.zeros(1, 4), dtype=torch.float64)
    masks = {"0.weight": torch.arange(32).reshape(8, 4) % 3 == 0}
    artifact = SimpleNamespace(graph=captured.graph, tensors=captured.tensors, masks=masks)
    monkeypatch.setattr("pkcompiler.driver.analyse.load", lambda _: artifact)
    folder = tmp_path / "pruned"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    result = CliRunner().invoke(main, ["analyze", str(folder), "--json", "-"], catch_exceptions=False)
    wanted = analyze_graph(captured.graph, captured.tensors, masks, "pruned").to_json()
    assert json.loads(result.stdout) == {**wanted, "analyses": []} and wanted["totals"]["kept"]["value"] == 11 + 24
