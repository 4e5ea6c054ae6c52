"""The sweep: one walk over a path graph, one ``match`` over the path maps, for every functional of docs/theory.md, section 2.

All sums run over paths implicitly: each value of the graph carries, per entry, the sum over the paths that reach it. Derivatives
come from torch's reverse mode over the same walk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.ir import maps
from pkcompiler.ir.graphs import crossed_factors, makers
from pkcompiler.ir.maps import Fixed, InvSqrt, Literal, Named
from pkcompiler.ir.types import Op, PathGraph, Value
from pkcompiler.ir.walk import forward, values
from pkcompiler.paths.computed import Made
from pkcompiler.paths.exponents import Arithmetic, Carried
from pkcompiler.paths.factors import Factors
from pkcompiler.paths.finite import beyond_numbers
from pkcompiler.paths.reindex import (
    apply_matrices,
    apply_reindex,
    concrete,
    convolve,
    resample_matrix,
    window_gather,
    window_sum,
)
from pkcompiler.paths.scaled import Scaled, aligned
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import device_of

Observations = Mapping[str, Tensor]


class Sweep:
    """A path graph prepared for one kind of functional: constants raised to their power once, then run as often as wanted.

    ``tensors``: every slot's tensor (any dtype; converted to ``settings.dtype``). ``observed``: what was recorded at the data, by
    operation name; None for functionals without data. ``batch``: the number of samples carried through. ``device``: where to
    compute, by default where the parameters are; tensors and sources are moved there.
    """

    def __init__(
        self,
        graph: PathGraph,
        tensors: Mapping[str, Tensor],
        settings: Settings,
        *,
        observed: Observations | None = None,
        batch: int = 1,
        arithmetic: Arithmetic | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.graph, self.tensors, self.settings, self.observed, self.batch = graph, tensors, settings, observed, batch
        self.arithmetic: Arithmetic = arithmetic or Carried(nonnegative=not settings.transform.signed)
        self.device = device_of(graph, tensors) if device is None else torch.device(device)
        self._made = [Made(slot) for slot in graph.computed]
        self._fixed: dict[tuple[Fixed, tuple[int, ...]], Tensor] = {}
        self._matrices: dict[tuple[maps.Resample, tuple[int, ...]], list[Tensor]] = {}
        self._crossed = crossed_factors(graph, settings.products, at_data=settings.gates != "open")
        self._factors: Factors | None = None

    # edges and sources ------------------------------------------------------------------------------------------------

    def edges(self, masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """t(theta) * mask of every parameter, fresh tensors in the sweep's dtype and device."""
        out = {}
        for slot in self.graph.parameters:
            edge = self.settings.transform.transform(self._cast(self.tensors[slot.name].detach()))
            mask = (masks or {}).get(slot.name)
            out[slot.name] = edge if mask is None else edge * self._cast(mask)
        return out

    def with_computed(self, edges: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The edges with those of the computed weights that are not given, differentiable by the edges that they are made of."""
        missing = [made for made in self._made if made.slot.name not in edges]
        if not missing:
            return edges
        read = {name for made in missing for name in made.slot.of}
        plain = {
            n: self._cast(t) if t.is_floating_point() else t.to(self.device) for n in read for t in (self.tensors[n].detach(),)
        }
        return {**edges, **{made.slot.name: made.edge(edges, plain, self.settings.transform) for made in missing}}

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.settings.dtype)

    # the walk ---------------------------------------------------------------------------------------------------------

    def run(self, edges: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> Scaled:
        """The value of the graph's output: entry k holds the sum over the paths that end there.

        ``sources``: a float input's weights [batch, ...]; an integer input's rows (integers) or, floating, a weight for every row
        [batch, ..., rows]. Raises ``PKC510`` where the result is not finite.
        """
        self._factors = None
        edges = self.with_computed(edges)
        result = forward(self.graph, self.entering(sources), lambda op, inputs: self.step(op, inputs, edges))[0]
        if not bool(result.tensor.isfinite().all()):
            raise beyond_numbers(self._first_not_finite(edges, sources))
        return result

    def _first_not_finite(self, edges: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> Op | None:
        """The first operation that makes anything else than finite numbers."""
        made = makers(self.graph)
        walked = values(self.graph, self.entering(sources), lambda op, inputs: self.step(op, inputs, edges))
        wrong = (made[name] for name, value in walked if name in made and not bool(value.tensor.isfinite().all()))
        return next(wrong, None)

    def entering(self, sources: Mapping[str, Tensor]) -> Callable[[Value], Scaled]:
        """What a walk begins with."""
        return lambda value: Scaled(sources[value.name].to(self.device))

    def step(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """One operation, its result settled."""
        return self.settled(op, self.apply(op, inputs, edges))

    def settled(self, op: Op, result: Scaled) -> Scaled:
        """In numbers that the next operation can add up; what only moves or begins is."""
        return result if isinstance(op.map, maps.Reindex | maps.Source) else self.arithmetic.settle(result)

    def apply(self, op: Op, inputs: list[Scaled], edges: Mapping[str, Tensor]) -> Scaled:
        """One operation: the one match over the path maps."""
        match op.map:
            case maps.Dense(weight, bias, transposed):
                return self._affine(inputs[0], bias, edges, lambda x, b: _dense(x, edges[weight], b, transposed))
            case maps.Conv(weight=weight, bias=bias):
                conv = op.map
                return self._affine(inputs[0], bias, edges, lambda x, b: self.convolve(conv, x, edges[weight], b))
            case maps.Scale():
                return self._scale(op.map, inputs[0], edges)
            case maps.Embed():
                return self._embed(op.map, inputs[0], edges)
            case maps.Source(value, factor):
                return self._source(value, factor, edges)
            case maps.Constant(factor):
                return Scaled(inputs[0].tensor * self.fixed(factor), inputs[0].exponent)
            case maps.Reindex():
                return self._reindex(op.map, inputs)
            case maps.Resample():
                return self._resample(op.map, inputs[0])
            case maps.Gate():
                return self._gate(op, op.map, inputs[0])
            case maps.Window():
                return Scaled(self._window(op, op.map, inputs[0].tensor), inputs[0].exponent)
            case maps.Normalise():
                return self._normalise(op, op.map, inputs[0], edges)
            case maps.Softmax():
                return self._softmax(op, op.map, inputs[0])
            case maps.Product():
                return self._product(op, op.map, inputs)
            case maps.Merge(signs):
                return self._merge(signs, inputs)
            case maps.Frozen():
                return Scaled(self._frozen(op, op.map))
            case _:
                assert_never(op.map)

    # affine maps ------------------------------------------------------------------------------------------------------

    def _affine(self, x: Scaled, bias: str | None, edges: Mapping[str, Tensor], function: Any) -> Scaled:
        """``function(x, bias)`` with both at one exponent (fused, so that nothing changes while exponents are 0)."""
        if bias is None:
            return Scaled(function(x.tensor, None), x.exponent)
        shift = Scaled(edges[bias])
        if x.exponent == 0:
            return Scaled(function(x.tensor, shift.tensor))
        (left, right), exponent = aligned([x, shift])
        return Scaled(function(left, right), exponent)

    def convolve(self, map: maps.Conv, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of one operation; a sweep that is differentiated in its own way has its own."""
        return convolve(map, x, weight, bias)

    def _scale(self, map: maps.Scale, x: Scaled, edges: Mapping[str, Tensor]) -> Scaled:
        if map.center is not None:
            x = self._centre(x, self.fixed(map.center, map.shape))
        gain = None if map.factor is None else self.fixed(map.factor, map.shape)
        if map.weight is not None:
            weight = edges[map.weight].reshape(map.shape)
            gain = weight if gain is None else gain * weight
        y = x if gain is None else Scaled(x.tensor * gain, x.exponent)
        if map.bias is None:
            return y
        (left, right), exponent = aligned([y, Scaled(edges[map.bias].reshape(map.shape))])
        return Scaled(left + right if left is x.tensor else left.add_(right), exponent)

    def _centre(self, x: Scaled, center: Tensor) -> Scaled:
        """x - center where paths keep their sign; a constant source otherwise."""
        if self.settings.constants == "off" or not bool(center.any()):
            return x
        (left, right), exponent = aligned([x, Scaled(center)])
        return Scaled(left - right if self.settings.transform.signed else left + right, exponent)

    def _embed(self, map: maps.Embed, rows: Scaled, edges: Mapping[str, Tensor]) -> Scaled:
        weight = edges[map.weight]
        if rows.tensor.is_floating_point():
            return Scaled(rows.tensor @ weight, rows.exponent)
        return Scaled(F.embedding(rows.tensor, weight, map.padding_idx))

    def _source(self, value: Fixed, factor: bool, edges: Mapping[str, Tensor]) -> Scaled:
        if isinstance(value, Named) and value.slot in edges:
            return Scaled(edges[value.slot])
        fixed = self.fixed(value)
        return Scaled(fixed if factor or self.settings.constants == "on" else torch.zeros_like(fixed))

    def fixed(self, value: Fixed, shape: tuple[int, ...] | None = None) -> Tensor:
        """A fixed factor raised to the power q of the functional (its sign kept where paths keep theirs)."""
        key = (value, shape or ())
        if key not in self._fixed:
            raw = self._raw(value)
            self._fixed[key] = self._powered(raw if shape is None or raw.dim() == 0 else raw.reshape(shape))
        return self._fixed[key]

    def _raw(self, value: Fixed) -> Tensor:
        match value:
            case Literal(number):
                return torch.tensor(number, dtype=self.settings.dtype, device=self.device)
            case Named(slot):
                return self._cast(self.tensors[slot])
            case InvSqrt(slot, eps):
                return (self._cast(self.tensors[slot]) + eps).rsqrt()
        assert_never(value)

    def _powered(self, raw: Tensor) -> Tensor:
        if self.settings.transform.signed:
            return raw
        power = self.settings.transform.power
        return (raw != 0).to(raw.dtype) if power == 0 else raw.abs() ** power if power != 1 else raw.abs()

    # fixed maps -------------------------------------------------------------------------------------------------------

    def _reindex(self, map: maps.Reindex, inputs: list[Scaled]) -> Scaled:
        tensors, exponent = aligned(inputs)
        return Scaled(apply_reindex(map, tensors, self.batch, self.tensors), exponent)

    def _resample(self, map: maps.Resample, x: Scaled) -> Scaled:
        lengths = tuple(x.tensor.shape[-len(map.size) :])
        key = (map, lengths)
        if key not in self._matrices:
            matrices = (resample_matrix(map, axis, n) for axis, n in enumerate(lengths))
            self._matrices[key] = [self._powered(self._cast(m)) for m in matrices]
        return Scaled(apply_matrices(x.tensor, self._matrices[key]), x.exponent)

    # gates ------------------------------------------------------------------------------------------------------------

    def _gate(self, op: Op, map: maps.Gate, x: Scaled) -> Scaled:
        """gain^q (slope / gain)^r, and what phi(0) adds."""
        if self.settings.gates == "data^2":
            slopes = self.seen(op.name)
            x = Scaled((x.tensor * slopes).mul_(slopes), x.exponent)
        elif self.settings.gates != "open":
            x = Scaled(x.tensor * self._slopes(op.name), x.exponent)
        power = self.settings.gain_power
        if map.gain == 0 or (power != 0 and map.gain != 1):
            x = Scaled(x.tensor * (map.gain**power if map.gain else 0.0), x.exponent)
        if self.settings.constants == "off" or map.zero == 0:
            return x
        zero = self.fixed(Literal(map.zero)).expand_as(x.tensor)
        (left, right), exponent = aligned([x, Scaled(zero)])
        return Scaled(left + right, exponent)

    def _slopes(self, name: str) -> Tensor:
        slopes = self.seen(name)
        if self.settings.gates == "data^2":
            return slopes.square()
        return slopes if self.settings.transform.signed else slopes.abs()

    def seen(self, name: str) -> Tensor:
        """What was recorded under a name. Raises ``PKC502`` where nothing was."""
        if self.observed is None or name not in self.observed:
            raise fail("PKC502", "this functional reads data, and none was given", "pass data=(x, y), or use gates='open'")
        tensor = self.observed[name]
        return tensor.to(self.device) if not tensor.is_floating_point() else self._cast(tensor)

    def _window(self, op: Op, map: maps.Window, x: Tensor) -> Tensor:
        match self.settings.pools:
            case "sum":
                return window_sum(map, x)
            case "data":
                return window_gather(map, x, self.seen(op.name))
            case "max":
                return self.arithmetic.maximum(map, x)

    # normalisation, softmax, products ---------------------------------------------------------------------------------

    def _normalise(self, op: Op, map: maps.Normalise, x: Scaled, edges: Mapping[str, Tensor]) -> Scaled:
        y = x.tensor
        shape = y.shape
        grouped = y.reshape(y.shape[0], map.groups, -1) if map.kind == "group" else y
        if self.settings.transform.signed and map.kind != "rms":
            axes = [-1] if map.kind == "group" else list(range(-len(map.shape), 0))
            grouped = grouped - grouped.mean(axes, keepdim=True)
        if self.settings.norms == "data" and map.kind != "centre":
            grouped = grouped * self.seen(op.name) ** self.settings.norm_power
        y = grouped.reshape(shape)
        gain = (map.shape[0], *([1] * (len(shape) - 2))) if map.kind == "group" else map.shape
        if map.weight is not None:
            y = y * edges[map.weight].reshape(gain)
        if map.bias is None:
            return Scaled(y, x.exponent)
        (left, right), exponent = aligned([Scaled(y, x.exponent), Scaled(edges[map.bias].reshape(gain))])
        return Scaled(left + right, exponent)

    def _softmax(self, op: Op, map: maps.Softmax, scores: Scaled) -> Scaled:
        if self.settings.gates != "open":
            return Scaled(self._slopes(op.name))
        return Scaled(scores.tensor * self.share(map, scores.tensor.shape), scores.exponent)

    def share(self, map: maps.Softmax, shape: Sequence[int]) -> Tensor:
        """Uniform attention, raised to the power q, shaped to broadcast against scores of this shape."""
        allowed = self._allowed(map, shape)
        return self._powered(allowed / allowed.sum(map.dim - len(shape), keepdim=True).clamp(min=1))

    def _allowed(self, map: maps.Softmax, shape: Sequence[int]) -> Tensor:
        """1 at the positions that a softmax may attend to, shaped to broadcast against scores of this shape."""
        like = {"dtype": self.settings.dtype, "device": self.device}
        match map.allowed:
            case None:
                return torch.ones([n if d == map.dim else 1 for d, n in enumerate(shape)], **like)  # type: ignore[call-overload]
            case "causal":
                return torch.ones(tuple(shape[-2:]), **like).tril()  # type: ignore[call-overload]
            case Named(slot):
                return self._cast(self.tensors[slot])

    def _product(self, op: Op, map: maps.Product, inputs: list[Scaled]) -> Scaled:
        """Pairs of paths, or paths through one factor, the other frozen (docs/theory.md, section 1)."""
        crossed = self._crossed.get(op.name)
        if crossed is None:
            return self.multiplied(map, *inputs)
        self._factors = self._factors or Factors(self)
        terms = []
        for position in crossed:
            frozen = self._factors.of(op.inputs[1 - position])
            terms.append(self.multiplied(map, *((inputs[0], frozen) if position == 0 else (frozen, inputs[1]))))
        tensors, exponent = aligned(terms)
        return Scaled(sum(tensors[1:], tensors[0]), exponent)

    def multiplied(self, map: maps.Product, left: Scaled, right: Scaled) -> Scaled:
        """The product of two factors."""
        exponent = left.exponent + right.exponent
        match map.kind:
            case "mul":
                return Scaled(left.tensor * right.tensor, exponent)
            case "matmul":
                return Scaled(torch.matmul(left.tensor, right.tensor), exponent)
            case "conv":
                assert map.conv is not None
                return Scaled(self.convolve(map.conv, left.tensor, right.tensor, None), exponent)
        assert_never(map.kind)

    def _merge(self, signs: tuple[int, ...], inputs: list[Scaled]) -> Scaled:
        tensors, exponent = aligned(inputs)
        total = tensors[0] if signs[0] == 1 or not self.settings.transform.signed else -tensors[0]
        for sign, tensor in zip(signs[1:], tensors[1:], strict=True):
            total = total - tensor if sign == -1 and self.settings.transform.signed else total + tensor
        return Scaled(total, exponent)

    def _frozen(self, op: Op, map: maps.Frozen) -> Tensor:
        shape = concrete(op.result.type.shape, self.batch)
        if map.as_source and self.settings.constants == "off":
            return torch.zeros(shape, dtype=self.settings.dtype, device=self.device)
        reads = self.settings.norms == "data" if map.kind == "norm" else self.settings.gates != "open"
        if not reads:
            return torch.ones(shape, dtype=self.settings.dtype, device=self.device)
        seen = self.seen(op.name)
        if self.settings.transform.signed:
            return seen
        power = self.settings.norm_power if map.kind == "norm" else self.settings.slope_power
        return seen.abs() ** power


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return F.linear(x, weight.t() if transposed else weight, bias)
