"""Fresh initialisations of an architecture: how they are drawn, and the law of every parameter (docs/theory.md, section 4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.frontend.copies import copied
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.usercode import blaming

Factory = Callable[[int], nn.Module]

ENTRIES = 20_000_000
"""About as many random entries are drawn to learn the laws, in 8 to 64 initialisations."""

DEVIATIONS = 8.0
"""Standard deviations beyond which a statistic is not taken for chance (parameters are many, and small ones far from normal)."""


@dataclass(frozen=True, slots=True, eq=False)
class Law:
    """How a parameter is initialised.

    ``kind``: ``constant`` (the same at every draw), ``centred`` (independent entries of zero mean and one variance, as far as the
    draws tell), ``other``. ``second``: E[theta^2], a float (pooled), or the squares of a constant's entries; ``error``: its
    relative standard error.
    """

    kind: Literal["constant", "centred", "other"]
    second: float | Tensor
    error: float = 0.0

    @property
    def is_zero(self) -> bool:
        """Whether every draw is zero throughout."""
        return self.kind == "constant" and not bool(torch.as_tensor(self.second).any())

    @property
    def mean_square(self) -> float:
        """E[theta^2], averaged over the entries."""
        return float(torch.as_tensor(self.second).mean())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random inside; their states come back afterwards."""
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def seeds(seed: int, count: int) -> list[int]:
    """``count`` seeds that depend on ``seed`` alone; of two seeds, unrelated ones."""
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def drawn(model: nn.Module, initialise: Factory | None, example_inputs: Any) -> Callable[[int], nn.Module] | str:
    """What makes a fresh model of a seed: ``initialise``, or ``reset_parameters`` of every module on a copy; else why nothing does.

    A copy is on the CPU, wherever the model is: one seed draws the same numbers there and here.

    Raises ``PKC531`` where ``initialise`` makes another architecture than ``model``, ``PKC213`` where a copy computes something
    else at the example.
    """
    if initialise is not None:
        return lambda seed: _made(model, initialise, seed)
    without = [name for name, _ in model.named_parameters() if _reset(model.get_submodule(name.rpartition(".")[0])) is None]
    if without:
        more = f" (nor have those of {len(without) - 1} more parameters)" if len(without) > 1 else ""
        return f"the module of parameter '{without[0]}' has no reset_parameters{more}; give initialise=..."
    if any(isinstance(v, Tensor) and not v.is_leaf for m in model.modules() for v in vars(m).values()):
        return "the model keeps tensors that are computed from its parameters (an old weight_norm); give initialise=..."
    faithful_copy(model, example_inputs)
    return lambda seed: _again(model, seed)


def _reset(module: nn.Module) -> Callable[[], object] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(module, name, None)
        if callable(method):
            return method
    return None


def _again(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every module reset, children before their parents (which may overwrite them, as when they are built)."""
    fresh = copied(model).cpu()
    with seeded(seed), torch.no_grad():
        for module in reversed(list(fresh.modules())):
            reset = _reset(module)
            if reset is not None:
                reset()
    return fresh


def _made(model: nn.Module, initialise: Factory, seed: int) -> nn.Module:
    with seeded(seed), blaming(f"calling initialise({seed})"):
        fresh = initialise(seed)
    if not isinstance(fresh, nn.Module):
        raise fail(
            "PKC531",
            f"initialise returned an object of type {type(fresh).__name__}",
            "expected a new torch.nn.Module of the same architecture",
        )
    if fresh is model:
        raise fail("PKC531", "initialise returned the model itself", "it should build a new one at every call")
    ours, theirs = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, fresh))
    found = [
        Diagnostic("PKC531", f"initialise makes {_shape(theirs.get(n))} of '{n}', the model has {_shape(ours.get(n))}")
        for n in sorted(ours.keys() | theirs.keys())
        if ours.get(n) != theirs.get(n)
    ]
    last = "give the function that built this model, e.g. initialise=lambda seed: Net()"
    raise_all([*found[:-1], *(Diagnostic(d.code, d.message, notes=(last,)) for d in found[-1:])])
    return fresh


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else f"shape {shape}"


# laws -------------------------------------------------------------------------------------------------------------------


def laws(fresh: Callable[[int], nn.Module], numel: int, seed: int) -> dict[str, Law]:
    """The law of every parameter, learned from 8 to 64 initialisations (``numel``: the entries of one)."""
    count = max(8, min(64, ENTRIES // max(numel, 1)))
    return {name: seen.law() for name, seen in collect(map(fresh, seeds(seed, count))).items()}


def collect(models: Iterator[nn.Module] | Sequence[nn.Module]) -> dict[str, Moments]:
    """Sums over initialisations, by parameter name, on the CPU."""
    out: dict[str, Moments] = {}
    for model in models:
        for name, parameter in model.named_parameters():
            x = parameter.detach().to("cpu", torch.float64)
            if name not in out:
                out[name] = Moments(x.clone())
            out[name].add(x)
    return out


class Moments:
    """Sums of x, x^2 and x^4 over the draws, entry by entry, and whether all draws are the same."""

    def __init__(self, first: Tensor) -> None:
        self.first, self.same, self.count = first, True, 0
        self.sum, self.squares, self.fourth = torch.zeros_like(first), torch.zeros_like(first), 0.0

    def add(self, x: Tensor) -> None:
        """One more draw."""
        self.count += 1
        self.same = self.same and torch.equal(x, self.first)
        square = x.square()
        self.sum += x
        self.squares += square
        self.fourth += float(square.square().mean())

    @property
    def pooled(self) -> tuple[float, float, float]:
        """Mean, mean of squares and mean of fourth powers over all entries of all draws."""
        return float(self.sum.mean()) / self.count, float(self.squares.mean()) / self.count, self.fourth / self.count

    def law(self) -> Law:
        """Constant; or centred, unless the entries' own means or mean squares differ by more than chance."""
        if self.same:
            return Law("constant", self.first.square())
        _, second, fourth = self.pooled
        n, spread = self.first.numel(), max(fourth - second**2, 1e-3 * second**2) / self.count
        means = float((self.sum / self.count).square().sum()) * self.count / second
        squares = float((self.squares / self.count - second).square().sum()) / spread
        slack = n + DEVIATIONS * (2 * n) ** 0.5 + 3 * DEVIATIONS
        error = (spread / n) ** 0.5 / second
        return Law("centred" if means < slack and squares < 2 * slack else "other", second, error)


def unlike(model: nn.Module, fresh: Callable[[int], nn.Module], seed: int) -> str | None:
    """Why the model's own weights are no draw of ``fresh`` (trained, loaded, or initialised otherwise); None when they may be."""
    draws = [fresh(s) for s in seeds(seed, 8)]
    ours, theirs = collect([model]), collect(draws)
    for name, seen in ours.items():
        why = _far(seen, theirs[name])
        if why:
            return f"parameter '{name}' is no draw of its module's reset_parameters: {why}; give initialise=..."
    buffers = dict(draws[0].named_buffers())
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and not torch.equal(buffer.cpu(), buffers[name].cpu()):
            return f"buffer '{name}' is not as initialised, so the model is trained or loaded; give initialise=..."
    return None


def _far(ours: Moments, theirs: Moments) -> str | None:
    if theirs.same and not torch.equal(ours.first, theirs.first):
        return "its entries differ from the constants that a reset writes"
    if theirs.same:
        return "a reset leaves it as it is" if len(ours.first.unique()) > 2 else None
    (mean, second, _), (their_mean, their_second, their_fourth) = ours.pooled, theirs.pooled
    n = ours.first.numel()
    if abs(mean - their_mean) > DEVIATIONS * (their_second / n) ** 0.5:
        return f"mean {mean:.3g} instead of {their_mean:.3g}"
    spread = max(their_fourth - their_second**2, 1e-3 * their_second**2)
    if abs(second - their_second) > DEVIATIONS * (spread / n) ** 0.5 * (1 + 1 / theirs.count) ** 0.5:
        return f"mean square {second:.3g} instead of {their_second:.3g}"
    return None


def mean_squares(learned: Mapping[str, Law]) -> dict[str, float]:
    """E[theta^2] by parameter name, averaged over the entries."""
    return {name: law.mean_square for name, law in learned.items()}
