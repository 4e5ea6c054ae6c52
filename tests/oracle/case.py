"""Tiny networks, each written twice side by side: as a torch module and as a :class:`Dag` of scalars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from oracle.dag import Dag

SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """``example_inputs``: one float64 (or int64) tensor, batch 1. ``data``: SAMPLES inputs in [0, 1], ``signed``: of either sign.

    ``piecewise``: slopes are locally constant and nothing is frozen, so that the frozen-gate gradient is the gradient.
    ``vocabulary``: of an integer input. ``factors``: has modulators, deviations or softmax entries. ``products``: of activations.
    """

    name: str
    module: nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    dag: Dag
    data: torch.Tensor
    signed: torch.Tensor
    piecewise: bool = False
    vocabulary: int = 0
    factors: bool = False
    products: bool = False

    @property
    def theta(self) -> np.ndarray:
        """All parameters, flat, in the order of ``dag.parameters``."""
        return np.concatenate([p.detach().numpy().reshape(-1) for p in self.module.parameters()])

    def encode(self, x: torch.Tensor) -> np.ndarray:
        """[samples, ...] to [samples, inputs]: flat, or one-hot rows of the vocabulary."""
        if self.vocabulary:
            x = nn.functional.one_hot(x, self.vocabulary).double()
        return x.reshape(len(x), -1).numpy()

    def flat(self, tensors: dict[str, torch.Tensor]) -> np.ndarray:
        """A mapping by parameter name, as a vector in the order of ``dag.parameters``; missing names are ones."""
        return np.concatenate(
            [tensors.get(n, torch.ones_like(p)).detach().double().numpy().reshape(-1) for n, p in self.module.named_parameters()]
        )

    def parameter_index(self, name: str, position: int) -> int:
        return self.dag.index[name, position]


FAMILIES: dict[str, Callable[[], Case]] = {}


def family(*shape: int, piecewise: bool = False, vocabulary: int = 0, factors: bool = False, products: bool = False):
    """Register ``build(dag, module, x) -> output nodes``, a static method ``dag`` of a module class, under the class's name."""

    def register(module_class: type[nn.Module]) -> type[nn.Module]:
        name = "".join("_" + c.lower() if c.isupper() else c for c in module_class.__name__).strip("_")

        def make() -> Case:
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            module = module_class().double().eval()
            for tensor in module.parameters():
                tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            for key, tensor in module.named_buffers():
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                if key.endswith("running_var"):
                    tensor.copy_(drawn + 0.3)
                elif key.endswith("running_mean"):
                    tensor.copy_(drawn - 0.4)
            dag = Dag(module)
            x = dag.input(*shape, vocabulary) if vocabulary else dag.input(*shape)
            dag.outputs = tuple(int(n) for n in module.paths(dag, x).reshape(-1))
            if vocabulary:
                data = signed = torch.randint(vocabulary, (SAMPLES, *shape), generator=generator)
            else:
                data = torch.rand((SAMPLES, *shape), generator=generator, dtype=torch.float64)
                signed = torch.randn((SAMPLES, *shape), generator=generator, dtype=torch.float64)
            return Case(name, module, (signed[:1],), dag, data, signed, piecewise, vocabulary, factors, products)

        FAMILIES[name] = make
        return module_class

    return register
