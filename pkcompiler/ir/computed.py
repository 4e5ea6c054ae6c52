"""The text of a computed weight: what it is made of parameters by, as calls of a closed list of operators that read no data.

``v0 = linalg_vector_norm.default(p0); v1 = reciprocal.default(v0); v2 = mul.Tensor(p0, v1)``: ``p0`` is the first of the slots that
the weight is made of, ``v0`` the first result, and the last result is the weight. The text is read as a syntax tree, never
run as a program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pkcompiler.ir.types import Slot

Kind = Literal["view", "sum", "product", "pointwise", "other"]

_VIEWS = """
view.default reshape.default _unsafe_view.default unsqueeze.default squeeze.default squeeze.dim squeeze.dims permute.default
transpose.int t.default expand.default slice.Tensor select.int narrow.default flatten.using_ints flip.default roll.default
diagonal.default unfold.default repeat.default repeat_interleave.self_int index_select.default index.Tensor _unsafe_index.Tensor
gather.default embedding.default cat.default stack.default unbind.int split.Tensor split_with_sizes.default chunk.default getitem
tril.default triu.default alias.default clone.default contiguous.default detach.default lift_fresh_copy.default _to_copy.default
to.dtype dropout.default constant_pad_nd.default
"""
_SUMS = """
pkcompiler.centre.default
add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar sum.default sum.dim_IntList mean.default mean.dim
cumsum.default avg_pool1d.default avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default adaptive_avg_pool2d.default
adaptive_avg_pool3d.default
"""
_PRODUCTS = """
mul.Tensor mul.Scalar div.Tensor div.Scalar neg.default mm.default bmm.default matmul.default mv.default dot.default
linear.default addmm.default baddbmm.default conv1d.default conv2d.default conv3d.default convolution.default where.self
where.ScalarSelf where.ScalarOther masked_fill.Scalar masked_fill.Tensor
"""
_POINTWISE = """
abs.default square.default sqrt.default rsqrt.default reciprocal.default exp.default exp2.default expm1.default log.default
log1p.default log2.default log10.default sigmoid.default tanh.default relu.default gelu.default silu.default elu.default
celu.default selu.default mish.default softplus.default leaky_relu.default relu6.default hardtanh.default hardsigmoid.default
hardswish.default log_sigmoid.default softshrink.default hardshrink.default threshold.default clamp.default clamp.Tensor
clamp_min.default clamp_max.default clamp_min.Tensor clamp_max.Tensor pow.Tensor_Scalar pow.Scalar pow.Tensor_Tensor sin.default
cos.default tan.default asin.default acos.default atan.default sinh.default cosh.default erf.default sign.default sgn.default
round.default floor.default ceil.default trunc.default maximum.default minimum.default max.other min.other atan2.default
logical_not.default logical_and.default logical_or.default bitwise_not.default bitwise_and.Tensor bitwise_or.Tensor eq.Scalar
eq.Tensor ne.Scalar ne.Tensor gt.Scalar gt.Tensor ge.Scalar ge.Tensor lt.Scalar lt.Tensor le.Scalar le.Tensor
"""
_OTHERS = """
linalg_vector_norm.default norm.Scalar norm.ScalarOpt_dim var.correction std.correction softmax.int _softmax.default
_safe_softmax.default logsumexp.default amax.default amin.default max.default min.default max.dim prod.default prod.dim_int
cumprod.default layer_norm.default rms_norm.default group_norm.default linalg_matrix_exp.default linalg_solve_ex.default
_linalg_solve_ex.default linalg_inv_ex.default linalg_householder_product.default sort.default topk.default zeros_like.default
ones_like.default full_like.default eye.default eye.m arange.default full.default zeros.default ones.default max_pool1d.default
max_pool2d.default
"""


def _named(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


OPERATORS: Mapping[str, Kind] = {
    **_named("view", _VIEWS),
    **_named("sum", _SUMS),
    **_named("product", _PRODUCTS),
    **_named("pointwise", _POINTWISE),
    **_named("other", _OTHERS),
}
"""The closed list: ATen overloads without their ``aten.`` (and the centring of a norm), and what each is to a factor of a path."""

CASTS = frozenset({"_to_copy.default", "to.dtype"})
FLOATING = frozenset({"f64", "f32", "f16", "bf16"})
WORDS = FLOATING | {"i64", "i32", "i16", "i8", "u8", "bool"}
"""The element types that a formula names."""

MOST_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Operand:
    """One of the slots that a weight is made of, by position."""

    index: int


@dataclass(frozen=True, slots=True)
class Result:
    """What an earlier step gave."""

    index: int


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type by its word (``f32``)."""

    word: str


Argument = Operand | Result | Dtype | int | float | bool | str | None | tuple["Argument", ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One call: the operator, its arguments by position, and those by name."""

    op: str
    arguments: tuple[Argument, ...]
    named: tuple[tuple[str, Argument], ...] = ()

    @property
    def kind(self) -> Kind:
        """What it is to a factor of a path. A cast to integers is no view: it rounds."""
        casts = self.op in CASTS and any(
            isinstance(a, Dtype) and a.word not in FLOATING for a in (*self.arguments, *dict(self.named).values())
        )
        return "pointwise" if casts else OPERATORS[self.op]

    def reads(self) -> Iterator[Operand | Result]:
        """Every slot and result among the arguments, in order."""
        yield from _leaves((*self.arguments, *(value for _, value in self.named)))


def _leaves(argument: Argument) -> Iterator[Operand | Result]:
    match argument:
        case Operand() | Result():
            yield argument
        case tuple():
            for part in argument:
                yield from _leaves(part)


class FormulaError(ValueError):
    """A text that is no formula of a computed weight."""


def print_formula(steps: tuple[Step, ...]) -> str:
    """The text of some steps; ``read_formula`` gives them back."""
    return "; ".join(f"v{i} = {_call(step)}" for i, step in enumerate(steps))


def _call(step: Step) -> str:
    named = [f"{name}={_print(value)}" for name, value in step.named]
    return f"{step.op}({', '.join([*map(_print, step.arguments), *named])})"


def _print(argument: Argument) -> str:
    match argument:
        case Operand(index):
            return f"p{index}"
        case Result(index):
            return f"v{index}"
        case Dtype(word):
            return word
        case tuple():
            return f"[{', '.join(map(_print, argument))}]"
        case float() if argument in (float("inf"), float("-inf")) or argument != argument:
            return f"float({str(argument)!r})"
    return repr(argument)


def read_formula(text: str, operands: int) -> tuple[Step, ...]:
    """The steps of a text over so many slots.

    Raises :class:`FormulaError` for anything but calls of :data:`OPERATORS` with numbers, words, slots and earlier results.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FormulaError("it is not written as 'v0 = operator.overload(p0, ...); ...'") from None
    if not body or len(body) > MOST_STEPS:
        raise FormulaError("it has no step" if not body else f"it has more than {MOST_STEPS} steps")
    return tuple(_step(statement, i, operands) for i, statement in enumerate(body))


def _step(statement: ast.stmt, position: int, operands: int) -> Step:
    match statement:
        case ast.Assign([ast.Name(target)], ast.Call(function, arguments, keywords)) if target == f"v{position}":
            op = ast.unparse(function)
            if op not in OPERATORS:
                raise FormulaError(f"'{op}' is not on the list of operators that read no data")
            named = tuple((str(k.arg), _argument(k.value, position, operands)) for k in keywords)
            return Step(op, tuple(_argument(a, position, operands) for a in arguments), named)
    raise FormulaError(f"'{ast.unparse(statement)[:80]}' is no step: expected v{position} = operator.overload(...)")


def _argument(node: ast.expr, position: int, operands: int) -> Argument:
    match node:
        case ast.Constant(value) if value is None or isinstance(value, int | float | str):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(value)) if isinstance(value, int | float):
            return -value
        case ast.List(elements):
            return tuple(_argument(e, position, operands) for e in elements)
        case ast.Name(word) if word in WORDS:
            return Dtype(word)
        case ast.Name(word) if word[:1] in "pv" and word[1:].isdecimal():
            index = int(word[1:])
            if index < (operands if word[0] == "p" else position):
                return Operand(index) if word[0] == "p" else Result(index)
        case ast.Call(ast.Name("float"), [ast.Constant("inf" | "-inf" | "nan" as word)], []):
            return float(str(word))
    raise FormulaError(f"'{ast.unparse(node)[:80]}' is no argument of step v{position}")


SEVERAL = frozenset({"cat.default", "stack.default"})


def factors(step: Step) -> tuple[Argument, ...]:
    """The arguments of a step whose product its result is, entry by entry; none where it is something else."""
    match step.op:
        case "mul.Tensor" | "mul.Scalar":
            return step.arguments[:2]
        case "div.Tensor" | "div.Scalar" | "neg.default":
            return step.arguments[:1]
        case "constant_pad_nd.default" if any(step.arguments[2:]):
            return ()
        case op if step.kind == "view" and op not in SEVERAL:
            return step.arguments[:1]
    return ()


def aligned(slot: Slot) -> frozenset[str]:
    """The slots of a computed weight that are a factor of its entries: u_j = theta_j times something."""
    steps = read_formula(slot.formula, len(slot.of))

    def found(argument: Argument) -> frozenset[str]:
        match argument:
            case Operand(index):
                return frozenset({slot.of[index]})
            case Result(index):
                return frozenset().union(*map(found, factors(steps[index])))
        return frozenset()

    return found(Result(len(steps) - 1))
