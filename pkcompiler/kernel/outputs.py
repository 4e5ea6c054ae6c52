"""The part of Tr Pi that reaches each output (h_k of docs/theory.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pkcompiler.kernel import hessian_diagonal
from pkcompiler.kernel.hessian import plain
from pkcompiler.kernel.operator import Differentiated, Operator
from pkcompiler.paths.scaled import Scaled, times_power


def traces_by_output(kernel: Differentiated, twice: Sequence[str]) -> Tensor:
    """h_k for every output at once: see ``PathKernel.traces_by_output``.

    With a weight d_k per output the trace is linear in d, and its derivative by d is h: one reverse pass through the kept graph
    of tau, and one for every entry of ``twice``, the parameters that a path can cross twice.
    """
    sweep, squares, sources = kernel.prepared()
    leaves = {n: squares[n].requires_grad_(n in kernel.names) for n in squares}
    with torch.enable_grad():
        value = sweep.run(leaves, sources)
        weights = torch.ones_like(value.tensor, requires_grad=True)
        root = plain(Scaled((value.tensor * weights).sum(), value.exponent))
        if not root.tensor.requires_grad:
            return torch.zeros_like(weights).detach()
        wanted = [leaves[n] for n in kernel.names]
        found = torch.autograd.grad(root.tensor, wanted, create_graph=True, allow_unused=True)
        first = {n: g for n, g in zip(kernel.names, found, strict=True) if g is not None and g.requires_grad}
        kept = [(first[n] * kernel.masks[n] if n in kernel.masks else first[n]).sum() for n in first]
        out = _by_weight(sum(kept[1:], kept[0]), weights)
        for name, places in _crossed(kernel, twice).items():
            for place in places.tolist() if name in first else ():
                (second,) = torch.autograd.grad(first[name].reshape(-1)[place], leaves[name], create_graph=True, allow_unused=True)
                if second is not None and second.requires_grad:
                    out += _by_weight(second.reshape(-1)[place], weights) * leaves[name].detach().reshape(-1)[place]
    return times_power(out, root.exponent - kernel.exponent)


def _by_weight(value: Tensor, weights: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def _crossed(kernel: Operator, twice: Sequence[str]) -> dict[str, Tensor]:
    places = hessian_diagonal.crossed_places(kernel, twice)
    count = sum(len(at) for at in places.values())
    if count > hessian_diagonal.MOST:
        raise hessian_diagonal.too_many(count)
    return places
