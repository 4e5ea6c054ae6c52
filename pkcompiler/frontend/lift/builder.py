"""A path graph under construction: its operations, slots and constants, and what each node of the program was translated to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.export import Program
from pkcompiler.frontend.lift.classify import Region
from pkcompiler.frontend.lift.lifted import Record
from pkcompiler.frontend.lift.names import Names
from pkcompiler.frontend.observed import DTYPES, Trace
from pkcompiler.ir.infer import infer_dtype
from pkcompiler.ir.maps import Dim, Named, PathMap
from pkcompiler.ir.types import Op, Origin, Role, Slot, TensorType, Value
from pkcompiler.ops.table import Path


class Builder:
    """Grows while the program is walked. ``read`` holds the (parameter, node) pairs that an operator's entry has read."""

    def __init__(self, program: Program, seen: Trace, regions: Mapping[fx.Node, Region]) -> None:
        self.program, self.seen, self.regions = program, seen, regions
        self.names = Names()
        self.refs: dict[fx.Node, Any] = {}
        self.ops: list[Op] = []
        self.slots: dict[str, Slot] = {}
        self.constants: dict[str, Tensor] = {}
        self.records: dict[str, Record] = {}
        self.sources: dict[str, Path] = {}
        self.read: set[tuple[str, fx.Node]] = set()
        self.types: dict[str, TensorType] = {}
        self._makers: dict[str, Op] = {}

    def emit(self, map: PathMap, inputs: Sequence[str], label: str, type: TensorType, origin: Origin) -> Path:
        """One more operation, under a fresh name that starts with ``label``."""
        name = self.names.fresh(label)
        dtype = self.dtype(map, inputs) or type.dtype
        op = Op(map, tuple(inputs), Value(name, TensorType(dtype, type.shape)), origin)
        self.ops.append(op)
        self._makers[name] = op
        self.types[name] = op.result.type
        return Path(name, type.shape)

    def dtype(self, map: PathMap, inputs: Sequence[str]) -> str | None:
        """The element type that a map gives, None where that is open (changes of precision are no operations of the graph)."""
        types = [self.types.get(name) for name in inputs]
        known = tuple(t for t in types if t is not None)
        return infer_dtype(map, known, self.slots) if len(known) == len(types) else None

    def maker(self, name: str) -> Op | None:
        """The operation that made a value; None for inputs of the graph."""
        return self._makers.get(name)

    def slot(self, name: str, tensor: Tensor, role: Role) -> str:
        """The slot of that name, declared when it is new."""
        if name not in self.slots:
            self.slots[name] = Slot(name, TensorType(DTYPES[tensor.dtype], tuple(tensor.shape)), role)
        return name

    def computed(self, name: str, type: TensorType, of: tuple[str, ...], formula: str) -> str:
        """The slot of a computed weight; a second one of the same name gets a number."""
        known = {*self.slots, *self.program.parameters.values(), *self.program.buffers.values()}
        numbered = (f"{name}.{i}" if i else name for i in itertools.count())
        name = next(n for n in numbered if n not in known)
        self.slots[name] = Slot(name, type, "computed", of=of, formula=formula)
        return name

    def constant(self, tensor: Tensor) -> Named:
        """A constant slot, on the CPU; equal tensors share one."""
        tensor = tensor.cpu()
        for name, other in self.constants.items():
            if other.shape == tensor.shape and other.dtype == tensor.dtype and torch.equal(other, tensor):
                return Named(name)
        name = f"constant.{len(self.constants)}"
        self.constants[name] = tensor.detach().clone().contiguous()
        return Named(self.slot(name, tensor, "constant"))

    def shape(self, node: fx.Node) -> tuple[Dim, ...]:
        """The shape of a node's result (a list of them where it returns several tensors)."""
        shape: tuple[Dim, ...] = self.seen.shapes.get(node.name) or ()
        return shape
