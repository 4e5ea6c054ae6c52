"""The state of a training run: recorded as copies on the CPU, restored in place, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from pkcompiler.lowering.apply import applied_masks, replace_masks
from pkcompiler.training.randomness import Generators, random_state, set_random_state

Masks = Mapping[str, Tensor]


class Stateful(Protocol):
    """A learning-rate scheduler, a gradient scaler, an average of weights."""

    def state_dict(self) -> Any:
        """All that it holds."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over what ``state_dict`` gave."""


class NotTaken(Exception):
    """A state that its owner refuses, with what that has raised as its cause."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training changes: a model, its optimizer, others that hold state (by name), and generators.

    ``averages``: networks of the same parameters that the masks are held on, too.
    """

    model: nn.Module
    optimizer: Optimizer
    others: Mapping[str, Stateful] = field(default_factory=dict)
    generators: Generators = ()
    averages: list[nn.Module] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Parameters, buffers (those that no ``state_dict`` holds, too), optimizer, others and random states, copied."""
        return {
            "parameters": {n: _copied(p) for n, p in self.model.named_parameters()},
            "buffers": {n: _copied(b) for n, b in self.model.named_buffers()},
            "extra": {path: _copied(m.get_extra_state()) for path, m in self.with_extra_state().items()},
            "optimizer": _copied(self.optimizer.state_dict()),
            "others": {name: _copied(other.state_dict()) for name, other in self.others.items()},
            "random": random_state(self.generators),
        }

    def restore(self, recorded: Mapping[str, Any], masks: Masks) -> None:
        """Go back to what was recorded, under ``masks``: what they prune is zero, in the optimizer's state too."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(recorded["parameters"][name])
                parameter.grad = None
            for name, buffer in self.model.named_buffers():
                buffer.copy_(recorded["buffers"][name])
        for path, module in self.with_extra_state().items():
            _take(module.set_extra_state, recorded["extra"][path], f"the module '{path}'")
        _take(self.optimizer.load_state_dict, recorded["optimizer"], "the optimizer")
        for name, other in self.others.items():
            _take(other.load_state_dict, recorded["others"][name], f"'{name}'")
        self.keep(masks)
        set_random_state(recorded["random"], self.generators)

    def keep(self, masks: Masks) -> None:
        """Hold the masks from now on: what they prune is zero, and so are its gradients and the optimizer's state of it.

        What they regain starts at zero, with no history. What they kept stays as it is, also where a swap removed it and chose it
        again: no earlier masks pruned it (Evci et al. 2020 as released).
        """
        held = applied_masks(self.model)
        some = {n: m for n, m in masks.items() if n in held or not bool(m.all())}
        if not some:
            return
        for network in (self.model, *self.averages):
            replace_masks(network, some)
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, mask in some.items():
                self._forget(parameters[name], ~mask)

    def _forget(self, parameter: Tensor, pruned: Tensor) -> None:
        for value in self.optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
                value.masked_fill_(pruned.to(value.device), 0)

    def with_extra_state(self) -> dict[str, nn.Module]:
        """The model's modules with a ``get_extra_state`` of their own, by path."""
        plain = nn.Module.get_extra_state
        return {path: m for path, m in self.model.named_modules() if type(m).get_extra_state is not plain}


def _take(load: Callable[[Any], object], state: Any, owner: str) -> None:
    try:
        load(copy.deepcopy(state))
    except Exception as error:
        raise NotTaken(f"{owner} does not take its state: {type(error).__name__}: {error}") from error


def _copied(state: Any) -> Any:
    """A state with its tensors copied to the CPU and everything else copied deeply."""
    moved = pytree.tree_map(lambda v: v.detach().to("cpu", copy=True) if isinstance(v, Tensor) else v, state)
    return copy.deepcopy(moved)
