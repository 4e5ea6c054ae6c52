"""The nouns of the path-graph IR: values, slots, operations and the graph. No torch in this folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pkcompiler.ir.maps import Dim, PathMap

Role = Literal["parameter", "buffer", "constant", "computed"]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (``f32 f64 f16 bf16 i64 i32 bool ...``) and shape; a :class:`Batch` dimension is a multiple of the batch."""

    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A named tensor of the graph (``%name`` when printed)."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Slot:
    """A stored tensor (``@name`` when printed): one per storage, named as in ``named_parameters()`` / ``named_buffers()``.

    ``role`` is ``parameter``, ``buffer``, ``constant`` (a tensor that the trace computed from literals alone), or ``computed``: a
    factor that is made of the slots ``of`` by ``formula`` (:mod:`pkcompiler.ir.computed`), stored nowhere.
    """

    name: str
    type: TensorType
    role: Role
    prunable: bool = False
    of: tuple[str, ...] = ()
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an operation comes from: the module path and the user's source line (``file:line``)."""

    module: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Op:
    """``result = map(inputs)``. ``inputs`` are names of values defined before. The origin is a fact, not part of equality."""

    map: PathMap
    inputs: tuple[str, ...]
    result: Value
    origin: Origin = field(default=Origin(), compare=False)

    @property
    def name(self) -> str:
        """The name of its result."""
        return self.result.name


@dataclass(frozen=True, slots=True)
class PathGraph:
    """A typed path graph: hashable, comparable, printable; tensors live outside, keyed by slot name."""

    name: str
    inputs: tuple[Value, ...]
    slots: tuple[Slot, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    def slot(self, name: str) -> Slot:
        """The slot called ``name``; ``KeyError`` when there is none."""
        for slot in self.slots:
            if slot.name == name:
                return slot
        raise KeyError(name)

    @property
    def values(self) -> tuple[Value, ...]:
        """The inputs and what the operations make, in order."""
        return (*self.inputs, *(op.result for op in self.ops))

    @property
    def parameters(self) -> tuple[Slot, ...]:
        """The slots of parameters, in the order of the slots."""
        return tuple(s for s in self.slots if s.role == "parameter")

    @property
    def computed(self) -> tuple[Slot, ...]:
        """The weights that are computed from parameters, each an edge of its own."""
        return tuple(s for s in self.slots if s.role == "computed")

    @property
    def prunable(self) -> tuple[Slot, ...]:
        """The slots that may be pruned, in the order of the slots."""
        return tuple(s for s in self.slots if s.prunable)

    def __str__(self) -> str:
        from pkcompiler.ir.text import print_graph

        return print_graph(self)

    def _repr_html_(self) -> str:
        from pkcompiler.ir.notebook import graph_html

        return graph_html(self)
