"""The verifier: sound graphs pass, and every invariant has a graph that breaks it alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pkcompiler.codes import CODES
from pkcompiler.diagnostics import PkcError
from pkcompiler.ir.maps import (
    Batch,
    Constant,
    Conv,
    Dense,
    Embed,
    InvSqrt,
    Literal,
    Merge,
    Named,
    Normalise,
    PathMap,
    Product,
    Reindex,
    Resample,
    Scale,
    Softmax,
    Source,
    Window,
)
from pkcompiler.ir.parse import parse_graph
from pkcompiler.ir.types import Op, PathGraph, Slot, TensorType, Value
from pkcompiler.ir.verify import verify
from tests.ir.ir_graphs import any_graphs, sound_graphs

B = Batch()


def f32(*shape: int | Batch) -> TensorType:
    return TensorType("f32", shape)


PLANE = f32(B, 4, 6, 6)


def op(name: str, map: PathMap, *inputs: str, type: TensorType) -> Op:
    return Op(map, inputs, Value(name, type))


NET = PathGraph(
    "net",
    (Value("x", f32(B, 3, 8, 8)),),
    (
        Slot("conv.weight", f32(4, 3, 3, 3), "parameter", True),
        Slot("bn.weight", f32(4), "parameter"),
        Slot("bn.running_var", f32(4), "buffer"),
        Slot("order", TensorType("i64", (2,)), "constant"),
        Slot("fc.weight", f32(10, 2), "parameter", True),
    ),
    (
        op("conv", Conv("conv.weight", None, (2, 2), (1, 1), (1, 1)), "x", type=f32(B, 4, 4, 4)),
        op("bn", Scale("bn.weight", None, (4, 1, 1), InvSqrt("bn.running_var", 1e-05)), "conv", type=f32(B, 4, 4, 4)),
        op("sum", Reindex("sum", (("dims", (2, 3)), ("keepdim", False))), "bn", type=f32(B, 4)),
        op("pick", Reindex("index", (("dim", 1), ("index", Named("order")))), "sum", type=f32(B, 2)),
        op("fc", Dense("fc.weight"), "pick", type=f32(B, 10)),
    ),
    ("fc",),
)


def with_op(i: int, **changes: object) -> PathGraph:
    changed = replace(NET.ops[i], **changes)
    return replace(NET, ops=(*NET.ops[:i], changed, *NET.ops[i + 1 :]))


def with_map(i: int, **changes: object) -> PathGraph:
    return with_op(i, map=replace(NET.ops[i].map, **changes))


def with_slot(i: int, **changes: object) -> PathGraph:
    return replace(NET, slots=(*NET.slots[:i], replace(NET.slots[i], **changes), *NET.slots[i + 1 :]))


def alone(map: PathMap, *slots: Slot, inputs: tuple[TensorType, ...] = (PLANE,), type: TensorType = PLANE) -> PathGraph:
    values = tuple(Value(f"x{i}", t) for i, t in enumerate(inputs))
    return PathGraph("one", values, slots, (op("y", map, *(v.name for v in values), type=type),), ("y",))


def weight(*shape: int, role: str = "parameter", dtype: str = "f32") -> Slot:
    return Slot("w", TensorType(dtype, shape), role)  # type: ignore[arg-type]


EXTRA = op("more", NET.ops[4].map, "pick", type=f32(B, 10))
RGB = Conv("w", None, (1, 1), (0, 0), (1, 1))
POOL = Resample("average", (), (2, 2), (2, 2), (0, 0))

BROKEN: dict[str, tuple[PathGraph, str, str]] = {
    "slot twice": (replace(NET, slots=(*NET.slots, NET.slots[0])), "PKC301", "@conv.weight is declared twice"),
    "value twice": (with_op(4, result=Value("pick", f32(B, 10))), "PKC301", "%pick is defined twice"),
    "result named like an input": (with_op(4, result=Value("x", f32(B, 10))), "PKC301", "%x is defined twice"),
    "input twice": (replace(NET, inputs=NET.inputs * 2), "PKC301", "%x is defined twice"),
    "use before definition": (replace(NET, ops=(NET.ops[1], NET.ops[0], *NET.ops[2:])), "PKC302", "%conv is used before"),
    "undefined value": (with_op(0, inputs=("z",)), "PKC302", "%z is used before"),
    "use of itself": (with_op(1, inputs=("bn",)), "PKC302", "%bn is used before"),
    "undeclared slot": (replace(NET, slots=NET.slots[1:]), "PKC303", "@conv.weight is not declared"),
    "undeclared index": (replace(NET, slots=NET.slots[:3] + NET.slots[4:]), "PKC303", "@order is not declared"),
    "scale by a buffer": (with_slot(1, role="buffer"), "PKC304", "the weight of %bn is the buffer @bn.weight"),
    "shift by a buffer": (alone(Scale(None, "w", (6,)), weight(6, role="buffer")), "PKC304", "the bias of %y is the buffer"),
    "parameter in a fixed factor": (with_slot(2, role="parameter"), "PKC304", "the factor of %bn is the parameter @bn.running_var"),
    "parameter as a constant": (alone(Constant(Named("w")), weight(6)), "PKC304", "the factor of %y is the parameter"),
    "parameter as center": (alone(Scale(None, "w", (6,), None, Named("w")), weight(6)), "PKC304", "the center of %y"),
    "parameter as index": (with_slot(3, role="parameter"), "PKC304", "the index of %pick is the parameter @order"),
    "floating index": (with_slot(3, type=f32(2)), "PKC304", "the index of %pick has elements of f32"),
    "floating permission": (alone(Softmax(-1, Named("w")), weight(6, role="constant")), "PKC304", "expected bool"),
    "prunable buffer": (with_slot(2, prunable=True), "PKC304", "@bn.running_var is prunable, but a buffer"),
    "unknown role": (with_slot(2, role="statistic"), "PKC304", "unknown role 'statistic'"),
    "result shape": (with_op(0, result=Value("conv", f32(B, 4, 5, 5))), "PKC305", "gives f32[B, 4, 4, 4]"),
    "result batch": (with_op(4, result=Value("fc", f32(Batch(2), 10))), "PKC305", "gives f32[B, 10]"),
    "result element type": (with_op(4, result=Value("fc", TensorType("i64", (B, 10)))), "PKC305", "gives f32[B, 10]"),
    "negative padding": (with_map(0, padding=(-1, 1)), "PKC306", "padding must not be negative"),
    "zero stride": (with_map(0, stride=(0, 2)), "PKC306", "stride must be positive"),
    "short dilation": (with_map(0, dilation=(1,)), "PKC306", "dilation has 1 entries for 2 dimensions"),
    "no spatial dimension": (with_map(0, stride=(), padding=(), dilation=()), "PKC306", "at least one"),
    "no groups": (with_map(0, groups=0), "PKC306", "groups must be at least 1"),
    "output padding": (with_map(0, output_padding=(1, 1)), "PKC306", "belongs to a transposed"),
    "a list that is none": (with_map(0, stride=None), "PKC306", "stride must be a list of integers"),
    "a number that is a word": (with_map(0, groups="two"), "PKC306", "groups must be an integer"),
    "scale of nothing": (alone(Scale(None, None, (6,), Literal(2.0))), "PKC306", "has a weight or a bias"),
    "scale of no size": (with_map(1, shape=(4, 0, 1)), "PKC306", "shape must be positive"),
    "negative eps": (with_map(1, factor=InvSqrt("bn.running_var", -1.0)), "PKC306", "eps must be finite"),
    "factor nan": (alone(Constant(Literal(float("nan")))), "PKC306", "not nan"),
    "source nan": (alone(Source(Literal(float("nan"))), inputs=()), "PKC306", "not nan"),
    "negative padding index": (alone(Embed("w", -1), weight(9, 5)), "PKC306", "padding_idx"),
    "pool without kernel": (alone(replace(POOL, kernel=())), "PKC306", "average needs kernel"),
    "resize without size": (alone(Resample("nearest", ())), "PKC306", "nearest needs size"),
    "resize with kernel": (alone(Resample("nearest", (6, 6), kernel=(2,))), "PKC306", "no kernel"),
    "unknown resampling": (alone(replace(POOL, kind="area")), "PKC306", "kind must be average or"),
    "window of no size": (alone(Window((0, 2), (1, 1))), "PKC306", "kernel must be positive"),
    "window and dimensions": (alone(Window((1, 1), (1, 1), dims=(2,))), "PKC306", "not both"),
    "normalise with infinite eps": (alone(Normalise("layer", (6,), None, None, float("inf"))), "PKC306", "eps must be finite"),
    "layer groups": (alone(Normalise("layer", (6,), None, None, 1e-05, 2)), "PKC306", "groups must be"),
    "group shape": (alone(Normalise("group", (4, 6), None, None, 1e-05, 2)), "PKC306", "shape names what"),
    "product without convolution": (alone(Product("conv"), inputs=(PLANE, PLANE)), "PKC306", "exactly when kind is conv"),
    "product with weight": (alone(Product("conv", RGB), inputs=(PLANE, PLANE)), "PKC306", "names no weight"),
    "norm of a matrix product": (alone(Product("matmul", norm=True), inputs=(PLANE, PLANE)), "PKC306", "belongs to kind mul"),
    "sign": (alone(Merge((2,))), "PKC306", "signs must be 1 or -1"),
    "unknown reindexing": (with_map(2, fn="summ"), "PKC306", "did you mean 'sum'?"),
    "reindexing arguments": (with_map(2, args=(("dims", (2, 3)),)), "PKC306", "sum takes dims, keepdim in this order"),
    "order of arguments": (with_map(2, args=(("keepdim", False), ("dims", (2, 3)))), "PKC306", "in this order"),
    "kind of argument": (with_map(2, args=(("dims", "all"), ("keepdim", False))), "PKC306", "dims of sum must be a list"),
    "index by a number": (with_map(3, args=(("dim", 1), ("index", 2))), "PKC306", "index of index must be a slot"),
    "padding mode": (alone(Reindex("pad", (("pad", (0, 0)), ("mode", "mirror")))), "PKC306", "constant, reflect"),
    "two inputs of a convolution": (with_op(0, inputs=("x", "x")), "PKC307", "has 2 inputs, expected 1"),
    "input of a source": (alone(Source(Literal(1.0))), "PKC307", "has 1 inputs, expected 0"),
    "one input of a product": (alone(Product("mul")), "PKC307", "expected 2"),
    "sum of nothing": (alone(Merge(()), inputs=()), "PKC307", "expected at least 1"),
    "signs and inputs": (alone(Merge((1, 1, 1)), inputs=(PLANE, PLANE)), "PKC307", "2 inputs and 3 signs"),
    "undefined output": (replace(NET, outputs=("fc", "logits")), "PKC308", "%logits is not defined"),
    "no output": (PathGraph("nothing", NET.inputs, (), (), ()), "PKC308", "returns nothing"),
    "dead operation": (replace(NET, ops=(*NET.ops, EXTRA)), "PKC309", "depends on %more"),
    "unused slot": (replace(NET, slots=(*NET.slots, Slot("spare", f32(1), "buffer"))), "PKC310", "uses the buffer @spare"),
    "element type": (replace(NET, inputs=(Value("x", TensorType("float", (B, 3, 8, 8))),)), "PKC311", "element type 'float'"),
    "negative size": (with_op(4, result=Value("fc", f32(B, -10))), "PKC311", "negative dimension"),
    "empty batch": (with_op(4, result=Value("fc", f32(Batch(0), 10))), "PKC311", "negative dimension"),
    "slot per sample": (with_slot(4, type=f32(B, 2)), "PKC311", "what is stored has none"),
    "features": (with_slot(4, type=f32(10, 3)), "PKC312", "the last dimension of the input is [2], expected [3]"),
    "matrix": (with_slot(4, type=f32(10)), "PKC312", "needs 2 dimensions"),
    "bias": (alone(Dense("w", "w"), weight(6, 6)), "PKC312", "the bias is [6, 6], expected [6]"),
    "channels": (with_slot(0, type=f32(4, 5, 3, 3)), "PKC312", "the channels of the input is [3], expected [5]"),
    "window": (with_slot(0, type=f32(4, 3, 11, 3)), "PKC312", "does not fit"),
    "scale": (with_slot(1, type=f32(5)), "PKC312", "the weight [5] does not reshape to [4, 1, 1]"),
    "broadcast": (alone(Product("mul"), inputs=(f32(B, 4), f32(B, 3))), "PKC312", "do not broadcast"),
    "batch and number": (alone(Merge((1, 1)), inputs=(f32(B, 4), f32(2, 4))), "PKC312", "do not broadcast"),
    "matrix product": (alone(Product("matmul"), inputs=(f32(B, 4, 5), f32(B, 4, 5))), "PKC312", "[5] meets [4]"),
    "reshape": (alone(Reindex("reshape", (("shape", (B, 145)),))), "PKC312", "has not the elements"),
    "permutation": (alone(Reindex("permute", (("dims", (0, 1, 2, 2)),))), "PKC312", "does not permute"),
    "dimension": (alone(Reindex("flip", (("dims", (4,)),))), "PKC312", "dimension 4 of a tensor of 4"),
    "select": (alone(Reindex("select", (("dim", 1), ("index", 4)))), "PKC312", "index 4 of a dimension of 4"),
    "concatenation": (alone(Reindex("cat", (("dim", 0),)), inputs=(f32(B, 4), f32(B, 3))), "PKC312", "differ besides dimension 0"),
    "normalised shape": (alone(Normalise("layer", (5,), None, None, 1e-05)), "PKC312", "what is normalised is [6], expected [5]"),
    "channels in groups": (alone(Normalise("group", (4,), None, None, 1e-05, 3)), "PKC312", "4 channels in 3 groups"),
    "softmax mask": (alone(Softmax(-1, Named("w")), weight(5, 6, role="constant", dtype="bool")), "PKC312", "do not broadcast"),
}


def test_the_unbroken_graph_is_sound() -> None:
    assert verify(NET) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_invariant_is_reported(case: str) -> None:
    graph, code, message = BROKEN[case]
    found = verify(graph)
    assert [d for d in found if d.code == code and message in d.message], [(d.code, d.message) for d in found]
    assert all(d.notes for d in found)


def test_every_code_has_a_broken_graph_and_an_explanation() -> None:
    codes = {code for _, code, _ in BROKEN.values()}
    assert codes == {f"PKC3{i:02}" for i in range(1, 13)}
    assert codes <= set(CODES)


def test_all_violations_come_at_once() -> None:
    bad = replace(with_slot(1, role="buffer"), outputs=("fc", "logits"))
    bad = replace(bad, slots=(*bad.slots, Slot("spare", f32(1), "buffer")), ops=(*bad.ops, EXTRA))
    assert [d.code for d in verify(bad)] == ["PKC304", "PKC308", "PKC309", "PKC310"]


def test_a_violation_points_into_the_printed_graph() -> None:
    (found,) = verify(with_slot(1, role="buffer"))
    assert found.span is not None
    assert found.span.text[found.span.start : found.span.end] == "by=(@bn.weight * rsqrt(@bn.running_var + 1e-05))"


def test_a_graph_that_does_not_read_back_is_still_judged() -> None:
    (found,) = verify(with_map(0, stride=None))
    assert found.code == "PKC306" and found.span is None


def test_the_parser_verifies_and_points_into_the_text() -> None:
    text = "path.graph @g(%x: f32[B, 4]) -> f32[B, 4] {\n  %y: f32[B, 4] = gate %z {kind = relu}\n  return %y\n}\n"
    with pytest.raises(PkcError) as caught:
        parse_graph(text, "g.pkir")
    (found,) = caught.value.diagnostics
    assert found.code == "PKC302" and found.span is not None
    assert (found.span.file, found.span.text[found.span.start : found.span.end]) == ("g.pkir", "%z")


@given(any_graphs)
def test_no_graph_makes_the_verifier_fail(graph: PathGraph) -> None:
    assert all(d.code.startswith("PKC3") for d in verify(graph))


@given(sound_graphs(), st.data())
def test_a_wrong_result_shape_is_always_noticed(graph: PathGraph, data: st.DataObject) -> None:
    free = ("Frozen", "Source")
    judged = [i for i, o in enumerate(graph.ops) if type(o.map).__name__ not in free]
    assume(judged)
    at = data.draw(st.sampled_from(judged))
    changed = graph.ops[at]
    wrong = replace(changed, result=Value(changed.name, f32(*changed.result.type.shape, 7)))
    found = verify(replace(graph, ops=(*graph.ops[:at], wrong, *graph.ops[at + 1 :])))
    assert any(d.code == "PKC305" and f"%{changed.name} " in d.message for d in found)
