"""Every operator of the front end, with its options: its lift is certified, its batch is free, its graph is valid and prints."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from operator_cases import COMPOSITES
from operator_models import MODELS
from operator_tools import CASES, Net, p
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from pkcompiler.frontend.capture import Capture, capture
from pkcompiler.ir.maps import Constant, Conv, Dense, Embed, Gate, Merge, Named, Normalise, Product, Reindex, Scale, Softmax, Source
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.text import print_graph
from pkcompiler.ir.verify import violations
from pkcompiler.paths.certificate import Certificate, certify_capture

TOGETHER = 16
"""So many cases share one capture: what a capture costs hardly depends on the size of the model."""


def build(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(zlib.crc32(name.encode()))
    net, inputs = CASES[name]()
    return net.eval(), inputs


class Together(nn.Module):
    """Several models side by side, one input each; their outputs are laid end to end."""

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, *inputs: Tensor) -> Tensor:
        outputs = (net(x) for net, x in zip(self.nets.values(), inputs, strict=True))
        return torch.cat([y.reshape(x.shape[0], -1) for x, y in zip(inputs, outputs, strict=True)], 1)


def checked(net: nn.Module, inputs: Any) -> tuple[Capture, Certificate]:
    captured = capture(net, inputs, dtype=torch.float64)
    assert not list(violations(captured.graph))
    assert parse_graph(print_graph(captured.graph)) == captured.graph
    return captured, certify_capture(captured)


def groups() -> Iterator[tuple[str, ...]]:
    names = list(CASES)
    for start in range(0, len(names), TOGETHER):
        yield tuple(names[start : start + TOGETHER])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("names", list(groups()), ids=lambda names: f"{names[0]}..{names[-1]}")
def test_certified(names: tuple[str, ...]) -> None:
    built = {name: build(name) for name in names}
    nets = Together({name: net for name, (net, _) in built.items()})
    _, certificate = checked(nets, tuple(x for _, x in built.values()))
    assert certificate.batched
    assert certificate.holds, (certificate, [name for name in names if not checked(*build(name))[1].holds])


@pytest.mark.parametrize("name", ["rrelu", "sinc", "frac", "logit", "deg2rad", "logaddexp", "clamp_tensors", "lerp_first"])
def test_what_an_operator_stands_for_does_not_depend_on_the_others(name: str) -> None:
    net, inputs = build(name)
    company = Together({name: net, "glu": nn.Sequential(nn.Linear(inputs.shape[-1], 6), nn.GLU())})
    alone, beside = (capture(m, x, dtype=torch.float64).graph for m, x in ((net, inputs), (company, (inputs, inputs))))
    maps = [repr(op.map) for op in alone.ops]
    assert maps and [repr(op.map).replace(f"nets.{name}.", "") for op in beside.ops][: len(maps)] == maps


@pytest.mark.parametrize("name", MODELS)
def test_models_certified(name: str) -> None:
    torch.manual_seed(0)
    net, inputs = MODELS[name]()
    captured, certificate = checked(net.eval(), inputs)
    assert certificate.holds and certificate.batched, certificate
    shapes = [v.type.shape for v in captured.graph.inputs]
    assert all(not isinstance(shape[0], int) for shape in shapes)


@pytest.mark.parametrize(
    "name", ["rms_norm_by_hand", "attention_relative_bias", "encoder_layer", "avg_pool2d_ceil", "conv2d_reflect"]
)
def test_certified_at_another_batch_size(name: str) -> None:
    """The lift depends on the example's shape alone: it is exact at other inputs and another batch size."""
    net, inputs = build(name)
    captured = capture(net, inputs, dtype=torch.float64)
    call = captured.call
    flat = tuple(torch.randn(5, *t.shape[1:], dtype=t.dtype) for t in call.flat)
    moved = type(call)(flat, call.spec, call.output, call.output_name)
    certificate = certify_capture(Capture(captured.module, moved, captured.program, captured.lifted, captured.tensors))
    assert certificate.holds, certificate


def maps(net: nn.Module, inputs: Any) -> list[Any]:
    return [op.map for op in capture(net, inputs).graph.ops]


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_activation_is_one_gate(name: str) -> None:
    net, inputs = build(name)
    found = maps(net, inputs)
    assert [type(m) for m in found[:3]] == [Scale, Gate, Scale], found
    assert not any(isinstance(m, Gate | Product) for m in found[3:])


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "hardswish", "logsigmoid", "mish", "tanh"])
def test_activation_keeps_its_name(name: str) -> None:
    (gate,) = (m for m in maps(*build(name)) if isinstance(m, Gate))
    assert gate.kind != "composite"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [Dense]),
        ("addmm", [Dense]),
        ("matmul_parameter_right", [Dense]),
        ("conv3d_stride", [Conv]),
        ("conv_transpose2d_all", [Conv]),
        ("batch_norm2d", [Scale]),
        ("layer_norm", [Normalise]),
        ("group_norm", [Normalise]),
        ("embedding", [Embed]),
        ("identity", [Dense]),
    ],
)
def test_one_map(name: str, expected: list[type]) -> None:
    net, inputs = build(name) if name in CASES else MODELS[name]()
    found = [type(m) for m in maps(net, inputs) if not isinstance(m, Reindex)]
    assert found == expected


def softmax_of(net: nn.Module, inputs: Any) -> tuple[Capture, Softmax]:
    captured = capture(net, inputs)
    (found,) = (op.map for op in captured.graph.ops if isinstance(op.map, Softmax))
    return captured, found


@pytest.mark.parametrize(
    "name", ["attention_causal", "attention_grouped_query", "attention_by_hand", "attention_by_hand_where", "multihead_causal"]
)
def test_causal_masks_are_recognised(name: str) -> None:
    assert softmax_of(*build(name))[1].allowed == "causal"


@pytest.mark.parametrize("name", ["attention_boolean", "attention_additive"])
def test_constant_mask_is_what_the_softmax_allows(name: str) -> None:
    captured, softmax = softmax_of(*build(name))
    assert isinstance(softmax.allowed, Named)
    expected = torch.ones(5, 5, dtype=torch.bool).tril(1).triu(-1)
    assert torch.equal(captured.tensors[softmax.allowed.slot].reshape(5, 5), expected)


def test_mask_of_the_input_leaves_every_position_allowed() -> None:
    net, inputs = MODELS["attention_mask_boolean"]()
    assert softmax_of(net, inputs)[1].allowed is None


def test_tied_weights_are_one_slot() -> None:
    for name in ("tied", "called_twice", "causal_buffer"):
        torch.manual_seed(0)
        net, inputs = MODELS[name]()
        slots = [s.name for s in capture(net, inputs).graph.parameters]
        assert sorted(slots) == sorted(n for n, _ in net.named_parameters())


BLOCK = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")


@pytest.mark.parametrize(
    ("name", "prunable"),
    [
        ("causal_buffer", {"qkv.weight", "out.weight"}),
        ("class_token", {"patch.weight", "head.weight", *(f"block.{n}" for n in BLOCK)}),
        ("shifted_windows", {"qkv.weight", "out.weight"}),
        ("frozen_parameter", {"0.weight", "2.weight"}),
    ],
)  # fmt: skip
def test_prunable_weights(name: str, prunable: set[str]) -> None:
    net, inputs = MODELS[name]()
    assert {s.name for s in capture(net, inputs).graph.prunable} == prunable


def test_unused_parameters_are_no_slots_and_observed_ones_are_named() -> None:
    captured = capture(*MODELS["unused_parameter"]())
    assert "never" not in {s.name for s in captured.graph.slots}
    assert captured.lifted.observed_only == ()
    assert capture(*MODELS["mean_input"]()).lifted.observed_only == ("b.bias", "b.weight")


def test_outputs_are_chosen_by_name_or_index() -> None:
    net, inputs = MODELS["several_outputs"]()
    for output, width in ((None, 4), (0, 4), (1, 2), ("1", 2)):
        graph = capture(net, inputs, output=output).graph
        assert graph.ops[-1].result.type.shape[-1] == width
    net, inputs = MODELS["dictionary_output"]()
    assert capture(net, inputs, output="logits").call.output == 1
    assert capture(net, inputs).program.output == "logits"


def test_model_is_untouched() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    capture(net, torch.randn(4, 3), dtype=torch.float64)
    assert net.training and all(m.training for m in net)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in net.state_dict().items())
    assert all(q.grad is None for q in net.parameters())


def test_a_constant_factor_is_no_constant_source() -> None:
    """A fixed matrix multiplies; it is a source of its own only where it is added."""
    found = maps(Net(lambda m, x: (x @ m.b) * m.w, b=torch.randn(4, 3), w=p(3)), torch.randn(2, 4))
    assert next(m for m in found if isinstance(m, Source)).factor
    assert not any(isinstance(m, Merge) for m in found)


def test_average_pool_is_a_fixed_map() -> None:
    found = maps(nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(2, 2, 4, 4))
    assert any(m == Constant(m.factor) and getattr(m.factor, "value", 0) == 1 / 16 for m in found if isinstance(m, Constant))


def test_inputs_of_every_structure() -> None:
    net = Net(lambda m, a, b: m.l(a) + b, l=nn.Linear(3, 3))
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    graphs = [capture(net, given).graph for given in ((a, b), [a, b], {"a": a, "b": b}, {"b": b, "a": a})]
    assert all(len(pytree.tree_leaves([v.name for v in g.inputs])) == 2 for g in graphs)
    assert graphs[0] == graphs[1]


def test_functional_dropout_that_is_always_on_is_refused() -> None:
    """Dropout in evaluation mode is nothing; one that ignores the mode is random, and no path map."""
    from pkcompiler.diagnostics import PkcError

    with pytest.raises(PkcError):
        capture(Net(lambda m, x: F.dropout(m.l(x), 0.5, True), l=nn.Linear(3, 3)), torch.randn(2, 3))
