"""A certificate certifies: damaged lifts fail, each damage alone; the errors are the definitions' and not the sweep's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import pkc
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.frontend.lift.lifted import Record
from pkcompiler.ir.maps import (
    Constant,
    Conv,
    Dense,
    Frozen,
    Gate,
    InvSqrt,
    Literal,
    Merge,
    Named,
    Normalise,
    PathMap,
    Reindex,
    Scale,
    Softmax,
    Source,
    Window,
)
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.paths.certificate import Certificate, certify, certify_capture, require


class Small(nn.Module):
    """Every kind of map that is damaged below, with square weights and paddings that fit other strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.square = nn.Linear(4, 4)
        self.inner = nn.Linear(4, 4, bias=False)
        self.layer = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.max_pool2d(self.down(x), 2, 2)
        x = x.mean((2, 3))
        y = x - self.square(x)
        y = y + torch.softmax(self.inner(y), -1) * y
        return self.head(self.layer(torch.tanh(y)))


def small() -> Capture:
    torch.manual_seed(0)
    net = Small()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return capture(net.eval(), torch.randn(2, 2, 8, 8), dtype=torch.float64)


@pytest.fixture(scope="module")
def certified() -> Capture:
    captured = small()
    assert certify_capture(captured).holds
    return captured


def with_graph(captured: Capture, graph: PathGraph, records: dict[str, Record] | None = None) -> Capture:
    kept = dict(captured.lifted.records) if records is None else records
    lifted = replace(captured.lifted, graph=graph, records={k: v for k, v in kept.items() if k in {op.name for op in graph.ops}})
    return replace(captured, lifted=lifted)


def change(captured: Capture, kind: type, edit: Callable[[Any], PathMap], index: int = 0) -> Capture:
    """The capture with the ``index``-th operation of a kind edited."""
    places = [i for i, op in enumerate(captured.graph.ops) if isinstance(op.map, kind)]
    i = places[index]
    ops = list(captured.graph.ops)
    ops[i] = replace(ops[i], map=edit(ops[i].map))
    assert ops[i] != captured.graph.ops[i]
    return with_graph(captured, replace(captured.graph, ops=tuple(ops)))


DAMAGES: dict[str, Callable[[Capture], Capture]] = {
    "dense_without_bias": lambda c: change(c, Dense, lambda m: replace(m, bias=None)),
    "dense_transposed": lambda c: change(c, Dense, lambda m: replace(m, transposed=True)),
    "dense_with_another_weight": lambda c: change(c, Dense, lambda m: replace(m, weight="inner.weight")),
    "dense_dropped": lambda c: change(c, Dense, lambda m: Reindex("flip", (("dims", (1,)),))),
    "dense_as_identity": lambda c: change(c, Dense, lambda m: Constant(Literal(1.0))),
    "conv_without_bias": lambda c: change(c, Conv, lambda m: replace(m, bias=None)),
    "conv_dilated": lambda c: change(c, Conv, lambda m: replace(m, padding=(2, 2), dilation=(2, 2))),
    "conv_shifted": lambda c: change(c, Conv, lambda m: replace(m, padding=(2, 2), dilation=(2, 2)), 1),
    "norm_with_another_eps": lambda c: change(c, Scale, lambda m: replace(m, factor=InvSqrt(m.factor.slot, 1e-3))),
    "norm_without_gain": lambda c: change(c, Scale, lambda m: replace(m, weight=None)),
    "norm_without_shift": lambda c: change(c, Scale, lambda m: replace(m, bias=None)),
    "norm_without_mean": lambda c: change(c, Scale, lambda m: replace(m, center=None)),
    "norm_without_variance": lambda c: change(c, Scale, lambda m: replace(m, factor=None)),
    "norm_centred_by_variance": lambda c: change(c, Scale, lambda m: replace(m, center=Named("norm.running_var"))),
    "layer_norm_as_rms": lambda c: change(c, Normalise, lambda m: replace(m, kind="rms")),
    "layer_norm_without_gain": lambda c: change(c, Normalise, lambda m: replace(m, weight=None)),
    "merge_with_the_other_sign": lambda c: change(c, Merge, lambda m: replace(m, signs=(1, 1))),
    "mean_as_sum": lambda c: change(c, Constant, lambda m: Constant(Literal(1.0))),
    "gate_with_a_constant": lambda c: change(c, Gate, lambda m: replace(m, zero=0.5)),
    "window_smaller": lambda c: change(c, Window, lambda m: Reindex("slice", (("dim", 3), ("start", 0), ("end", 4), ("step", 2)))),
    "softmax_dropped": lambda c: change(c, Softmax, lambda m: Constant(Literal(1.0))),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_lifts_fail(name: str, certified: Capture) -> None:
    """Damage may also be so great that nothing fits any more; it is never certified."""
    damaged = DAMAGES[name](certified)
    try:
        certificate = certify_capture(damaged)
    except RuntimeError as error:
        assert "shape" in str(error) or "size" in str(error)
        return
    assert not certificate.holds
    with pytest.raises(PkcError, match="not certified"):
        require(certificate, name)


def test_frozen_layer_passes_the_first_certificate_alone(certified: Capture) -> None:
    """A layer recorded as a constant source reproduces the output; only gradients and the closed list tell."""
    target = next(op for op in certified.graph.ops if isinstance(op.map, Dense) and op.map.weight == "square.weight")
    node = next(n for n in certified.program.module.graph.nodes if "linear" in n.name)
    ops = tuple(replace(op, map=Frozen("factor", "linear", True), inputs=()) if op is target else op for op in certified.graph.ops)
    records = {**certified.lifted.records, target.name: Record("frozen", node.name)}
    certificate = certify_capture(with_graph(certified, replace(certified.graph, ops=ops), records))
    assert certificate.max_relative_error < 1e-9
    assert not certificate.holds
    assert any("not on the list" in claim for claim in certificate.refused)


class Gated(nn.Module):
    """relu(W relu(V x)): a gate that swallows W has slope phi(z)/z of the wrong z, and the output still fits."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Linear(3, 3, bias=False)
        self.w = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.w(torch.tanh(self.v(x))))


def test_gate_that_swallows_a_layer_passes_the_first_certificate_alone() -> None:
    """phi(z)/z * z = phi(z) for any phi: what a gate may be is a closed list, read from the program."""
    torch.manual_seed(0)
    captured = capture(Gated(), torch.randn(2, 3), dtype=torch.float64)
    assert certify_capture(captured).holds
    first = captured.graph.ops[0]
    gates = [op for op in captured.graph.ops if isinstance(op.map, Gate)]
    records = captured.lifted.records
    swallowing = replace(records[gates[1].name], source=records[gates[0].name].source)
    ops = (first, replace(gates[1], inputs=(first.name,)))
    graph = replace(captured.graph, ops=ops, slots=tuple(s for s in captured.graph.slots if s.name == "v.weight"))
    certificate = certify_capture(with_graph(captured, graph, {gates[1].name: swallowing}))
    assert certificate.max_relative_error < 1e-12
    assert not certificate.holds
    assert any("no parameter-free pointwise function" in claim for claim in certificate.refused)


def test_gradients_catch_what_the_closed_lists_do_not() -> None:
    """A parameter that is added inside of a region: the reference is the program itself, so its gradient is missed."""
    torch.manual_seed(0)
    captured = capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(2, 3), dtype=torch.float64)
    damaged = change(captured, Dense, lambda m: replace(m, bias=None), 1)
    ops = list(damaged.graph.ops)
    bias = captured.tensors["2.bias"]
    constant = Op(Source(Named("2.bias.copy")), (), replace(ops[-1].result, name="copy", type=captured.graph.slot("2.bias").type))
    merged = Op(Merge((1, 1)), (ops[-1].name, "copy"), replace(ops[-1].result, name="sum"))
    slot = replace(captured.graph.slot("2.bias"), name="2.bias.copy", role="constant")
    graph = replace(damaged.graph, ops=(*ops, constant, merged), slots=(*damaged.graph.slots, slot), outputs=("sum",))
    certificate = certify_capture(replace(with_graph(damaged, graph), tensors={**captured.tensors, "2.bias.copy": bias}))
    assert certificate.max_relative_error < 1e-12
    assert certificate.refused == ()
    assert certificate.max_gradient_error > 0.5 and certificate.worst_parameter == "2.bias"
    assert not certificate.holds


def test_a_model_without_parameters_is_certified() -> None:
    certificate = certify(nn.Sequential(nn.ReLU(), nn.AvgPool1d(2)), torch.randn(2, 3, 4))
    assert certificate.holds and certificate.parameters == 0


def test_certificate_says_what_it_is_about() -> None:
    torch.manual_seed(0)
    certificate = certify(nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)), torch.randn(2, 3))
    assert isinstance(certificate, Certificate)
    assert certificate.frozen == ("1",) and certificate.batched and not certificate.recorded


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(value: float) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[2].weight[0, 0] = value
    with pytest.raises(PkcError, match=r"parameter '2\.weight' holds NaN or infinite values") as caught:
        certify(net, torch.randn(2, 3))
    assert [d.code for d in caught.value.diagnostics] == ["PKC405"]


class LogOfInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.log(x)


def test_an_output_that_is_not_finite_is_no_fault_of_the_lift() -> None:
    with pytest.raises(PkcError, match="own output is not finite"):
        certify(LogOfInput(), -torch.ones(2, 3))
    assert certify(LogOfInput(), torch.rand(2, 3) + 1).holds


OUTSIDE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)

    def forward(self, x):
        y = self.b(x)
        y = y if y.sum() > 1e6 else -y
        return y / self.a(x).abs().sum(-1, keepdim=True).sqrt()
"""


def test_the_command_says_what_the_graph_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "outside.py"
    file.write_text(OUTSIDE)
    result = pkc("certify", str(file), "--input", "2x3")
    assert result.exit_code == 0
    assert "on no path: 2 parameters that enter through frozen factors alone, first a.bias" in result.stdout
    assert "recorded: the branches taken at these inputs" in result.stdout
    assert "branches on the values of its tensors" in result.stderr
