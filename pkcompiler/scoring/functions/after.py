"""``after(F, steps = k, lr = r)``: a number after a few steps of SGD on the loss, derived by the weights before them.

With w_0 = theta * mask, s = 1 where the mask is 1 (everything where there is none) and momentum m:
    b_{j+1} = m b_j + s * grad L_j(w_j),    w_{j+1} = w_j - r b_{j+1}.
The derivative goes back through the steps with one product with the Hessian of L_j at w_j each, computed by differentiating twice
on the samples of that step alone: what is kept are the weights before every step, never the graph of all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Typed
from pkcompiler.predict.initial import seeded
from pkcompiler.scoring.functions.evaluation import Binding, Evaluation
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import Term
from pkcompiler.scoring.total_loss import share
from pkcompiler.scoring.workspace import Leaf, Workspace, length
from pkcompiler.tangent.function import computing


@dataclass(slots=True)
class Trained(Workspace):
    """A workspace at the weights after training, on the samples kept for the number itself."""

    weights: dict[str, Tensor] | None = None
    stands_on: Leaf | None = None

    def effective(self) -> dict[str, Tensor]:
        """The weights after the steps, by parameter name, with derivatives by w_0."""
        assert self.weights is not None
        return self.weights

    def weights_leaf(self, weights: Any) -> Leaf:
        """The leaf of w_0, whatever ``weights`` are: what is computed after the steps is derived by the weights before them."""
        assert self.stands_on is not None
        return self.stands_on


def trained(work: Workspace, given: Mapping[str, str | float], draw: Draw) -> tuple[Trained, Leaf]:
    """The workspace after the steps that ``given`` names (steps, lr, momentum, batches), and the leaf of w_0.

    Raises ``PKC502`` without data, ``PKC567`` where there are fewer samples than batches, ``PKC569`` where a step leaves the
    finite numbers.
    """
    steps = int(given["steps"])
    parts = _parts(work, steps + 1 if given["batches"] == "each" else 1)
    start = work.effective()
    leaf = work.weights_leaf(start)
    names = [n for n, p in work.captured.module.named_parameters() if p.requires_grad]
    unit = torch.ones((), dtype=work.dtype)
    kept = [work.masks[n].to(start[n]) if n in work.masks else unit.to(start[n].device) for n in names]
    fixed = {n: t for n, t in start.items() if n not in set(names)}
    rate, momentum = float(given["lr"]), float(given["momentum"])
    run = Steps(parts[:steps] * (steps if len(parts) == 1 else 1), names, fixed, kept, rate, momentum, draw)
    with torch.enable_grad():
        ends = _Unrolled.apply(run, *(start[n] for n in names))
    weights = {**start, **dict(zip(names, ends, strict=True))}
    made = {f.name: getattr(parts[-1], f.name) for f in fields(Workspace)}
    return Trained(**made, weights=weights, stands_on=leaf), leaf


def _parts(work: Workspace, count: int) -> list[Workspace]:
    """The samples dealt in turn to ``count`` batches."""
    samples = work.need_data()
    n = length(samples)
    if n < count:
        note = f"give {count} samples or more, or write after(loss, ..., batches = same)"
        raise fail("PKC567", f"after() reads {count} batches of samples, and there are {n}", note)
    if count == 1:
        return [work]
    cut = [slice(i, None, count) for i in range(count)]
    return [
        replace(
            work,
            samples=[t[c] if isinstance(t, Tensor) and t.dim() else t for t in samples],
            target=None if work.target is None else work.target[c],
            _prepared={},
            weights_of_losses={},
        )
        for c in cut
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Steps of SGD: ``work`` holds the samples of each; ``names`` the parameters that learn, ``fixed`` the others' tensors.

    ``kept``: by name, 1 where an entry learns, 0 where the mask dropped it.
    """

    work: Sequence[Workspace]
    names: Sequence[str]
    fixed: dict[str, Tensor]
    kept: Sequence[Tensor]
    rate: float
    momentum: float
    draw: Draw

    def run(self, start: Sequence[Tensor]) -> list[list[Tensor]]:
        """The weights before every step and after the last."""
        weights, speed = [t.detach() for t in start], [torch.zeros_like(t) for t in start]
        states = [weights]
        for j in range(len(self.work)):
            slopes = [torch.zeros_like(t) for t in weights]
            for part in self._losses(j, weights):
                slopes = [a + g for a, g in zip(slopes, self._gradient(*part), strict=True)]
            weights, speed = self._moved(weights, speed, slopes)
            self._finite(j, weights)
            states.append(weights)
        return states

    def plain(self, start: Sequence[Tensor]) -> list[Tensor]:
        """The weights after the last step, as one graph of derivatives: for derivatives of derivatives."""
        weights, speed = list(start), [torch.zeros_like(t) for t in start]
        for j in range(len(self.work)):
            slopes = [torch.zeros_like(t) for t in weights]
            for loss, leaves in self._losses(j, weights, keep=True):
                slopes = [a + g for a, g in zip(slopes, self._gradient(loss, leaves, keep=True), strict=True)]
            weights, speed = self._moved(weights, speed, slopes)
        return weights

    def back(self, states: Sequence[Sequence[Tensor]], ends: Sequence[Tensor]) -> list[Tensor]:
        """The derivative by w_0 of a number whose derivative by the last weights is ``ends``."""
        cotangent, momenta = list(ends), [torch.zeros_like(t) for t in ends]
        for j in reversed(range(len(self.work))):
            momenta = [m - self.rate * c for m, c in zip(momenta, cotangent, strict=True)]
            direction = [k * m for k, m in zip(self.kept, momenta, strict=True)]
            for loss, leaves in self._losses(j, states[j]):
                slopes = self._gradient(loss, leaves, keep=True)
                live = [(g, d) for g, d in zip(slopes, direction, strict=True) if g.requires_grad]
                if live:
                    bent = torch.autograd.grad([g for g, _ in live], leaves, [d for _, d in live], allow_unused=True)
                    cotangent = [c if h is None else c + h for c, h in zip(cotangent, bent, strict=True)]
            momenta = [self.momentum * m for m in momenta]
        return cotangent

    def _losses(self, step: int, weights: Sequence[Tensor], keep: bool = False) -> Any:
        """The loss of one step, batch after batch: its share of the mean over the step's samples, and the weights it reads."""
        work = self.work[step]
        for i, (samples, target) in enumerate(work.batches()):
            with torch.enable_grad(), computing(), seeded(self.draw.number("after", step, i)):
                leaves = list(weights) if keep else [t.detach().requires_grad_() for t in weights]
                output = work.call({**self.fixed, **dict(zip(self.names, leaves, strict=True))}, samples)
                loss = share(work, output, target, length(samples))
            yield loss, leaves

    @staticmethod
    def _gradient(loss: Tensor, leaves: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
        with torch.enable_grad():
            made = torch.autograd.grad(loss, leaves, create_graph=keep, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, made, strict=True)]

    def _moved(
        self, weights: Sequence[Tensor], speed: Sequence[Tensor], slopes: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        speed = [self.momentum * b + k * g for b, k, g in zip(speed, self.kept, slopes, strict=True)]
        return [w - self.rate * b for w, b in zip(weights, speed, strict=True)], speed

    def _finite(self, step: int, weights: Sequence[Tensor]) -> None:
        bad = next((n for n, w in zip(self.names, weights, strict=True) if not bool(torch.isfinite(w).all())), None)
        if bad is not None:
            message = f"after() left the finite numbers in step {step + 1} of {len(self.work)}, first in '{bad}'"
            raise fail("PKC569", message, f"write a smaller rate than lr = {self.rate:g}")


class _Unrolled(torch.autograd.Function):
    """The weights after all steps, of those before."""

    @staticmethod
    def forward(ctx: Any, run: Steps, *start: Tensor) -> tuple[Tensor, ...]:
        states = run.run(start)
        ctx.run, ctx.states = run, states
        ctx.save_for_backward(*start)
        return tuple(t.clone() for t in states[-1])

    @staticmethod
    def backward(ctx: Any, *ends: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return (None, *ctx.run.back(ctx.states, ends))
        start = list(ctx.saved_tensors)
        weights = ctx.run.plain(start)
        return (None, *torch.autograd.grad(weights, start, ends, create_graph=True, allow_unused=True))


def _value(evaluation: Evaluation, node: Typed) -> Term:
    """The number at the weights after training, evaluated on its own samples."""
    work, leaf = trained(evaluation.work, node.words, evaluation.draws)
    return evaluation.on_leaf((evaluation.elsewhere(work).evaluate(node.args[0]), leaf))


VALUES: dict[str, Binding] = {"after": _value}
