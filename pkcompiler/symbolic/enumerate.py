"""A walk over a path graph that lists every path: one match over the path maps, on numpy arrays of :class:`Paths`.

Independent of the sweeps: convolutions are explicit sums over kernel positions, products join each path with each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, assert_never

import numpy as np
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir import maps
from pkcompiler.ir.maps import Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.types import Op, PathGraph
from pkcompiler.paths.factors import Rest
from pkcompiler.paths.reindex import concrete
from pkcompiler.paths.sources import rows_of
from pkcompiler.symbolic.path_sums import Path, Paths, entries, factors, numbers
from pkcompiler.symbolic.positions import padded, reindexed, resample_matrices, resampled


class Walk:
    """``gates``: a symbol for every entry of a gate and every entry of a window, otherwise gates are at their gains.

    ``products``: as in ``paths(...)``.
    """

    def __init__(
        self, graph: PathGraph, tensors: Mapping[str, Tensor], batch: int, *, gates: bool, constants: bool, products: str = "pairs"
    ) -> None:
        self.graph, self.tensors, self.batch = graph, tensors, batch
        self.gates, self.constants = gates, constants
        self.rest = Rest.of(graph, products)
        self.frozen: dict[str, Any] = {}
        self.parameters: dict[str, Any] = {}
        first = 0
        for slot in graph.parameters:
            shape = concrete(slot.type.shape, batch)
            n = math.prod(shape)
            self.parameters[slot.name] = entries(shape, (Path(1, (i,)) for i in range(first, first + n)))
            first += n

    def run(self) -> Any:
        """The array of the output's :class:`Paths`."""
        values = {v.name: self._input(v.name) for v in self.graph.inputs}
        for op in self.graph.ops:
            values[op.name] = self._apply(op, [values[name] for name in op.inputs])
        return values[self.graph.outputs[0]]

    def _input(self, name: str) -> Any:
        value = next(v for v in self.graph.inputs if v.name == name)
        rows = rows_of(self.graph, value)
        shape = concrete(value.type.shape, self.batch) + (() if rows is None else (rows,))
        return entries(shape, (Path(1, (), (indexed(name, at, shape),)) for at in np.ndindex(*shape)))

    def _apply(self, op: Op, inputs: list[Any]) -> Any:
        match op.map:
            case maps.Dense(weight, bias, transposed):
                w = self._parameter(op, weight)
                return self._biased(np.matmul(inputs[0], w if transposed else w.T), bias)
            case maps.Conv():
                return self._conv(op, op.map, inputs[0])
            case maps.Scale():
                return self._scale(op.map, inputs[0])
            case maps.Embed(weight):
                return np.matmul(inputs[0], self._parameter(op, weight))
            case maps.Source(value, factor):
                return self._source(value, factor)
            case maps.Constant(factor):
                return inputs[0] * factors(self._raw(factor))
            case maps.Reindex():
                return self._reindex(op, op.map, inputs)
            case maps.Resample():
                return self._resample(op, op.map, inputs[0])
            case maps.Gate(zero=zero, gain=gain):
                x = inputs[0] * (self._slopes(op.name, inputs[0].shape) if self.gates else factors(np.asarray(gain)))
                return x + numbers(zero) if zero and self.constants else x
            case maps.Window():
                return self._window(op, op.map, inputs[0])
            case maps.Normalise():
                return self._normalise(op.map, inputs[0])
            case maps.Softmax():
                return inputs[0] * factors(self._share(op.map, inputs[0].shape))
            case maps.Product():
                return self._product(op, op.map, inputs)
            case maps.Merge(signs):
                return sum((x * s for x, s in zip(inputs[1:], signs[1:], strict=True)), inputs[0] * signs[0])
            case maps.Frozen(as_source=added):
                shape = concrete(op.result.type.shape, self.batch)
                return numbers(np.full(shape, float(not added or self.constants)))
            case _:
                assert_never(op.map)

    def _product(self, op: Op, map: maps.Product, inputs: list[Any]) -> Any:
        """Each path of one factor with each of the other; or those of one factor, with what the other is frozen at."""
        if map.kind == "conv":
            raise fail("PKC537", f"%{op.name} convolves by a computed kernel, which has no symbolic form", "use path_functional")
        times = np.multiply if map.kind == "mul" else np.matmul
        crossed = self.rest.crossed.get(op.name)
        if crossed is None:
            return times(*inputs)
        first, second = op.inputs
        pairs = ((inputs[0], self._frozen(second)), (self._frozen(first), inputs[1]))
        return sum(times(*pairs[position]) for position in crossed)

    def _frozen(self, name: str) -> Any:
        """What a factor is frozen at, as paths that begin and end there (docs/theory.md, section 1)."""
        if name not in self.frozen:
            op = self.rest.makers.get(name)
            value = next(v for v in (*self.graph.inputs, *(o.result for o in self.graph.ops)) if v.name == name)
            shape = concrete(value.type.shape, self.batch)
            ones = entries(shape, (Path(1) for _ in range(math.prod(shape))))
            if op is not None and isinstance(op.map, maps.Softmax):
                ones = ones * factors(self._share(op.map, shape))
            elif op is not None and self.rest.is_fixed(op):
                inputs = [self._frozen(source) for source in op.inputs]
                times = np.multiply if isinstance(op.map, maps.Product) and op.map.kind == "mul" else np.matmul
                ones = times(*inputs) if isinstance(op.map, maps.Product) else self._apply(op, inputs)
            self.frozen[name] = ones
        return self.frozen[name]

    def _parameter(self, op: Op, name: str) -> Any:
        if name in self.parameters:
            return self.parameters[name]
        return numbers(self.tensors[name].double().numpy())

    def _biased(self, x: Any, bias: str | None) -> Any:
        return x if bias is None else x + self.parameters[bias]

    def _raw(self, value: Fixed) -> Any:
        match value:
            case Literal(number):
                return np.asarray(number)
            case Named(slot):
                return self.tensors[slot].double().numpy()
            case InvSqrt(slot, eps):
                return (self.tensors[slot].double() + eps).rsqrt().numpy()
        assert_never(value)

    def _source(self, value: Fixed, factor: bool) -> Any:
        if isinstance(value, Named) and value.slot in self.parameters:
            return self.parameters[value.slot]
        raw = self._raw(value)
        return numbers(raw if factor or self.constants else 0 * raw)

    def _scale(self, map: maps.Scale, x: Any) -> Any:
        if map.center is not None and self.constants:
            x = x + numbers(-self._shaped(self._raw(map.center), map))
        if map.factor is not None:
            x = x * factors(self._shaped(self._raw(map.factor), map))
        if map.weight is not None:
            x = x * self.parameters[map.weight].reshape(map.shape)
        return x if map.bias is None else x + self.parameters[map.bias].reshape(map.shape)

    def _shaped(self, raw: Any, map: maps.Scale) -> Any:
        return raw if raw.ndim == 0 else raw.reshape(map.shape)

    def _normalise(self, map: maps.Normalise, x: Any) -> Any:
        shape = (map.shape[0], *([1] * (x.ndim - 2))) if map.kind == "group" else map.shape
        x = x if map.weight is None else x * self.parameters[map.weight].reshape(shape)
        return x if map.bias is None else x + self.parameters[map.bias].reshape(shape)

    def _share(self, map: maps.Softmax, shape: tuple[int, ...]) -> Any:
        if map.allowed is None:
            return np.full(shape, 1 / shape[map.dim])
        causal = map.allowed == "causal"
        allowed = np.tril(np.ones(shape[-2:])) if causal else self.tensors[map.allowed.slot].double().numpy()  # type: ignore[union-attr]
        allowed = np.broadcast_to(allowed, shape)
        return allowed / allowed.sum(map.dim, keepdims=True).clip(min=1)

    def _slopes(self, name: str, shape: tuple[int, ...], *window: int) -> Any:
        made = (Path(1, (), (), (indexed(name, (*at, *window), (*shape, *(2 for _ in window))),)) for at in np.ndindex(*shape))
        return entries(shape, made)

    def _conv(self, op: Op, map: maps.Conv, x: Any) -> Any:
        w = self._parameter(op, map.weight)
        shape = concrete(op.result.type.shape, self.batch)
        found = np.zeros((x.shape[0], shape[1], *self._room(map, x, w, shape)), dtype=object)
        inputs = x if map.transposed else self._around(map, x, w, shape)
        for group, k in product(range(map.groups), np.ndindex(*w.shape[2:])):
            if map.transposed:
                self._scatter(map, inputs, w, found, group, k)
            else:
                self._gather(map, inputs, w, found, group, k)
        if map.transposed:
            window = tuple(slice(p, p + n) for p, n in zip(map.padding, shape[2:], strict=True))
            found = found[(slice(None), slice(None), *window)]
        return found if map.bias is None else found + self.parameters[map.bias].reshape(-1, *([1] * (len(shape) - 2)))

    def _room(self, map: maps.Conv, x: Any, w: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not map.transposed:
            return shape[2:]
        dims = zip(x.shape[2:], w.shape[2:], map.stride, map.dilation, map.padding, shape[2:], strict=True)
        return tuple(max((n - 1) * s + d * (k - 1) + 1, p + out) for n, k, s, d, p, out in dims)

    def _around(self, map: maps.Conv, x: Any, w: Any, shape: tuple[int, ...]) -> Any:
        for axis, n in enumerate(shape[2:]):
            reach = (n - 1) * map.stride[axis] + map.dilation[axis] * (w.shape[axis + 2] - 1) + 1
            x = padded(x, axis + 2, map.padding[axis], max(0, reach - x.shape[axis + 2] - map.padding[axis]))
        return x

    def _gather(self, map: maps.Conv, x: Any, w: Any, found: Any, group: int, k: tuple[int, ...]) -> None:
        into, out = w.shape[1], w.shape[0] // map.groups
        dims = zip(k, map.stride, map.dilation, found.shape[2:], strict=True)
        window = tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, s, d, n in dims)
        seen = np.moveaxis(x[(slice(None), slice(group * into, (group + 1) * into), *window)], 1, -1)
        rows = w[(slice(group * out, (group + 1) * out), slice(None), *k)]
        found[:, group * out : (group + 1) * out] += np.moveaxis(np.matmul(seen, rows.T), -1, 1)

    def _scatter(self, map: maps.Conv, x: Any, w: Any, found: Any, group: int, k: tuple[int, ...]) -> None:
        into, out = w.shape[0] // map.groups, w.shape[1]
        dims = zip(k, map.stride, map.dilation, x.shape[2:], strict=True)
        window = tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, s, d, n in dims)
        seen = np.moveaxis(x[:, group * into : (group + 1) * into], 1, -1)
        rows = w[(slice(group * into, (group + 1) * into), slice(None), *k)]
        found[(slice(None), slice(group * out, (group + 1) * out), *window)] += np.moveaxis(np.matmul(seen, rows), -1, 1)

    def _window(self, op: Op, map: maps.Window, x: Any) -> Any:
        if not map.kernel:
            x = x * self._slopes(op.name, x.shape) if self.gates else x
            return x.sum(axis=map.dims, keepdims=map.keepdim)
        rank = len(map.kernel)
        out = concrete(op.result.type.shape, self.batch)[-rank:]
        stride, dilation, padding = map.stride or map.kernel, map.dilation or (1,) * rank, map.padding or (0,) * rank
        for i in range(rank):
            reach = (out[i] - 1) * stride[i] + dilation[i] * (map.kernel[i] - 1) + 1
            x = padded(x, x.ndim - rank + i, padding[i], max(0, reach - x.shape[x.ndim - rank + i] - padding[i]))
        total: Any = 0
        for k in np.ndindex(*map.kernel):
            dims = zip(k, stride, dilation, out, strict=True)
            seen = x[(..., *(slice(i * d, i * d + (n - 1) * s + 1, s) for i, s, d, n in dims))]
            total = total + (seen * self._slopes(op.name, seen.shape, *k) if self.gates else seen)
        return total

    def _resample(self, op: Op, map: maps.Resample, x: Any) -> Any:
        if map.kind == "cubic":
            raise fail("PKC537", f"%{op.name} is a cubic interpolation, which has no symbolic form here", "use path_functional")
        return resampled(x, resample_matrices(map, x.shape[-len(map.size) :], 1))

    def _reindex(self, op: Op, map: maps.Reindex, inputs: list[Any]) -> Any:
        args: dict[str, Any] = dict(map.args)
        shape = concrete(op.result.type.shape, self.batch)
        match map.fn:
            case "cat":
                return np.concatenate(inputs, args["dim"])
            case "sum":
                return np.asarray(inputs[0].sum(axis=args["dims"], keepdims=args["keepdim"]), dtype=object)
            case "index":
                return reindexed(map, inputs[0], shape, self.tensors[args["index"].slot].tolist())
        return reindexed(map, inputs[0], shape, None)


def indexed(name: str, at: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """``x[1,2]``; leading dimensions of one entry (the batch) are left out."""
    lead = 1 if len(shape) > 1 and shape[0] == 1 else 0
    return f"{name}[{','.join(str(i) for i in at[lead:])}]"


def listed(array: Any) -> list[tuple[Path, ...]]:
    """The paths of every output entry."""
    return [entry.listed if isinstance(entry, Paths) else () for entry in np.asarray(array, dtype=object).reshape(-1)]
