"""Computed weights in a sweep (docs/theory.md, sections 1 and 3): u = h(theta) as one edge tensor, at theta * mask.

Where u_j = theta_j times a factor (the v of a weight normalisation), the derivative by the edge of theta_j is that of u_j with the
factor held fixed, so that theta_j dR/dtheta_j means u_j dR/du_j. Any other parameter has the derivative of h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardsigmoid

from pkcompiler.frontend.precision import defaults
from pkcompiler.ir.computed import FLOATING, Argument, Dtype, Operand, Result, Step, aligned, factors, read_formula
from pkcompiler.ir.types import Slot
from pkcompiler.ops.normalise import CENTRE
from pkcompiler.ops.quotients import guarded, singular
from pkcompiler.paths.semiring import Edge

INTEGRAL = {"i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool}


class Made:
    """How one computed weight is made of its slots. The formula is read once."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.steps = read_formula(slot.formula, len(slot.of))
        self.last = Result(len(self.steps) - 1)
        self.aligned = aligned(slot)

    def value(self, given: Mapping[str, Tensor]) -> Tensor:
        """u at the given tensors of its slots, in their dtype: 0 where all that a row is divided by is 0."""
        return _Run(self, given).result()

    def plain(self, given: Mapping[str, Tensor]) -> Tensor:
        """u as the model's own code computes it: NaN where :meth:`value` makes 0 of 0/0."""
        return _Plain(self, given).result()

    def edge(self, edges: Mapping[str, Tensor], tensors: Mapping[str, Tensor], transform: Edge) -> Tensor:
        """t(u), differentiable by the edges of its parameters.

        ``edges``: t(theta) * mask. ``tensors``: theta and every other slot that it is made of.
        """
        roots = {n: root(edges[n], tensors[n], transform) if n in edges else tensors[n] for n in self.slot.of}
        if transform.signed:
            return self.value(roots)
        fixed = {n: t.detach() if n in self.aligned else t for n, t in roots.items()}
        return _Factors(self, fixed, edges, transform).result()


class _Run:
    """The results of a formula's steps, each computed when it is asked for."""

    mends = True

    def __init__(self, made: Made, given: Mapping[str, Tensor]) -> None:
        self.made = made
        self.operands = [given[name] for name in made.slot.of]
        self.dtype = next((t.dtype for t in self.operands if t.is_floating_point()), torch.float64)
        self.results: dict[int, Any] = {}

    def result(self) -> Tensor:
        """The weight. Integers become numbers, and constants are made, in its dtype, where its slots are."""
        with defaults(self.dtype, self.operands):
            found: Tensor = self.at(self.made.last)
        return found

    def at(self, argument: Argument) -> Any:
        match argument:
            case Operand(index):
                return self.operands[index]
            case Result(index):
                if index not in self.results:
                    self.results[index] = self.step(self.made.steps[index])
                return self.results[index]
            case Dtype(word):
                return self.dtype if word in FLOATING else INTEGRAL[word]
            case tuple():
                return [self.at(part) for part in argument]
        return argument

    def step(self, step: Step) -> Any:
        return call(step.op, [self.at(a) for a in step.arguments], {k: self.at(v) for k, v in step.named}, self.mends)

    def seen(self, step: Step, first: Any) -> Any:
        """A step as it is, of another first argument."""
        return call(step.op, [first, *map(self.at, step.arguments[1:])], {k: self.at(v) for k, v in step.named}, self.mends)


class _Plain(_Run):
    mends = False


def call(op: str, arguments: Sequence[Any], named: Mapping[str, Any], mends: bool = True) -> Any:
    """One operator of the closed list; what is singular at 0 is 0 there, if ``mends``."""
    if op == "getitem":
        return arguments[0][arguments[1]]
    if str(CENTRE) == op:
        return CENTRE(*arguments)
    if op == "hardsigmoid.default":
        return _hardsigmoid(arguments[0])
    found = singular(op, arguments) if mends else None
    if found is not None:
        return found
    name, _, overload = op.partition(".")
    return getattr(getattr(torch.ops.aten, name), overload)(*arguments, **named)


def _hardsigmoid(x: Tensor) -> Tensor:
    """torch's own, whose derivative has none; here that is 0."""
    held = x.detach()
    slope = torch.ops.aten.hardsigmoid_backward.default(torch.ones_like(held), held)
    return hardsigmoid(held) + slope * (x - held)


def root(edge: Tensor, theta: Tensor, transform: Edge) -> Tensor:
    """theta * mask from t(theta) * mask. Where the mask is 0 its derivative by a squared edge is that at theta."""
    match transform.name:
        case "theta":
            return edge
        case "theta^2":
            dropped = (edge == 0) & (theta != 0)
            kept = theta.sign() * torch.where(edge == 0, 0.0, torch.where(edge == 0, 1.0, edge).sqrt())
            return kept + torch.where(dropped, (edge - edge.detach()) / torch.where(dropped, 2 * theta, 1.0), 0.0)
        case "1":
            return edge
    return theta.sign() * edge


class _Factors(_Run):
    """t of each step: products of edges where a step is a product, t of the value elsewhere."""

    def __init__(self, made: Made, fixed: Mapping[str, Tensor], edges: Mapping[str, Tensor], transform: Edge) -> None:
        super().__init__(made, fixed)
        self.plain = _Run(made, fixed)
        self.values = _Kept(self.plain, fixed, edges) if transform.name == "1" else self.plain
        self.edges, self.transform = edges, transform

    def at(self, argument: Argument) -> Any:
        match argument:
            case Operand(index) if self.made.slot.of[index] in self.edges:
                return self.edges[self.made.slot.of[index]]
            case Operand(index):
                return self.transformed(self.operands[index])
            case int() | float():
                return self.transform.transform(torch.tensor(float(argument), dtype=self.dtype)).item()
        return super().at(argument)

    def step(self, step: Step) -> Any:
        parts = factors(step)
        if not parts or not isinstance(parts[0], Operand | Result):
            value = self.values.step(step)
            return value if isinstance(self.values, _Kept) else self.transformed(value)
        if step.op == "neg.default":
            return self.at(parts[0])
        if step.op.startswith("mul"):
            return self.at(parts[0]) * self.at(parts[1])
        if step.op.startswith("div"):
            below = self.values.at(step.arguments[1])
            below = below if isinstance(below, Tensor) else torch.tensor(float(below), dtype=self.dtype)
            return self.at(parts[0]) * self.transform.transform(guarded(torch.reciprocal, below))
        return self.plain.seen(step, self.at(parts[0]))

    def transformed(self, value: Any) -> Any:
        """t of each of one or several results; integers and booleans are numbers here."""
        if isinstance(value, Tensor):
            return self.transform.transform(value if value.is_floating_point() else value.to(self.dtype))
        return tuple(map(self.transformed, value))


class _Kept(_Run):
    """1 for every entry, 0 where a pruned parameter is a factor of it (of a sum: of every term); what an entry is computed from has
    part in its derivative."""

    def __init__(self, plain: _Run, fixed: Mapping[str, Tensor], edges: Mapping[str, Tensor]) -> None:
        self.plain, made = plain, plain.made
        live = {n: edges[n].detach() if n in made.aligned else edges[n] for n in made.slot.of if n in edges}
        super().__init__(made, {n: live[n] if n in live else torch.ones_like(t, dtype=self.plain.dtype) for n, t in fixed.items()})

    def step(self, step: Step) -> Any:
        if step.kind == "view":
            return self.plain.seen(step, self.at(step.arguments[0]))
        reads = [self.at(r) for r in step.reads()]
        value = self.plain.step(step)
        if not isinstance(value, Tensor):
            return tuple(self._spread(t, reads) for t in value)
        match step.op.partition(".")[0]:
            case "mul" | "neg":
                return torch.stack(torch.broadcast_tensors(*reads)).prod(0).expand(value.shape)
            case "div" if len(reads) == 1 or isinstance(step.arguments[0], Operand | Result):
                return reads[0].expand(value.shape)
            case "add" | "sub" | "rsub" if len(reads) == 2:
                return _any(torch.stack(torch.broadcast_tensors(*reads)).sum(0))
            case "pkcompiler":
                x, dims = reads[0], self.plain.at(step.arguments[1])
                return _any(x + x.sum(dims, keepdim=True))
            case "sum" | "cumsum" | "mean":
                total = call(step.op, [reads[0], *map(self.plain.at, step.arguments[1:])], {})
                return _any(total * (reads[0].numel() / max(1, total.numel())) if step.op.startswith("mean") else total)
            case "mm" | "bmm" | "matmul" | "mv" | "dot":
                return _any(call(step.op, reads, {}))
        if step.kind == "pointwise" and len(reads) == 1 and reads[0].shape == value.shape:
            return reads[0] if self._is_zero_at_zero(step) else 1 + reads[0] - reads[0].detach()
        return self._spread(value, reads)

    def _spread(self, value: Tensor, reads: Sequence[Tensor]) -> Tensor:
        """1 everywhere, and every entry has part in it."""
        live = [t for t in reads if isinstance(t, Tensor)]
        part = sum((t.sum() - t.sum().detach() for t in live), start=torch.zeros((), dtype=self.dtype))
        return torch.ones_like(value, dtype=self.dtype) + part

    def _is_zero_at_zero(self, step: Step) -> bool:
        plain = [self.plain.at(a) for a in step.arguments]
        arguments = [torch.zeros((), dtype=a.dtype) if isinstance(a, Tensor) else a for a in plain]
        return bool((call(step.op, arguments, {}) == 0).all())


def _any(total: Tensor) -> Tensor:
    """1 where a sum of zeros and ones has a term, with the derivative of the sum."""
    return (total > 0).to(total.dtype) + total - total.detach()
