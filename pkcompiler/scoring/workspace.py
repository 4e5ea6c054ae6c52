"""What evaluations share, of passes from round to round: the captured model, effective weights, data, prepared sweeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import Diagnostic, fail, raise_all, typed_or_called
from pkcompiler.frontend.capture import Capture
from pkcompiler.kernel.convolution import TwiceSweep
from pkcompiler.lang.plan import no_data
from pkcompiler.measured import LOG2
from pkcompiler.paths.functional import masked, prepare
from pkcompiler.paths.scaled import Scaled, times_power
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import (
    check_range,
    check_targets,
    data_inputs,
    data_position,
    device_of,
    input_sources,
    is_batched,
    unit_sources,
)
from pkcompiler.paths.sweep import Sweep
from pkcompiler.scoring.batched import Piece, added, joined, same_draws
from pkcompiler.scoring.detached import swept
from pkcompiler.scoring.edges import Edges
from pkcompiler.scoring.losses import Loss, cross_entropy, margins, mean_of
from pkcompiler.scoring.terms import NUMBER, PARAM, Term
from pkcompiler.scoring.total_loss import alone, share
from pkcompiler.selection.candidates import Goal
from pkcompiler.tangent.function import computing

STORED = "stored"
"""The edge of a leaf that is theta itself, which no mask multiplies."""
SWITCH = "switch"
"""The edge of a leaf that is the mask itself, where what it multiplies is not theta."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """Tensors that a value was computed from: ``edge`` says what of theta they are (``theta`` for the effective weights).

    ``factors``: what a derivative by a folded edge is still to be multiplied with. ``unmasked``: the tensors where every mask is
    1 (folded alike).
    """

    edge: str
    tensors: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    unmasked: Mapping[str, Tensor]


@dataclass(slots=True)
class Workspace:
    """A captured model with its masks, data and loss.

    ``wanted``: the parameters whose scores are asked for. ``samples`` are the model's flat inputs at the data, ``target`` the
    targets; ``batch`` samples are run at a time. ``twice``: derivatives are
    differentiated again.
    """

    captured: Capture
    dtype: torch.dtype
    masks: Mapping[str, Tensor]
    wanted: frozenset[str]
    samples: Sequence[Any] | None = None
    target: Tensor | None = None
    loss_function: Loss | None = None
    batch: int | None = None
    training: bool = False
    twice: bool = False
    initialise: Callable[[int], nn.Module] | None = None  # seed to a fresh model, where there is a factory
    draws: int = 0  # the seed of what the model draws in training mode
    goal: Goal | None = None  # how many entries this round keeps, where that is known
    prunable: frozenset[str] | None = None  # after include and before except; None: what is prunable by default
    _mass: Scaled | None = None
    weights_of_losses: dict[str, Tensor | None] = field(default_factory=dict)  # what objective.weight found
    _prepared: dict[tuple[Settings, str, bool], tuple[Edges, dict[str, Tensor], bool]] = field(default_factory=dict)

    @property
    def theta(self) -> dict[str, Tensor]:
        """The stored, unmasked value of every wanted parameter."""
        names = (s.name for s in self.captured.graph.parameters if s.name in self.wanted)
        return {n: self.captured.tensors[n].to(self.dtype) for n in names}

    @property
    def mask(self) -> dict[str, Tensor]:
        """The mask of every wanted parameter, as 0 and 1."""
        return {n: self._mask_of(n, t) for n, t in self.theta.items()}

    @property
    def may_be_pruned(self) -> dict[str, Tensor]:
        """Ones for every wanted parameter that may be pruned, zeros for the others."""
        names = frozenset(s.name for s in self.captured.graph.prunable) if self.prunable is None else self.prunable
        return {n: torch.ones_like(t) if n in names else torch.zeros_like(t) for n, t in self.theta.items()}

    def _mask_of(self, name: str, like: Tensor) -> Tensor:
        mask = self.masks.get(name)
        return torch.ones_like(like) if mask is None else mask.to(like)

    @property
    def data(self) -> Tensor:
        """The samples of the one input that data stands for, floating. Raises ``PKC505`` where they stand for several."""
        samples, flat = self.need_data(), self.captured.call.flat
        position = data_position(flat)
        tensor: Tensor = samples[position]
        given = [i for i, t in enumerate(samples) if is_batched(t) and not torch.equal(t, flat[i][:1].expand_as(t))]
        if set(given) - {position}:
            note = "write input = data, data^2, mean(data) or mean(data^2), which weigh every input, or model(data)"
            raise fail("PKC505", f"this expression computes with data, which are {len({*given, position})} inputs here", note)
        if not tensor.is_floating_point():
            raise fail("PKC505", "this expression computes with data, which are integers here", "use input = data or mean(data)")
        return tensor.to(self.dtype)

    def need_data(self) -> Sequence[Any]:
        """The model's flat inputs at the data. Raises ``PKC502`` where there are none."""
        if self.samples is None:
            raise no_data("this pass")
        return self.samples

    # path functionals -------------------------------------------------------------------------------------------------

    def constant(self, chosen: Settings, input: str | Tensor, output: str | Term) -> Term:
        """The value of ``paths(...)`` for every sample, with no derivative."""
        check_range(self.captured.graph, self.captured.tensors, chosen)
        value = swept(self.captured, chosen, self.need_data(), input, self.masks, self.batch)
        return self._weighted(value, output, reads_samples=True)

    def functional(self, chosen: Settings, input: str | Tensor, output: str | Term) -> tuple[Term, Leaf]:
        """The value of ``paths(...)`` and the edges that it stands on."""
        if self.twice:
            self.refuse_computed("a derivative of a path functional that is differentiated again")
        edges, sources, reads_samples = self._edges(chosen, input)
        with torch.enable_grad():
            value = edges.sweep.run(edges.at(self.masks), sources)
            term = self._weighted(value, output, reads_samples)
        if not term.axes:
            self._mass = Scaled(term.tensor.detach(), term.exponent)
        return term, Leaf(chosen.edge, edges.leaves, edges.factors, edges.base)

    def log10_mass(self) -> float | None:
        """log10 of the last path functional that was a number; None for passes without."""
        if self._mass is None:
            return None
        size = abs(float(self._mass.tensor))
        return math.log10(size) + self._mass.exponent * LOG2 if size else -math.inf

    def refuse_computed(self, what: str) -> None:
        """``PKC444`` for every wanted parameter that a weight is computed from: ``what`` is not known for it."""
        raise_all(
            Diagnostic(
                "PKC444",
                f"parameter '{name}' has no score: the weight '{slot.name}' is computed from it, and {what} is by weights alone",
                notes=(
                    typed_or_called(f"leave it out: --except {name!r}", f'leave it out of a schedule: except = "{name}"'),
                    "or take a pass of first derivatives, such as synflow or synflow-l2",
                ),
            )
            for slot in self.captured.graph.computed
            for name in slot.of
            if name in self.wanted
        )

    def keep_mass(self, other: Workspace) -> None:
        """Take over the last path functional of another workspace."""
        self._mass = other._mass

    def _edges(self, chosen: Settings, input: str | Tensor) -> tuple[Edges, dict[str, Tensor], bool]:
        """The prepared sweep, its sources, and whether it carries the samples; kept while nothing but the mask changes."""
        if isinstance(input, str) and (chosen, input, self.twice) in self._prepared:
            return self._prepared[chosen, input, self.twice]
        by_sample = reads_samples(chosen, input)
        reads_data = chosen.reads_data or (isinstance(input, str) and input != "ones")
        samples = self.need_data() if reads_data else None
        tensors = masked(self.captured, self.masks) if chosen.reads_data else self.captured.tensors
        check_range(self.captured.graph, self.captured.tensors, chosen)
        sweep, batch = prepare(self.captured, tensors, chosen, samples, input, TwiceSweep if self.twice else Sweep)
        sources = self._sources(samples, input, batch, chosen.dtype)
        made = (Edges.of(sweep, self.wanted, self.masks), sources, by_sample)
        if isinstance(input, str) and not chosen.reads_data:
            self._prepared[chosen, input, self.twice] = made
        return made

    def _sources(self, samples: Sequence[Any] | None, input: str | Tensor, batch: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The source weights of every input; all ones are those of the graph alone."""
        if not isinstance(input, str) or input != "ones":
            return input_sources(self.captured, samples, input, batch, dtype)
        return unit_sources(self.captured.graph, batch, dtype)

    def _weighted(self, value: Scaled, output: str | Term, reads_samples: bool) -> Term:
        tensor = value.tensor
        if output == "each":
            axes = frozenset({"sample", "output"}) if reads_samples else frozenset({"output"})
            return Term(axes, tensor if reads_samples else tensor.sum(0), value.exponent)
        exponent = value.exponent
        if isinstance(output, Term):
            reads_samples = reads_samples or "sample" in output.axes
            tensor = tensor * output.tensor
            exponent += output.exponent
        if not reads_samples:
            return Term(NUMBER, tensor.sum(), exponent)
        return Term(frozenset({"sample"}), tensor.flatten(1).sum(1), exponent)

    # derivatives ------------------------------------------------------------------------------------------------------

    def derivative(self, value: Term, leaf: Leaf, wanted: str, times_itself: bool = False) -> Term:
        """d value / d ``wanted`` (``theta``, ``mask``, or an edge) through one leaf, at the value's exponent.

        ``times_itself``: multiplied by ``wanted`` at its stored, unmasked value: theta dF/dtheta = |theta| dF/d|theta| =
        2 theta^2 dF/dtheta^2.
        """
        names = [n for n in leaf.tensors if n in self.wanted]
        grads: Sequence[Tensor | None] = [None] * len(names)
        if value.tensor.requires_grad:
            grads = torch.autograd.grad(value.tensor, [leaf.tensors[n] for n in names], allow_unused=True, retain_graph=True)
        found = dict(zip(names, own([leaf.tensors[n] for n in names], grads), strict=True))
        if times_itself or wanted == "mask":
            twice = wanted in ("theta", "mask") and leaf.edge == "theta^2"
            for n, g in found.items():
                torch.mul(g, leaf.unmasked[n], out=g)
                if twice:
                    g *= 2
            return Term(PARAM, found, value.exponent, owned=True)
        for n, factor in leaf.factors.items():
            if n in found:
                found[n] *= factor
        if wanted != leaf.edge:
            theta = self.theta
            found = {n: self.by_theta(leaf.edge, theta[n], g) for n, g in found.items()}
        return Term(PARAM, found, value.exponent, owned=True)

    @staticmethod
    def by_theta(edge: str, theta: Tensor, grad: Tensor) -> Tensor:
        """t'(theta) times the derivative by the edge t."""
        match edge:
            case "abs(theta)":
                return theta.sign() * grad
            case "theta^2":
                return 2 * theta * grad
            case "1":
                return torch.zeros_like(grad)
        return grad

    # the model's own run ----------------------------------------------------------------------------------------------

    def effective(self) -> dict[str, Tensor]:
        """theta * mask of every parameter of the module that holds weights, leaves of derivatives."""
        named = {n: p.detach() for n, p in self.captured.module.named_parameters() if p.is_floating_point()}
        return {n: (p * self._mask_of(n, p)).requires_grad_() for n, p in named.items()}

    def weights_leaf(self, weights: Mapping[str, Tensor]) -> Leaf:
        """The leaf of what is computed from ``effective()``."""
        return Leaf("theta", weights, {}, self.theta)

    def call(self, weights: Mapping[str, Tensor], samples: Sequence[Any], buffers: Mapping[str, Tensor] | None = None) -> Tensor:
        """The analysed output of the module at given weights. Its buffers are not touched; ``buffers`` stand for them, and are."""
        module = self.captured.module
        buffers = buffers or {n: b.clone() for n, b in module.named_buffers()}
        with _mode(module, self.training), computing() if self.twice else nullcontext():
            return self.captured.call.run(module, samples, {**buffers, **weights})

    @property
    def count(self) -> int:
        """How many samples the data have."""
        return length(self.need_data())

    def batches(self) -> list[tuple[Sequence[Any], Tensor | None]]:
        """The samples and targets in batches."""
        samples = self.need_data()
        n = length(samples)
        step = self.batch or n
        cut = [slice(i, i + step) for i in range(0, n, step)]
        return [
            ([t[c] if isinstance(t, Tensor) and t.dim() else t for t in samples], None if self.target is None else self.target[c])
            for c in cut
        ]

    def loss(self) -> tuple[Term, Leaf]:
        """The mean loss over all samples, its derivative accumulated over batches (before any absolute value)."""
        weights = self.effective()
        pieces = self._pieces(lambda output, target, n: share(self, output, target, n))
        return Term(NUMBER, added(pieces, weights)), self.weights_leaf(weights)

    def losses(self) -> tuple[Term, Leaf]:
        """The loss of every sample alone [sample], as :func:`~pkcompiler.scoring.total_loss.alone` says."""
        weights = self.effective()
        pieces = self._pieces(lambda output, target, _: torch.stack([alone(self, *one) for one in _singly(output, target)]))
        return Term(frozenset({"sample"}), joined(pieces, weights)), self.weights_leaf(weights)

    def _pieces(self, function: Callable[[Tensor, Tensor | None, int], Tensor]) -> list[Piece]:
        """``function(output, target, samples)`` of every batch; in training mode with the same random numbers in every run."""

        def piece(samples: Sequence[Any], target: Tensor | None, weights: Mapping[str, Tensor]) -> Tensor:
            return function(self.call(weights, samples), target, length(samples))

        pieces: list[Piece] = [partial(piece, samples, target) for samples, target in self.batches()]
        return [same_draws(p, self.draws + i) for i, p in enumerate(pieces)] if self.training else pieces

    def output(self) -> tuple[Term, Leaf]:
        """The model's output for all samples [sample, output], differentiable."""
        weights = self.effective()
        value = joined(self._pieces(lambda output, target, n: output), weights)
        return Term(frozenset({"sample", "output"}), value), self.weights_leaf(weights)

    def loss_gradient(self) -> Term:
        """The derivative of the mean loss over all samples by every output of every sample [sample, output], a constant."""
        weights = {n: w.detach() for n, w in self.effective().items()}
        parts = []
        for samples, target in self.batches():
            with torch.enable_grad():
                output = self.call(weights, samples).detach().requires_grad_()
                loss = share(self, output, target, length(samples))
            parts.append(torch.autograd.grad(loss, output)[0])
        return Term(frozenset({"sample", "output"}), torch.cat(parts))

    def margin(self, output: Term) -> Term:
        """Outputs [sample, class]: the logit of the true class minus the largest other one. Raises ``PKC506`` without targets."""
        if self.target is None:
            raise fail("PKC506", "margin needs targets, and the data have none", "give labelled data")
        with torch.enable_grad():
            return Term(frozenset({"sample"}), margins(output.tensor, self.target), output.exponent)

    def cross_entropy(self, output: Term) -> Term:
        """The mean cross-entropy of an output term against the targets. Raises ``PKC506`` without targets."""
        if self.target is None:
            raise fail("PKC506", "cross_entropy needs targets, and the data have none", "give labelled data")
        with torch.enable_grad():
            return Term(NUMBER, mean_of(*cross_entropy(times_power(output.tensor, output.exponent), self.target)))


def reads_samples(chosen: Settings, input: str | Tensor) -> bool:
    """Whether a functional has a value for every sample."""
    of_input = len(input) > 1 if isinstance(input, Tensor) else input in ("data", "data^2")
    return chosen.reads_data or of_input


def own(leaves: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
    """Derivatives that may be written over: zeros for None, a copy of what is expanded or shares its memory with another."""
    seen: set[int] = set()
    out = []
    for leaf, grad in zip(leaves, grads, strict=True):
        if grad is None:
            out.append(torch.zeros_like(leaf))
            continue
        memory = grad.untyped_storage()
        alone = grad.is_contiguous() and memory.nbytes() == grad.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        out.append(grad if alone else grad.clone(memory_format=torch.contiguous_format))
    return out


def _singly(output: Tensor, target: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Outputs and targets sample by sample, each [1, ...]."""
    return [(output[i : i + 1], None if target is None else target[i : i + 1]) for i in range(len(output))]


def length(samples: Sequence[Any]) -> int:
    """How many samples the model's flat inputs hold."""
    return next(int(t.shape[0]) for t in samples if isinstance(t, Tensor) and t.dim())


class _mode:
    """Training or evaluation mode inside; every module's own mode afterwards."""

    def __init__(self, module: nn.Module, training: bool) -> None:
        self.module, self.training = module, training

    def __enter__(self) -> None:
        self.before = {m: m.training for m in self.module.modules()}
        self.module.train(self.training)

    def __exit__(self, *error: object) -> None:
        for m, training in self.before.items():
            m.training = training


def sample_inputs(captured: Capture, data: Any) -> tuple[Sequence[Any], Tensor | None]:
    """The flat inputs and the targets of a pair (x, y), where the model is. Raises ``PKC663`` for targets that are not one per
    sample."""
    target = data[1] if isinstance(data, tuple | list) and len(data) > 1 else None
    samples = data_inputs(captured, data)
    check_targets(target, length(samples))
    return samples, None if target is None else target.to(device_of(captured.graph, captured.tensors))
