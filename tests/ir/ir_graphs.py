"""Hypothesis strategies for path graphs: ``any_graphs`` (every field drawn from its annotation) and ``sound_graphs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args, get_type_hints

from hypothesis import strategies as st

from pkcompiler.ir.infer import infer
from pkcompiler.ir.maps import (
    Batch,
    Constant,
    Conv,
    Dense,
    Embed,
    Fixed,
    Frozen,
    Gate,
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
from pkcompiler.ir.types import Op, Origin, PathGraph, Slot, TensorType, Value

B = Batch()
names = st.one_of(
    st.from_regex(r"[a-z_]\w*(\.\w+){0,3}", fullmatch=True),
    st.sampled_from(
        ["0", "a-b", 'quo"te', "a b", "new\nline", "zwölf.0", "return", "B", "inf", "\\", "//x", "", "{", "é", "\u2028"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
floats = st.floats(allow_nan=False)
ints = st.integers(-(2**63), 2**63 - 1)
dims = st.one_of(ints, st.builds(Batch, ints))
fixed: st.SearchStrategy[Fixed] = st.one_of(st.builds(Literal, floats), st.builds(Named, names), st.builds(InvSqrt, names, floats))
scalars = st.one_of(ints, floats, names, st.booleans(), st.none(), st.builds(Batch, ints), st.builds(Named, names))
attrs = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
types = st.builds(TensorType, st.one_of(st.sampled_from(["f32", "i64", "bool"]), names), st.lists(dims, max_size=4).map(tuple))


def of_hint(hint: object) -> st.SearchStrategy[object]:
    """Values of a field's annotation."""
    by_type: dict[object, st.SearchStrategy[object]] = {
        int: ints,
        float: floats,
        str: names,
        bool: st.booleans(),
        Named: st.builds(Named, names),
    }
    if hint in by_type:
        return by_type[hint]
    if set(get_args(hint)) >= {Literal, Named, InvSqrt}:
        return st.one_of(fixed, st.none()) if type(None) in get_args(hint) else fixed
    if type(None) in get_args(hint):
        return st.one_of(st.none(), *(of_hint(arm) for arm in get_args(hint) if arm is not type(None)))
    if get_args(hint) and get_args(hint)[-1] is Ellipsis:
        return st.lists(of_hint(get_args(hint)[0]), max_size=3).map(tuple)
    if hint is Conv:
        return any_map(Conv)
    return st.sampled_from(get_args(hint))


def any_map(cls: type) -> st.SearchStrategy[PathMap]:
    """Maps of one class with every field drawn."""
    if cls is Reindex:
        args = st.lists(st.tuples(names, attrs), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
        return st.builds(Reindex, names, args)
    return st.builds(cls, **{name: of_hint(hint) for name, hint in get_type_hints(cls).items()})


any_maps = st.one_of(*(any_map(cls) for cls in get_args(PathMap)))
origins = st.one_of(st.just(Origin()), st.builds(Origin, names, st.sampled_from(["model.py:12", "", '"odd', "a b.py:3"])))
values = st.builds(Value, names, types)
slots = st.builds(Slot, names, types, st.sampled_from(["parameter", "buffer", "constant"]), st.booleans())
ops = st.builds(Op, any_maps, st.lists(names, max_size=3).map(tuple), values, origins)
any_graphs = st.builds(
    PathGraph,
    names,
    st.lists(values, max_size=3).map(tuple),
    st.lists(slots, max_size=4).map(tuple),
    st.lists(ops, max_size=5).map(tuple),
    st.lists(names, max_size=3).map(tuple),
)


class Builder:
    """Adds operations that fit to a growing graph."""

    def __init__(self, draw: Callable[..., object]) -> None:
        self.draw = draw
        self.slots: dict[str, Slot] = {}
        self.ops: list[Op] = []
        self.types: dict[str, TensorType] = {}

    def slot(self, shape: tuple[int, ...], role: str = "parameter", dtype: str = "f32") -> str:
        name = f"{role}.{len(self.slots)}"
        prunable = role == "parameter" and bool(self.draw(st.booleans()))
        self.slots[name] = Slot(name, TensorType(dtype, shape), role, prunable)  # type: ignore[arg-type]
        return name

    def fixed(self, shape: tuple[int, ...]) -> Fixed:
        kind = self.draw(st.integers(0, 2))
        if kind == 0:
            return Literal(self.draw(floats))  # type: ignore[arg-type]
        return Named(self.slot(shape, "constant")) if kind == 1 else InvSqrt(self.slot(shape, "buffer"), 1e-05)

    def add(self, map: PathMap, *inputs: str, type: TensorType | None = None) -> str:
        found = infer(map, tuple(self.types[x] for x in inputs), self.slots) or type or self.types[inputs[0]]
        name = f"v{len(self.ops)}"
        self.ops.append(Op(map, inputs, Value(name, found), Origin(name, "model.py:1")))
        self.types[name] = found
        return name


def _steps(b: Builder, x: str) -> list[Callable[[], str]]:
    """What can be done to ``x`` of shape [B, c, h, w], leaving that rank."""
    shape = b.types[x].shape
    _, c, h, w = (d if isinstance(d, int) else 0 for d in shape)

    def reindex(fn: str, **args: object) -> Callable[[], str]:
        return lambda: b.add(Reindex(fn, tuple(args.items())), x)  # type: ignore[arg-type]

    def indexed() -> str:
        return b.add(Reindex("index", (("dim", 1), ("index", Named(b.slot((3,), "constant", "i64"))))), x)

    def grouped() -> str:
        return b.add(Normalise("group", (c,), b.slot((c,)), None, 1e-05, c), x)

    def conv() -> str:
        return b.add(Conv(b.slot((4, c, 1, 1)), b.slot((4,)), (1, 1), (1, 1), (1, 1)), x)

    def transposed() -> str:
        return b.add(Conv(b.slot((c, 3, 2, 2)), None, (2, 2), (0, 0), (1, 1), 1, True, (1, 0)), x)

    def scale() -> str:
        factor = b.draw(st.sampled_from([None, b.fixed((c,))]))
        return b.add(Scale(b.slot((c,)), b.slot((c,)), (c, 1, 1), factor, b.fixed((c,))), x)  # type: ignore[arg-type]

    def token() -> str:
        return b.add(Merge((1, -1)), x, b.add(Source(Named(b.slot((1, c, h, w))))))

    def literal() -> str:
        return b.add(Merge((1, 1)), x, b.add(Source(Literal(0.5)), type=TensorType("f32", ())))

    def convolved() -> str:
        kernel = b.add(Source(Named(b.slot((2, c, 1, 1)))))
        return b.add(Product("conv", Conv("", None, (1, 1), (0, 0), (1, 1))), x, kernel)

    def allowed() -> str:
        return b.add(Softmax(-1, Named(b.slot((h, w), "constant", "bool"))), x)

    return [
        conv,
        transposed,
        scale,
        token,
        literal,
        grouped,
        convolved,
        allowed,
        lambda: b.add(Dense(b.slot((5, w)), b.slot((5,))), x),
        lambda: b.add(Dense(b.slot((w, 3)), None, True), x),
        lambda: b.add(Constant(b.fixed((c, 1, 1))), x),
        lambda: b.add(Resample("average", (), (1, 1), (1, 1), (0, 0)), x),
        lambda: b.add(Resample("linear", (4, 3), align_corners=True, scale=(1.5, 0.75)), x),
        lambda: b.add(Gate("gelu", "0.5 * x * (1 + erf(x))", -0.0), x),
        lambda: b.add(Window((1, 1), (1, 1)), x),
        lambda: b.add(Window((), dims=(2,), keepdim=True), x),
        lambda: b.add(Normalise("layer", (h, w), b.slot((h, w)), b.slot((h, w)), 1e-05), x),
        lambda: b.add(Softmax(-1, "causal"), x),
        lambda: b.add(Product("mul"), x, x),
        lambda: b.add(Product("matmul"), x, b.add(Reindex("permute", (("dims", (0, 1, 3, 2)),)), x)),
        lambda: b.add(Frozen("norm", "mean(x^2)"), x),
        indexed,
        lambda: b.add(Reindex("cat", (("dim", 1),)), x, x),
        reindex("reshape", shape=(B, c, w, h)),
        reindex("expand", shape=(-1, c, h, w)),
        reindex("slice", dim=2, start=None, end=2**63 - 1, step=1),
        reindex("pad", pad=(1, 0), mode="constant"),
        reindex("roll", shifts=(1,), dims=(3,)),
        reindex("flip", dims=(2, 3)),
        reindex("sum", dims=(2, 3), keepdim=True),
        reindex("repeat", repeats=(1, 2, 1, 1)),
        reindex("cumsum", dim=1),
    ]


@st.composite
def sound_graphs(draw: Callable[..., object]) -> PathGraph:
    """Graphs without any violation, over every map."""
    b = Builder(draw)
    b.types["x"] = TensorType("f32", (B, 2, 3, 2))
    inputs = [Value("x", b.types["x"])]
    at = "x"
    for _ in range(draw(st.integers(1, 5))):  # type: ignore[call-overload]
        steps = _steps(b, at)
        at = steps[draw(st.integers(0, len(steps) - 1))]()  # type: ignore[call-overload]
    if draw(st.booleans()):
        b.types["ids"] = TensorType("i64", (B, 7))
        inputs.append(Value("ids", b.types["ids"]))
        b.add(Embed(b.slot((9, 4)), 0), "ids")
    read = {x for op in b.ops for x in op.inputs}
    used = {name: slot for name, slot in b.slots.items() if _reads(b.ops, name)}
    outputs = tuple(op.name for op in b.ops if op.name not in read)
    return PathGraph("net", tuple(inputs), tuple(used.values()), tuple(b.ops), outputs)


def _reads(ops: list[Op], slot: str) -> bool:
    return any(f"'{slot}'" in repr(op.map) for op in ops)
