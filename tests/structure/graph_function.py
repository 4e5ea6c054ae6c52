"""A path graph as the function that it is, with plain torch, value by value, so that entries can be changed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from pkcompiler.frontend.capture import Capture
from pkcompiler.ir.maps import Gate, Normalise, Softmax, Window
from pkcompiler.ir.walk import values
from pkcompiler.paths.certificate import SIGNED
from pkcompiler.paths.functional import static_batch
from pkcompiler.paths.record import observe
from pkcompiler.paths.reindex import window_max
from pkcompiler.paths.scaled import Scaled
from pkcompiler.paths.sweep import Sweep

Edit = Callable[[str, Tensor], Tensor]


class _Plain:
    """Numbers as they are."""

    def settle(self, value: Scaled) -> Scaled:
        return value

    def maximum(self, map: Window, x: Tensor) -> Tensor:
        return window_max(map, x)


class GraphFunction(Sweep):
    """The model behind a capture under masks, at ``x``; what is frozen stays as it is there.

    ``leaky``: every ReLU lets something of either sign pass, so that what does not depend on an entry does so by the masks alone.
    """

    def __init__(self, captured: Capture, masks: Mapping[str, Tensor], *x: Tensor, leaky: bool = False) -> None:
        self.leaky = leaky
        tensors = {n: t * masks[n] if n in masks else t for n, t in captured.tensors.items()}
        seen, self.output = observe(captured.program, captured.lifted, x, {**captured.program.tensors, **tensors}, SIGNED)
        batch = len(x[0]) if captured.batched else static_batch(captured.graph)
        super().__init__(captured.graph, tensors, SIGNED, observed=seen, batch=batch, arithmetic=_Plain())
        placeholders = dict(captured.lifted.inputs)
        given = dict(zip(captured.program.inputs, x, strict=True))
        self.given = {value.name: given[placeholders[value.name]] for value in captured.graph.inputs}
        self.stored = self.edges()

    def each(self, edit: Edit = lambda name, tensor: tensor, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every value, with what ``edit`` makes of it in its place, by other parameters than the model's maybe."""
        weights = self.with_computed({**self.stored, **(weights or {})})

        def step(op, read):
            return Scaled(edit(op.name, self.step(op, read, weights).tensor))

        with torch.no_grad():
            walked = values(self.graph, lambda value: Scaled(edit(value.name, self.given[value.name])), step)
            return {name: value.tensor for name, value in walked}

    def run(self, edit: Edit = lambda name, tensor: tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The output."""
        return self.each(edit, weights)[self.graph.outputs[0]]

    def _gate(self, op, map: Gate, x: Scaled) -> Scaled:
        words = _Operators(x.tensor)
        if self.leaky:
            words["relu"] = lambda z: F.leaky_relu(z, 0.3)
        return Scaled(eval(map.body, {"__builtins__": {}}, words))

    def _window(self, op, map: Window, x: Tensor) -> Tensor:
        return window_max(map, x)

    def _softmax(self, op, map: Softmax, scores: Scaled) -> Scaled:
        allowed = self._allowed(map, scores.tensor.shape).bool()
        return Scaled(scores.tensor.masked_fill(~allowed, -torch.inf).softmax(map.dim).nan_to_num())

    def _normalise(self, op, map: Normalise, x: Scaled, edges) -> Scaled:
        gain, shift = (None if name is None else edges[name] for name in (map.weight, map.bias))
        if map.kind == "centre":
            return Scaled(x.tensor - x.tensor.mean(list(range(-len(map.shape), 0)), keepdim=True))
        if map.kind == "group":
            return Scaled(F.group_norm(x.tensor, map.groups, gain, shift, map.eps))
        if map.kind == "rms":
            normed = F.rms_norm(x.tensor, map.shape, gain, map.eps)
            return Scaled(normed if shift is None else normed + shift)
        return Scaled(F.layer_norm(x.tensor, map.shape, gain, shift, map.eps))


class _Operators(dict):
    """What the text of a gate reads: ``x``, words, and torch's operators by name."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x=x)

    def __missing__(self, name: str):
        return getattr(torch.ops.aten, name, name)


def numbered(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
