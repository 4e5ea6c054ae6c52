"""Parameters that one path can cross twice, and their second derivatives H_ii (docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.kernel.operator import Differentiated, Operator
from pkcompiler.kernel.probes import signs, stream
from pkcompiler.paths.scaled import numbers

MOST = 4096
"""Entries that can be crossed twice, up to which each gets its own product."""

PROBES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """H_ii of the parameters that can be crossed twice (empty when estimated), and the sum of w_i H_ii with its standard error."""

    entries: Mapping[str, Tensor]
    total: float
    error: float | None = None
    note: str = ""


def second_derivatives(kernel: Differentiated, twice: Iterable[str], exact: bool) -> Squares:
    """H_ii of the slots ``twice``, one product for each of their kept entries; estimated by random signs where they are too many.

    Raises ``PKC521`` when ``exact`` is asked for and they are too many.
    """
    names = list(twice)
    if not names:
        return Squares({}, 0.0)
    places = crossed_places(kernel, names)
    count = sum(len(at) for at in places.values())
    if count <= MOST:
        entries = {n: _entries(kernel, n, places[n]) for n in names}
        return Squares(entries, float(sum((kernel.theta[n].square() * h).sum() for n, h in entries.items())))
    if exact:
        raise too_many(count)
    return _estimated(kernel, names)


def crossed_places(kernel: Operator, names: Iterable[str]) -> dict[str, Tensor]:
    """The positions (flattened) of entries that are not zero, by parameter."""
    return {n: (kernel.theta[n] != 0).reshape(-1).nonzero().reshape(-1) for n in names}


def too_many(count: int) -> PkcError:
    """The refusal of ``count`` products, ``PKC521``."""
    return fail(
        "PKC521",
        f"{count} parameter entries can be crossed twice by a path, and each of their diagonal entries is a product of its own",
        f"up to {MOST} are computed; restrict the kernel to a group, or use trace(), which estimates their part",
    )


def _entries(kernel: Differentiated, name: str, places: Tensor) -> Tensor:
    theta = kernel.theta[name]
    out = torch.zeros(theta.numel(), dtype=theta.dtype, device=theta.device)
    for place in places.tolist():
        unit = torch.zeros_like(out)
        unit[place] = 1.0
        second = kernel.hessian.product({name: unit.reshape(theta.shape)})
        if name in second:
            out[place] = second[name].reshape(-1)[place]
    return out.reshape(theta.shape)


def _estimated(kernel: Differentiated, names: list[str]) -> Squares:
    """The mean of (theta z)^T H (theta z) over random signs z (Hutchinson 1990)."""
    generator = stream(0)
    draws = []
    for _ in range(PROBES):
        drawn = {n: signs(kernel.theta[n], generator) for n in names}
        direction = {n: drawn[n] * kernel.theta[n] for n in names}
        second = kernel.hessian.product(direction)
        none = torch.zeros((), dtype=kernel.dtype, device=kernel.device)
        draws.append(sum(((direction[n] * second[n]).sum() for n in names if n in second), none))
    values = torch.tensor(numbers(draws), dtype=torch.float64)
    note = f"too many entries can be crossed twice by a path; their part is the mean of {PROBES} probes"
    return Squares({}, float(values.mean()), float(values.std() / PROBES**0.5), note)
