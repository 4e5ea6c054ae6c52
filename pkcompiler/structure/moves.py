"""What the reindexings do to units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from pkcompiler.ir.maps import Conv
from pkcompiler.structure.labels import Axes, Ints, Labels

Args = dict[str, Any]


class Views(Protocol):
    """What is known of units that one dimension holds and another view of it takes apart."""

    def reshaped(self, key: str, axes: Axes, shape: Sequence[int]) -> Axes:
        """The axes of a tensor after a reshape."""

    def grouped(self, name: str, map: Conv, x: Ints, first: Ints, second: Ints) -> Ints:
        """The units that a convolution ``name`` in groups makes of the channels ``x``, by a weight of dimensions ``first`` and
        ``second``."""

    def normalised(self, name: str, groups: int, x: Ints) -> bool:
        """Whether a GroupNorm ``name`` takes statistics over units of ``x`` of which some can go and others stay."""


class Moves:
    """Labels after a reindexing. A slice, a concatenation or a padding keeps the units that it keeps, in their order."""

    def __init__(self, labels: Labels, views: Views) -> None:
        self.labels, self.views = labels, views
        self._rules: dict[str, Callable[[str, Axes, Args, tuple[int, ...]], Axes]] = {
            "reshape": self._reshape,
            "permute": self._permute,
            "expand": self._expand,
            "slice": self._slice,
            "select": self._select,
            "pad": self._pad,
            "roll": self._roll,
            "flip": self._flip,
            "index": self._index,
            "sum": self._sum,
            "repeat": self._repeat,
            "unfold": self._unfold,
            "diagonal": self._diagonal,
            "cumsum": self._cumsum,
        }

    def apply(self, name: str, fn: str, args: Args, inputs: list[Axes], shape: tuple[int, ...]) -> Axes:
        """The axes of the result ``name`` [shape] of the reindexing ``fn``."""
        return self._cat(inputs, args) if fn == "cat" else self._rules[fn](name, inputs[0], args, shape)

    def _cat(self, inputs: list[Axes], args: Args) -> Axes:
        dim = args["dim"] % len(inputs[0])
        for axes in inputs[1:]:
            for d, (left, right) in enumerate(zip(inputs[0], axes, strict=True)):
                if d != dim:
                    self.labels.unite(left, right)
        return _with(inputs[0], dim, np.concatenate([axes[dim] for axes in inputs]))

    def _reshape(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        return self.views.reshaped(name, x, shape)

    def _permute(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        return tuple(x[d] for d in args["dims"])

    def _expand(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        """Copies are as many as what they meet has units."""
        fresh = len(shape) - len(x)
        kept = [None] * fresh + list(x)
        return tuple(self._copies(n) if axis is None or axis.size != n else axis for axis, n in zip(kept, shape, strict=True))

    def _copies(self, count: int) -> Ints:
        return self.labels.fresh(count) if count > 1 else self.labels.fixed(count, "a dimension of size 1")

    def _slice(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        dim = args["dim"] % len(x)
        if args["step"] != 1:
            self.labels.pin(x[dim], f"%{name} takes every {args['step']}th of it")
        return _with(x, dim, x[dim][args["start"] : args["end"] : args["step"]])

    def _select(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        dim = args["dim"] % len(x)
        index = args["index"] % x[dim].size
        self.labels.pin(x[dim][index : index + 1], f"%{name} selects it")
        return x[:dim] + x[dim + 1 :]

    def _pad(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        found = list(x)
        pads = args["pad"]
        for i in range(len(pads) // 2):
            dim = len(x) - 1 - i
            before, after = pads[2 * i : 2 * i + 2]
            if not (before or after):
                continue
            if args["mode"] != "constant" or min(before, after) < 0:
                self.labels.pin(x[dim], f"%{name} pads it by itself")
                found[dim] = self.labels.fixed(shape[dim], f"the padding %{name}")
                continue
            reason = f"the padding %{name}"
            found[dim] = np.concatenate([self.labels.made(before, reason), x[dim], self.labels.made(after, reason)])
        return tuple(found)

    def _roll(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        for axis in [x[d] for d in args["dims"]] or x:
            self.labels.pin(axis, f"%{name} rolls it")
        return x if args["dims"] else tuple(self.labels.fixed(n, f"%{name} rolls it") for n in shape)

    def _flip(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        turned = {d % len(x) for d in args["dims"]}
        return tuple(axis[::-1] if d in turned else axis for d, axis in enumerate(x))

    def _index(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        dim = args["dim"] % len(x)
        self.labels.pin(x[dim], f"stored indices choose from it (%{name})")
        return _with(x, dim, self.labels.fixed(shape[dim], f"stored indices choose it (%{name})"))

    def _sum(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        dims = {d % len(x) for d in args["dims"] or ()} or set(range(len(x)))
        one = self.labels.fixed(1, "a dimension of size 1")
        return tuple(one if d in dims else axis for d, axis in enumerate(x) if args["keepdim"] or d not in dims)

    def _repeat(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        kept = [self._copies(1)] * (len(shape) - len(x)) + list(x)
        return tuple(
            axis if axis.size == n else self._copies(n) if axis.size == 1 else np.tile(axis, n // axis.size)
            for axis, n in zip(kept, shape, strict=True)
        )

    def _unfold(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        dim = args["dim"] % len(x)
        self.labels.pin(x[dim], f"%{name} slides over it")
        window = f"a position in the windows of %{name}"
        return (*_with(x, dim, self.labels.fixed(shape[dim], window)), self.labels.fixed(shape[-1], window))

    def _diagonal(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        taken = {args["dim1"] % len(x), args["dim2"] % len(x)}
        for dim in taken:
            self.labels.pin(x[dim], f"%{name} takes its diagonal")
        rest = tuple(axis for d, axis in enumerate(x) if d not in taken)
        return (*rest, self.labels.fixed(shape[-1], f"the diagonal %{name}"))

    def _cumsum(self, name: str, x: Axes, args: Args, shape: tuple[int, ...]) -> Axes:
        self.labels.pin(x[args["dim"]], f"%{name} adds along it")
        return x


def _with(x: Axes, dim: int, axis: Ints) -> Axes:
    return (*x[:dim], axis, *x[dim + 1 :])
