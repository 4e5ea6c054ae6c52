"""Type inference against torch itself, the batch replaced by 7 (a size that no other dimension has)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pkcompiler.ir.dims import ShapeError
from pkcompiler.ir.infer import infer, infer_dtype, infer_shape
from pkcompiler.ir.maps import (
    REINDEX,
    Batch,
    Constant,
    Conv,
    Dense,
    Embed,
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
from pkcompiler.ir.types import Slot, TensorType

BATCH = 7
B = Batch()
Shape = tuple[int | Batch, ...]
RUNS = settings(max_examples=80)

sizes = st.sampled_from([1, 2, 3, 4, 5, 6])
small = st.integers(-3, 3)
axes = st.integers(-4, 3)
shapes = st.builds(
    lambda batch, rest: (*batch, *rest),
    st.sampled_from([(), (B,), (Batch(2),)]),
    st.lists(sizes, max_size=4),
)


def numbers(shape: Shape) -> tuple[int, ...]:
    return tuple(d.factor * BATCH if isinstance(d, Batch) else d for d in shape)


def empty(shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(numbers(shape), dtype=dtype)


def slots_of(shapes: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, Slot]:
    return {name: Slot(name, TensorType(dtype, shape), "constant") for name, (shape, dtype) in shapes.items()}


def agrees(map: PathMap, inputs: tuple[Shape, ...], run: Callable[[], torch.Tensor], slots: dict[str, Slot]) -> None:
    """What torch runs has the inferred shape; what torch refuses is refused, or left open where a batch is involved."""
    try:
        expected: tuple[int, ...] | None = tuple(run().shape)
    except (RuntimeError, IndexError, ValueError):
        expected = None
    try:
        found = infer_shape(map, inputs, slots)
    except ShapeError:
        assert expected is None, f"torch gives {expected}"
        return
    batched = any(isinstance(d, Batch) for shape in inputs for d in shape)
    assert batched or found is not None
    assert found is None or expected is None or numbers(found) == expected


@st.composite
def reindexings(draw: st.DrawFn) -> tuple[str, Shape, tuple[object, ...]]:
    x = draw(shapes)
    special = ("cat", "index") if x else ("cat", "index", "unfold")
    fn = draw(st.sampled_from([fn for fn in REINDEX if fn not in special]))
    dims = st.lists(axes, max_size=4, unique=True).map(tuple)
    bound = st.one_of(st.none(), small, st.just(2**63 - 1))
    arguments: dict[str, st.SearchStrategy[tuple[object, ...]]] = {
        "reshape": st.permutations(x).map(lambda p: (tuple(p),)) if x else st.just(((1, -1),)),
        "permute": st.tuples(st.permutations(range(len(x))).map(tuple)),
        "expand": st.tuples(st.lists(st.sampled_from([-1, 1, 2, 3, *x]), max_size=5).map(tuple)),
        "slice": st.tuples(axes, bound, bound, st.integers(1, 3)),
        "select": st.tuples(axes, small),
        "pad": st.tuples(st.lists(st.integers(-1, 2), max_size=6).map(tuple), st.just("constant")),
        "roll": dims.flatmap(lambda d: st.tuples(st.tuples(*(small for _ in d)), st.just(d))),
        "flip": st.tuples(dims),
        "sum": st.tuples(st.one_of(dims, st.none()), st.booleans()),
        "repeat": st.tuples(st.lists(st.integers(0, 2), max_size=5).map(tuple)),
        "unfold": st.tuples(axes, st.integers(0, 4), st.integers(1, 3)),
        "diagonal": st.tuples(small, axes, axes),
        "cumsum": st.tuples(axes),
    }
    return fn, x, draw(arguments[fn])


RUN: dict[str, Callable[..., torch.Tensor]] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "permute": lambda x, dims: x.permute(dims),
    "expand": lambda x, shape: x.expand(shape),
    "slice": lambda x, *a: torch.ops.aten.slice(x, *a),
    "select": lambda x, *a: x.select(*a),
    "pad": lambda x, pad, mode: F.pad(x, pad, mode),
    "roll": lambda x, shifts, dims: x.roll(shifts, dims),
    "flip": lambda x, dims: x.flip(dims),
    "sum": lambda x, dims, keepdim: torch.ops.aten.sum.dim_IntList(x, dims, keepdim),
    "repeat": lambda x, repeats: x.repeat(repeats),
    "unfold": lambda x, *a: x.unfold(*a),
    "diagonal": lambda x, *a: x.diagonal(*a),
    "cumsum": lambda x, dim: x.cumsum(dim),
}


@given(reindexings())
@settings(max_examples=600)
def test_reindexings(case: tuple[str, Shape, tuple[object, ...]]) -> None:
    fn, x, args = case
    run = [tuple(numbers((d,))[0] for d in a) if isinstance(a, tuple) else a for a in args]
    map = Reindex(fn, tuple(zip(REINDEX[fn], args, strict=True)))  # type: ignore[arg-type]
    agrees(map, (x,), lambda: RUN[fn](empty(x), *run), {})


@given(st.lists(shapes, min_size=1, max_size=3), axes)
@RUNS
def test_concatenation(inputs: list[Shape], dim: int) -> None:
    if any(inputs) and () in inputs:
        inputs = [shape for shape in inputs if shape]
    agrees(Reindex("cat", (("dim", dim),)), tuple(inputs), lambda: torch.cat([empty(s) for s in inputs], dim), {})


@given(shapes, axes, sizes)
@RUNS
def test_index_by_a_constant(x: Shape, dim: int, length: int) -> None:
    slots = slots_of({"i": ((length,), "i64")})
    if x:
        agrees(
            Reindex("index", (("dim", dim), ("index", Named("i")))),
            (x,),
            lambda: empty(x).index_select(dim, empty((length,), torch.int64)),
            slots,
        )


@given(shapes, sizes, sizes, st.booleans())
@RUNS
def test_dense(x: Shape, out: int, into: int, transposed: bool) -> None:
    stored = (into, out) if transposed else (out, into)
    slots = slots_of({"w": (stored, "f32"), "b": ((out,), "f32")})
    weight = empty(stored).T if transposed else empty(stored)
    if x:
        agrees(Dense("w", "b", transposed), (x,), lambda: F.linear(empty(x), weight, empty((out,))), slots)


@given(st.data(), st.integers(1, 3), st.booleans())
@settings(max_examples=150)
def test_convolutions(data: st.DataObject, n: int, transposed: bool) -> None:
    def draw(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(low, high)) for _ in range(n))

    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    a, c = (groups * data.draw(st.integers(1, 2)) for _ in range(2))
    stored = (a, c // groups, *draw(1, 3))
    x = (B, data.draw(st.sampled_from([stored[0] if transposed else c, 5])), *draw(1, 9))
    stride, padding, dilation = draw(1, 3), draw(0, 2), draw(1, 2)
    extra = draw(0, 1) if transposed else ()
    bias = stored[1] * groups if transposed else stored[0]
    map = Conv("w", "b", stride, padding, dilation, groups, transposed, extra)
    slots = slots_of({"w": (stored, "f32"), "b": ((bias,), "f32")})

    def run(weight: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
        return torch.ops.aten.convolution(empty(x), weight, shift, stride, padding, dilation, transposed, extra or (0,) * n, groups)

    agrees(map, (x,), lambda: run(empty(stored), empty((bias,))), slots)
    computed = Product("conv", Conv("", None, stride, padding, dilation, groups, transposed, extra))
    agrees(computed, (x, stored), lambda: run(empty(stored), None), {})


@given(st.data(), st.integers(1, 3), st.booleans(), st.sampled_from(["max", "average"]))
@settings(max_examples=150)
def test_pools(data: st.DataObject, n: int, ceil_mode: bool, kind: str) -> None:
    kernel = tuple(data.draw(st.integers(1, 4)) for _ in range(n))
    stride = data.draw(st.sampled_from([(), tuple(data.draw(st.integers(1, 3)) for _ in range(n))]))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    x = (B, 2, *(data.draw(st.integers(1, 9)) for _ in range(n)))
    pool = getattr(F, f"{'max' if kind == 'max' else 'avg'}_pool{n}d")
    dilation = tuple(data.draw(st.integers(1, 2)) for _ in range(n)) if kind == "max" else ()
    more = {"dilation": dilation} if dilation else {}
    map = (
        Window(kernel, stride, padding, dilation, ceil_mode)
        if kind == "max"
        else Resample("average", (), kernel, stride, padding, ceil_mode)
    )
    agrees(map, (x,), lambda: pool(empty(x), kernel, stride or None, padding, ceil_mode=ceil_mode, **more), {})


@given(shapes, st.lists(axes, max_size=3, unique=True).map(tuple), st.booleans())
@RUNS
def test_maximum_over_dimensions(x: Shape, dims: tuple[int, ...], keepdim: bool) -> None:
    agrees(Window((), dims=dims, keepdim=keepdim), (x,), lambda: empty(x).amax(dims, keepdim), {})


@given(st.lists(shapes, min_size=1, max_size=3))
@RUNS
def test_broadcasting(inputs: list[Shape]) -> None:
    agrees(Merge((1,) * len(inputs)), tuple(inputs), lambda: sum((empty(s) for s in inputs[1:]), empty(inputs[0])), {})
    agrees(Product("mul"), (inputs[0], inputs[-1]), lambda: empty(inputs[0]) * empty(inputs[-1]), {})


@given(shapes, shapes)
@RUNS
def test_matrix_products(a: Shape, b: Shape) -> None:
    if len(a) > 1 and len(b) > 1:
        agrees(Product("matmul"), (a, b), lambda: empty(a) @ empty(b), {})
        agrees(Product("matmul"), (a, (*b[:-2], a[-1], b[-1])), lambda: empty(a) @ empty((*b[:-2], a[-1], b[-1])), {})


@given(shapes, st.lists(sizes, max_size=3).map(tuple), st.integers(0, 3))
@RUNS
def test_scale_and_constant(x: Shape, shape: tuple[int, ...], dropped: int) -> None:
    count = torch.Size(shape).numel()
    slots = slots_of({"w": ((count,), "f32"), "c": (shape, "f32")})
    scale = Scale("w", "w", shape, InvSqrt("w", 1e-05), Named("w"))
    agrees(scale, (x,), lambda: empty(x) * empty((count,)).reshape(shape), slots)
    agrees(Constant(Named("c")), (x,), lambda: empty(x) * empty(shape), slots)


@given(shapes, st.integers(0, 3), st.booleans())
@RUNS
def test_layer_norm(x: Shape, trailing: int, fits: bool) -> None:
    over = tuple(d for d in x[len(x) - min(trailing, len(x)) :] if isinstance(d, int))
    shape = over if fits else (*over, 2)
    slots = slots_of({"w": (shape, "f32")})
    if shape:
        agrees(
            Normalise("layer", shape, "w", "w", 1e-05),
            (x,),
            lambda: F.layer_norm(empty(x), shape, empty(shape), empty(shape)),
            slots,
        )


@given(st.sampled_from([1, 2, 3]), st.sampled_from([2, 4, 6]), st.sampled_from([2, 4, 6]))
@RUNS
def test_group_norm(groups: int, channels: int, given_channels: int) -> None:
    slots = slots_of({"w": ((given_channels,), "f32")})
    x = (B, channels, 3, 3)
    run = lambda: F.group_norm(empty(x), groups, empty((given_channels,)), empty((given_channels,)))  # noqa: E731
    agrees(Normalise("group", (given_channels,), "w", "w", 1e-05, groups), (x,), run, slots)


@given(shapes, axes)
@RUNS
def test_softmax(x: Shape, dim: int) -> None:
    agrees(Softmax(dim), (x,), lambda: empty(x).softmax(dim), {})


@given(st.lists(sizes, min_size=1, max_size=3).map(tuple))
@RUNS
def test_resizing(size: tuple[int, ...]) -> None:
    x = (B, 2, *(3 for _ in size))
    agrees(Resample("nearest", size), (x,), lambda: F.interpolate(empty(x), size), {})
    pool = getattr(F, f"adaptive_avg_pool{len(size)}d")
    agrees(Resample("adaptive_average", size), (x,), lambda: pool(empty(x), size), {})


def test_embedding_and_sources() -> None:
    slots = slots_of({"w": ((9, 4), "f16")})
    assert infer(Embed("w"), (TensorType("i64", (B, 3)),), slots) == TensorType("f16", (B, 3, 4))
    assert infer(Source(Named("w")), (), slots) == TensorType("f16", (9, 4))
    assert infer(Source(Literal(1.0)), (), slots) is None


@pytest.mark.parametrize("map", [Gate("relu"), Frozen("norm", "x")])
def test_what_has_no_exact_type_is_left_open(map: PathMap) -> None:
    assert infer(map, (TensorType("f32", (B,)),), {}) is None
    assert infer_dtype(Merge((1, 1)), (TensorType("f32", ()), TensorType("f64", ())), {}) is None
    assert infer_shape(Reindex("cat", (("dim", 0),)), ((B, 2), (3, 2)), {}) is None


def test_batches_add_and_multiply_but_do_not_mix_with_numbers() -> None:
    assert infer_shape(Reindex("cat", (("dim", 0),)), ((B, 2), (Batch(3), 2)), {}) == (Batch(4), 2)
    assert infer_shape(Reindex("reshape", (("shape", (-1, 2)),)), ((B, 6),), {}) == (Batch(3), 2)
    assert infer_shape(Reindex("reshape", (("shape", (B, -1)),)), ((Batch(3), 2),), {}) == (B, 6)
    assert infer_shape(Reindex("repeat", (("repeats", (2, 1)),)), ((B, 6),), {}) == (Batch(2), 6)
    with pytest.raises(ShapeError):
        infer_shape(Merge((1, 1)), ((B, 2), (3, 2)), {})
    with pytest.raises(ShapeError):
        infer_shape(Reindex("reshape", (("shape", (12,)),)), ((B, 6),), {})
