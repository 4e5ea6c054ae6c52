"""``LossPathKernel``: which samples' losses fell together along a training trajectory.

    K_T(z, z') = sum over steps t of lr_t <g_t(z), g_t(z')>,      g_t(z) the gradient of the loss of sample z at step t

is the sum for the integral over time of Chen, Huang, Wang, Loh, Srivastava, Nguyen & Weng 2023, "Analyzing Generalization of
Neural Networks through Loss Path Kernels". Under gradient flow on L = mean of the n training losses, the loss of any sample z falls
by (1/n) sum_j K_T(z, z_j), so L itself by (1/n^2) sum_ij K_T(z_i, z_j). With discrete steps both hold up to O(lr).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler.arguments import methods_checked, plain
from pkcompiler.diagnostics import Diagnostic, PkcError, fail, raise_all
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.paths.sources import is_batched
from pkcompiler.tangent.function import ModelAtData, TangentMap, Theta, at_data
from pkcompiler.tangent.jacobian import MEMORY, Jacobian, shown_bytes
from pkcompiler.tangent.regression import require, targets
from pkcompiler.usercode import blaming

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Identity:
    """``drop`` = L(w_0) - L(w_T) of the training loss, ``explained`` = (1/n^2) sum_ij K_T(z_i, z_j) = sum of lr ||grad L||^2, and
    ``defect`` = |drop - explained| / |drop|: O(lr) for full-batch descent (0 where both are 0)."""

    drop: float
    explained: float
    defect: float


@methods_checked
@methods_in_own_modes
class LossPathKernel:
    """The Loss Path Kernel of a trajectory: of a copy trained here, or recorded from a loop of the user's.

    With ``lr`` and ``steps`` a copy is trained by full-batch gradient descent on the mean loss, in evaluation mode, masked entries
    held at 0; the model is not changed. With ``steps=None`` call ``record(model, lr)`` before every step and ``close(model)`` after
    the last. ``data``: (x, y). ``loss``: ``cross-entropy`` (of class labels, or of rows of probabilities), ``mse`` (1/2 sum over
    outputs of (f - y)^2), or a function of (output [1, ...], target [1, ...]) to a scalar. ``samples``: indices of the samples that
    the kernel is wanted for, all by default; gradients of the training loss always run over all. ``memory``: bytes for the kernel
    and the pieces of its gradients. Raises ``PKC525`` where the kernel does not fit, ``PKC529`` for arguments that do not fit, and
    ``PKC526``, ``PKC527`` for data and targets.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        lr: float | None = None,
        steps: int | None = None,
        *,
        loss: str | Loss = "cross-entropy",
        samples: Sequence[int] | Tensor | None = None,
        masks: Mapping[str, Tensor] | None = None,
        example_inputs: Any = None,
        dtype: torch.dtype = torch.float64,
        memory: int = MEMORY,
    ) -> None:
        raise_all(_wrong_arguments(lr, steps, loss))
        self.network = at_data(model, data, masks, example_inputs=example_inputs, dtype=dtype)
        self.samples = _indices(samples, self.network.n)
        self.lr, self.memory = lr, int(memory)
        map = _loss_map(self.network, data, loss)
        self._refuse(map.like.element_size())
        self._all, self._chosen = Jacobian(map, self.memory), Jacobian(_chosen(map, self.samples), self.memory)
        self._kernel = map.like.new_zeros(len(self.samples), len(self.samples))
        self._fallen = map.like.new_zeros(len(self.samples))
        self._explained = 0.0
        self._losses: list[Tensor] = []
        self._closed = False
        if steps is not None:
            self._train(float(lr or 0), steps)

    def __repr__(self) -> str:
        m = len(self.samples)
        return f"LossPathKernel({m} x {m} of {self.network.n} samples, {self.steps} steps{', closed' if self._closed else ''})"

    # along the trajectory ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The number of steps recorded."""
        return len(self._losses) - int(self._closed)

    def record(self, model: nn.Module, lr: float | None = None) -> None:
        """Add the step of size ``lr`` (by default that of the constructor) that the model is about to take from where it stands.

        Parameters and buffers are read; the gradients are taken in evaluation mode, at weights times masks. Raises ``PKC529``.
        """
        size = self.lr if lr is None else plain(lr, float)
        raise_all(_wrong_arguments(size, None, "mse"))
        if size is None:
            raise fail("PKC529", "no learning rate is given", "record(model, lr), or LossPathKernel(model, data, lr)")
        if self._closed:
            raise fail("PKC529", "the trajectory is closed", "record further steps in a LossPathKernel of their own")
        self._add(self._read(model), size)

    def close(self, model: nn.Module) -> None:
        """Read the losses after the last step. Raises ``PKC529`` where no step was recorded, or it is closed already."""
        if self._closed or not self._losses:
            raise fail("PKC529", "the trajectory is closed" if self._closed else "no step was recorded", "record(model, lr)")
        self._end(self._read(model))

    def _train(self, lr: float, steps: int) -> None:
        theta: Theta = {n: t.clone() for n, t in self.network.theta.items()}
        for _ in range(steps):
            gradient = self._add(theta, lr)
            theta = {n: t - lr * gradient[n] for n, t in theta.items()}
        self._end(theta)

    def _add(self, theta: Theta, lr: float) -> dict[str, Tensor]:
        """One step from ``theta``; returns the gradient of the training loss there."""
        self._move(theta)
        self._losses.append(self._finite(self._all.values()))
        n = self.network.n
        gradient = self._all.vjp(self._kernel.new_full((n,), 1 / n))
        self._kernel += lr * self._chosen.gram()
        self._fallen += lr * self._chosen.jvp(gradient)
        self._explained += lr * float(gradient.square().sum())
        return self._all.map.named(gradient)

    def _move(self, theta: Theta) -> None:
        """Further derivatives are taken at ``theta``."""
        for jacobian in (self._all, self._chosen):
            jacobian.map = replace(jacobian.map, theta=dict(theta))

    def _end(self, theta: Theta) -> None:
        self._move(theta)
        self._losses.append(self._finite(self._all.values()))
        self._closed = True

    def _finite(self, losses: Tensor) -> Tensor:
        if bool(losses.isfinite().all()):
            return losses
        raise fail("PKC529", f"the loss is not finite after {len(self._losses)} steps", "take a smaller learning rate")

    def _read(self, model: nn.Module) -> Theta:
        """The model's parameters; its buffers become the network's."""
        named = {n: p.detach() for n, p in model.named_parameters()}
        expected = {**self.network.theta, **self.network.fixed}
        own, buffers = (dict(m.named_buffers()) for m in (self.network.module, model))
        wrong = [n for n, t in expected.items() if n not in named or named[n].shape != t.shape]
        wrong += [n for n, t in own.items() if n not in buffers or buffers[n].shape != t.shape]
        if wrong or len(named) != len(expected) or len(buffers) != len(own):
            shown = ", ".join(wrong[:3]) or "it has others besides"
            raise fail("PKC529", f"this is not the model that the trajectory began with: {shown}", "record the model itself")
        for name, buffer in buffers.items():
            own[name].copy_(buffer)
        return {n: named[n].to(t).clone() for n, t in self.network.theta.items()}

    # results ----------------------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Tensor:
        """K_T [m, m] of the chosen samples. Raises ``PKC529`` where no step was recorded."""
        if not self._losses:
            raise fail(
                "PKC529", "no step was recorded", "record(model, lr) before every step of your loop, close(model) at the end"
            )
        return self._kernel

    def losses(self) -> Tensor:
        """The training loss before every step and after the last [steps + 1] (without the last until it is closed)."""
        return torch.stack([values.mean() for values in self._losses])

    def drops(self) -> Tensor:
        """By how much the loss of each chosen sample fell from the first step to the end [m]."""
        self._require_end()
        return (self._losses[0] - self._losses[-1])[self.samples]

    def explained(self) -> Tensor:
        """(1/n) sum_j K_T(z, z_j) over all training samples z_j, of each chosen sample z [m]: ``drops()`` up to O(lr)."""
        self._require_end()
        return self._fallen

    def identity(self) -> Identity:
        """The drop of the training loss beside what the kernel explains of it; of full-batch descent, whatever was recorded."""
        self._require_end()
        ends = self.losses()
        drop = float(ends[0] - ends[-1])
        apart = abs(drop - self._explained)
        return Identity(drop, self._explained, apart / abs(drop) if drop else (math.inf if apart else 0.0))

    def _require_end(self) -> None:
        if not self._closed:
            raise fail("PKC529", "the trajectory has no end yet", "call close(model) after the last step")

    def _refuse(self, item: int) -> None:
        """``PKC525`` where the sum and the step that is added to it do not fit."""
        m = len(self.samples)
        needed = 2 * m * m * item
        if needed > self.memory:
            raise fail(
                "PKC525",
                f"the Loss Path Kernel of {m} samples takes {shown_bytes(needed)}; the limit is {shown_bytes(self.memory)}",
                f"choose fewer (samples=range({max(m // 10, 1)})), or give memory={needed * 2}",
            )


def _wrong_arguments(lr: Any, steps: Any, loss: Any) -> list[Diagnostic]:
    found = []
    number = isinstance(lr, int | float) and math.isfinite(lr) and lr > 0
    if not number and not (lr is None and steps is None):
        found.append(Diagnostic("PKC529", f"lr = {lr!r} is no learning rate", notes=("give a positive number, e.g. lr=0.1",)))
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        found.append(Diagnostic("PKC529", f"steps = {steps!r} is no number of steps", notes=("give a whole number from 1 on",)))
    if not callable(loss) and loss not in ("cross-entropy", "mse"):
        last = "expected 'cross-entropy', 'mse', or a function of (output, target)"
        found.append(Diagnostic("PKC529", f"there is no loss {loss!r}", notes=(last,)))
    return found


def _indices(samples: Sequence[int] | Tensor | None, n: int) -> Tensor:
    if samples is None:
        return torch.arange(n)
    chosen = torch.as_tensor(samples if isinstance(samples, Tensor) else list(samples)).reshape(-1)
    if chosen.dtype != torch.int64 or not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= n:
        raise fail("PKC529", f"samples are no indices from 0 to {n - 1}", "e.g. samples=range(10)")
    return chosen


def _chosen(map: TangentMap, samples: Tensor) -> TangentMap:
    return map if len(samples) == map.count else replace(map, units=tuple(t[samples.to(t.device)] for t in map.units))


def _loss_map(found: ModelAtData, data: Any, loss: str | Loss) -> TangentMap:
    """The loss of one sample as a function of the parameters: a unit is the sample's inputs and its target."""
    y = _given(found, data) if callable(loss) else require(targets(found, data), "the loss")
    if loss == "cross-entropy" and (not found.shape or found.shape[-1] < 2):
        raise fail("PKC529", "a cross-entropy needs an output per class, and there is one", 'use loss="mse"')
    per_sample = loss if callable(loss) else _cross_entropy if loss == "cross-entropy" else _squared
    varying = tuple(t for t in found.flat if is_batched(t))

    def function(theta: Theta, unit: tuple[Tensor, ...]) -> Tensor:
        given = iter(unit[:-1])
        output = found.at(theta, tuple(next(given)[None] if is_batched(t) else t for t in found.flat))
        with blaming("the loss"):
            value = per_sample(output, unit[-1][None])
        return _one_entry(value)

    return TangentMap(function, found.theta, (*varying, y), 1)


def _one_entry(value: Any) -> Tensor:
    """The loss of one sample [1]; here every sample counts once, so a sum and its weight are refused."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(1)
    shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise fail("PKC529", f"the loss of one sample is {shown}", "return a tensor with one entry: all samples count once here")


def _given(found: ModelAtData, data: Any) -> Tensor:
    y = data[1] if isinstance(data, tuple | list) and len(data) > 1 else None
    if not isinstance(y, Tensor) or not y.dim() or len(y) != found.n:
        raise PkcError(Diagnostic("PKC527", f"the loss reads targets of {found.n} samples", notes=("pass data=(x, y)",)))
    return y.to(next(iter(found.theta.values())).device)


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.reshape(-1) - target.reshape(-1)).square().sum() / 2


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return -(F.log_softmax(output, -1).reshape(-1) * target.reshape(-1)).sum()
