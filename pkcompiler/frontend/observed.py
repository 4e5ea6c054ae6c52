"""What an exported program does at concrete inputs: shapes, constants, and which nodes depend on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.export import Program, repeat_batch
from pkcompiler.frontend.precision import defaults
from pkcompiler.ir.maps import Batch, Dim
from pkcompiler.ir.walk import reached
from pkcompiler.ops.quotients import singular

DTYPES = {
    torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.bool: "bool",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
    torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip


MAKES_WEIGHTS = "pkc_makes_weights"
"""Marks the nodes that compute a weight from parameters alone, in their ``meta``."""


def behind(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    return set(reached([node], lambda n: n.all_input_nodes))


class ProgramRun(fx.Interpreter):
    """A run of an exported program. Raises ``PKC205`` where the model would take another branch than the recorded one."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.program = program

    def run(self, *args: Any, **options: Any) -> Any:
        """The program's outputs; what it makes without a dtype or a device is in the program's dtype, where its tensors are."""
        with defaults(self.program.dtype, self.program.tensors.values()):
            return super().run(*args, **options)

    def run_node(self, n: fx.Node) -> Any:
        """What a node gives; a quotient in what computes a weight is 0 where it is 0/0."""
        try:
            made = self._made(n) if n.meta.get(MAKES_WEIGHTS) else None
            return super().run_node(n) if made is None else made
        except RuntimeError as error:
            if "_assert" not in str(n.target):
                raise
            raise fail(
                "PKC205",
                "the model branches on the values of its tensors, and these inputs take another branch than the recorded one",
                "one execution was recorded, at the example inputs; the path graph is that execution's",
                "choose functions by torch.where in forward, or give inputs that take the same branch (example_inputs)",
            ) from error

    def _made(self, n: fx.Node) -> Any:
        """A quotient of what computes a weight, 0 where it is 0/0; None for another node."""
        args, _ = self.fetch_args_kwargs_from_env(n)
        return singular(str(n.target).removeprefix("aten."), args)


class _Run(ProgramRun):
    """Keeps every value (shape, dtype, and the value itself where it is small or free of data)."""

    def __init__(self, program: Program, keep: frozenset[str]) -> None:
        super().__init__(program)
        self.keep = keep
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.seen[n.name] = value if n.name in self.keep or not isinstance(value, Tensor) else value.to("meta")
        return value


def run_inputs(program: Program, flat: Sequence[Any], tensors: Mapping[str, Tensor] | None = None) -> list[Any]:
    """The program's placeholders in order: its tensors (or those given under the model's names) and the flat inputs."""
    given = program.tensors if tensors is None else tensors
    inputs = dict(zip(program.inputs, flat, strict=True))
    values = []
    for node in program.module.graph.find_nodes(op="placeholder"):
        name = node.name
        slot = program.parameters.get(name) or program.buffers.get(name)
        values.append(given[slot] if slot else program.lifted[name] if name in program.lifted else inputs.get(name))
    return values


@dataclass(frozen=True, slots=True)
class Trace:
    """Concrete shapes and constants of a program, with the batch dimension recovered from two batch sizes."""

    shapes: Mapping[str, Any]  # node -> tuple[Dim, ...] | int | Batch | list of those
    dtypes: Mapping[str, str]  # of a node with several results: that of the first
    known: Mapping[str, Tensor | None]  # data-free nodes -> value at batch 1, on the CPU (None: it differs from sample to sample)
    counting: frozenset[str] = frozenset()  # data-free nodes that are the same for every sample, and other at another batch size


def trace(program: Program, flat: Sequence[Any], keep: frozenset[str]) -> Trace:
    """Run the program at batch 2 and 3 (once, at the example, when its batch is baked in) and unify what was seen."""
    sizes = (2, 3) if program.batched else (None,)
    runs = []
    for size in sizes:
        run = _Run(program, keep)
        with torch.no_grad():
            run.run(*run_inputs(program, flat if size is None else repeat_batch(flat, size)))
        runs.append(run.seen)
    first, last = runs[0], runs[-1]
    shapes = {name: _unify(_shape(first[name]), _shape(last[name])) for name in first}
    tensors = {name: v[0] if isinstance(v, tuple | list) and v else v for name, v in first.items()}
    dtypes = {name: DTYPES.get(v.dtype, str(v.dtype)) for name, v in tensors.items() if isinstance(v, Tensor)}
    known = {n: _one_sample(first[n], last[n], shapes[n]) for n in keep if isinstance(first.get(n), Tensor)}
    counting = {n for n, found in known.items() if found is None and all(_is_even(run[n], shapes[n]) for run in (first, last))}
    return Trace(shapes, dtypes, known, frozenset(counting))


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list):
        return [_shape(v) for v in value]
    return value


def _unify(a: Any, b: Any) -> Any:
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return type(a)(_unify(x, y) for x, y in zip(a, b, strict=True))
    return _unify_dim(a, b)


def _unify_dim(a: Any, b: Any) -> Any:
    if a == b or not (isinstance(a, int) and isinstance(b, int)):
        return a
    if a % 2 == 0 and a * 3 == b * 2:
        return Batch(a // 2)
    raise fail(
        "PKC206",
        f"a dimension is {a} at batch 2 and {b} at batch 3: not a multiple of the batch size",
        "dimension 0 of every input is the batch; give inputs whose first dimension is the number of samples",
    )


def _one_sample(a: Tensor, b: Tensor, shape: tuple[Dim, ...]) -> Tensor | None:
    """A data-free tensor at batch 1, on the CPU, or None when it is not the same for every sample."""
    small = _first(a, shape)
    return small.clone().cpu() if _repeats(small, a) and _repeats(small, b) else None


def _is_even(tensor: Tensor, shape: tuple[Dim, ...]) -> bool:
    """Whether a tensor is the same for every sample at one batch size."""
    return _repeats(_first(tensor, shape), tensor)


def _first(tensor: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """Of one sample."""
    for i, dim in enumerate(shape):
        if isinstance(dim, Batch):
            tensor = tensor.narrow(i, 0, dim.factor)
    return tensor


def _repeats(small: Tensor, other: Tensor) -> bool:
    """Whether ``other`` is ``small`` over and over."""
    repeats = [other.shape[i] // small.shape[i] if small.shape[i] else 1 for i in range(small.dim())]
    whole = small.repeat(repeats) if repeats else small
    return torch.equal(whole, other) or _both_nan(whole, other)


def _both_nan(a: Tensor, b: Tensor) -> bool:
    return a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num())
