"""One call of an operator, as its entry in the table sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.diagnostics import Diagnostic
from pkcompiler.frontend.export import PREFIX
from pkcompiler.frontend.lift.builder import Builder
from pkcompiler.frontend.lift.classify import op_name, short
from pkcompiler.frontend.lift.gate import is_floor, region_function
from pkcompiler.frontend.lift.lifted import Record
from pkcompiler.frontend.lift.names import origin_of
from pkcompiler.frontend.lift.unplaced import BATCH_SIZE, unplaced
from pkcompiler.ir.maps import Batch, Dim, Fixed, Frozen, Literal, Named, PathMap, Reindex, Source
from pkcompiler.ir.types import Origin, TensorType
from pkcompiler.ops.gates import PASS_THROUGH
from pkcompiler.ops.table import Index, Known, Observed, Path, Ref, Stored


class Unsupported(Exception):
    """Carries the ``PKC201`` of one operator to the walk, which collects all of them."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


class OperatorUse:
    """The implementation of :class:`pkcompiler.ops.table.Use` for one node of the program."""

    def __init__(self, builder: Builder, node: fx.Node) -> None:
        self.builder, self.node = builder, node
        self.shape: Any = builder.shape(node)
        self.dtype = builder.seen.dtypes.get(node.name, "f32")
        self.origin: Origin = origin_of(node, PREFIX)
        self.name = op_name(node)
        self._arguments = bind(node)

    # arguments ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, argument: str) -> Any:
        return self._resolve(self._arguments[argument])

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument as its node was translated; ``default`` where there is none, or None is given."""
        value = self._arguments.get(argument)
        return default if value is None else self._resolve(value)

    def operand(self, node: fx.Node) -> Any:
        """What an operand of this operator was translated to; a parameter counts as read by it."""
        ref = self.builder.refs[node]
        if isinstance(ref, Stored):
            self.builder.read.add((ref.slot, self.node))
        return ref

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.operand(value)
        if isinstance(value, tuple | list):
            return [self._resolve(v) for v in value]
        return value

    def step_back(self, argument: str) -> OperatorUse | None:
        """The use behind an argument, seen through plumbing and floors; None behind another gate, and where no operator made it."""
        node = self._arguments[argument]
        while isinstance(node, fx.Node) and node.op == "call_function" and isinstance(self.builder.refs.get(node), Path):
            region = self.builder.regions.get(node)
            if region and region.bent and not is_floor(region_function(node, region.root, self.builder.seen.known)):
                return None
            if not (region and region.bent) and op_name(node) not in PASS_THROUGH:
                return OperatorUse(self.builder, node)
            node = region.root if region and region.bent else node.args[0]
        return None

    # references as values of the graph ----------------------------------------------------------------------------------

    def weight(self, ref: Ref | None) -> str | None:
        """The slot of a stored parameter, made at its first use; None for anything else."""
        if not isinstance(ref, Stored):
            return None
        if ref.slot in self.builder.slots:
            return ref.slot
        return self.builder.slot(ref.slot, self.builder.program.tensors[ref.slot], "parameter")

    def path(self, ref: Ref) -> Path:
        """``ref`` as a value of the graph, with one source for each parameter. Refuses integer inputs and the size of the batch."""
        match ref:
            case Path():
                return ref
            case Stored(slot, shape):
                if slot not in self.builder.sources:
                    self.builder.sources[slot] = self._emit(Source(Named(str(self.weight(ref)))), (), shape, slot)
                return self.builder.sources[slot]
            case Known():
                return self._constant(ref, factor=False)
            case Observed():
                return self._observe(ref, as_source=True)
        if isinstance(ref, Index):
            raise self.unsupported("an integer input enters as a value")
        raise self.unsupported(BATCH_SIZE)

    def factor(self, ref: Ref) -> Path:
        """``ref`` as an operand of a product: known and observed tensors are factors, not sources of paths."""
        match ref:
            case Known():
                return self._constant(ref, factor=True)
            case Observed():
                return self._observe(ref, as_source=False)
        return self.path(ref)

    def _constant(self, ref: Known, factor: bool) -> Path:
        """A constant source of the shape of ``ref``: numbers are spread over it, batch dimensions repeat."""
        value = self.fixed(ref)
        shape: tuple[Dim, ...] = () if isinstance(value, Literal) else tuple(ref.tensor.shape)
        source = self._emit(Source(value, factor), (), shape)
        if shape == tuple(ref.shape):
            return source
        if not shape or not any(isinstance(d, Batch) and d.factor > 1 for d in ref.shape):
            return self._reshape("expand", source, ref.shape)
        pairs = [(Batch() if isinstance(d, Batch) else None, n) for d, n in zip(ref.shape, shape, strict=True)]
        lone = self._reshape("reshape", source, [m for d, n in pairs for m in ((1, n) if d else (n,))])
        wide = self._reshape("expand", lone, [m for d, n in pairs for m in ((d, n) if d else (n,))])
        return self._reshape("reshape", wide, ref.shape)

    def _reshape(self, fn: str, x: Path, shape: Sequence[Dim]) -> Path:
        return self._emit(Reindex(fn, (("shape", tuple(shape)),)), (x.name,), shape)

    def _observe(self, ref: Observed, as_source: bool) -> Path:
        result = self.emit(Frozen("norm" if ref.kind == "norm" else "factor", short(ref.what), as_source), shape=ref.shape)
        self.builder.records[result.name] = Record("frozen", ref.node)
        return result

    def fixed(self, ref: Ref) -> Fixed:
        """A known tensor: a whole buffer by its slot, one number as a literal, else a constant. Refuses anything else."""
        if not isinstance(ref, Known):
            raise self.unsupported("a factor depends on the data or on a parameter")
        if ref.slot is not None:
            return Named(self.builder.slot(ref.slot, ref.tensor, "buffer"))
        if ref.tensor.numel() == 1:
            return Literal(float(ref.tensor.item()))
        return self.constant(ref.tensor)

    def constant(self, tensor: Tensor) -> Named:
        """The constant slot of a tensor that the entry made."""
        return self.builder.constant(tensor)

    # results ------------------------------------------------------------------------------------------------------------

    def emit(self, map: PathMap, *inputs: Ref, shape: Sequence[Dim] | None = None) -> Path:
        """One more operation of the graph, with this node's shape unless one is given, its dtype and its origin."""
        names = [i.name if isinstance(i, Index) else self.path(i).name for i in inputs]
        return self._emit(map, names, self.shape if shape is None else shape)

    def _emit(self, map: PathMap, inputs: Sequence[str], shape: Sequence[Dim], label: str = "") -> Path:
        label = label or self.origin.module or self.node.name
        return self.builder.emit(map, inputs, label, TensorType(self.dtype, tuple(shape)), self.origin)

    def record(self, kind: str, result: Path) -> Path:
        """``result``, for which this node (and its first operand) will be observed as ``kind``."""
        operand = self.node.args[0]
        node = operand.name if isinstance(operand, fx.Node) else ""
        self.builder.records[result.name] = Record(kind, self.node.name, node)
        return result

    def record_pair(self, result: Path, sign: int) -> Path:
        """``result``, for which the winners among this node's two operands, times ``sign``, will be observed."""
        left, right = (getattr(n, "name", "") for n in self.node.args[:2])
        self.builder.records[result.name] = Record("window", self.node.name, left, other=right, sign=sign)
        return result

    def unsupported(self, why: str) -> Exception:
        """The refusal of this node, at its place in the model: ``why`` it has no meaning for paths."""
        return Unsupported(unplaced(self.builder, self.node, self.origin, why))


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(node.args)} | dict(node.kwargs)
    bound: dict[str, Any] = {}
    for i, argument in enumerate(node.target._schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        bound[argument.name] = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, default)
    return bound
