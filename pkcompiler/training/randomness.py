"""The random states of a training run: python, numpy, torch, CUDA, MPS, and the generators of loaders."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Generators = Sequence[torch.Generator]


def random_state(generators: Generators) -> dict[str, Any]:
    """All states, as a tree of plain values and tensors that :func:`set_random_state` takes. Draws nothing."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "generators": [g.get_state().clone() for g in generators],
    }


def set_random_state(state: Mapping[str, Any], generators: Generators) -> None:
    """Go back to the states that :func:`random_state` gave (of devices that this machine has)."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    for device, found in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(found, device)
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    for generator, found in zip(generators, state["generators"], strict=True):
        generator.set_state(found)


@contextmanager
def untouched_random(generators: Generators) -> Iterator[None]:
    """Whatever is drawn inside, the states are afterwards what they were before."""
    before = random_state(generators)
    try:
        yield
    finally:
        set_random_state(before, generators)


def generators_of(loader: object, more: Iterable[torch.Generator] = ()) -> tuple[torch.Generator, ...]:
    """The generators that a loader and its samplers hold, and others, each once."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    held = [getattr(holder, "generator", None) for holder in holders]
    found = [g for g in (*held, *more) if isinstance(g, torch.Generator)]
    return tuple({id(g): g for g in found}.values())
