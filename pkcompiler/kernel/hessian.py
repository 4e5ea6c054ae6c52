"""R_2 differentiated once, with the graph of its gradient kept: products with its Hessian (docs/theory.md, section 3).

A product is one reverse pass through the kept graph of the first reverse pass, six convolutions a layer where a plain pass has
three. Forward over reverse (dual numbers) takes nine, since the values of the two sweeps are computed again with every product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pkcompiler.modes import methods_in_own_modes
from pkcompiler.paths.functional import weigh
from pkcompiler.paths.scaled import Scaled, times_power
from pkcompiler.paths.sweep import Sweep

REACH = {torch.float64: 400, torch.float32: 40}
"""Powers of two up to which a number and its square are plain floats with room to spare; beyond, the exponent is carried."""


@methods_in_own_modes
class Hessian:
    """R_2 as a function of w = theta^2 of the ``wanted`` parameters (all by default), the others fixed.

    ``squares``: w times the mask, by name. ``output``: ``"ones"``, a position in the flattened output, or a tensor of weights.
    Attributes: ``value`` (0-d tensor), ``tau`` (dR_2/dw by name), ``exponent`` (carried by every number; 0 unless floats would
    overflow).
    """

    def __init__(
        self,
        sweep: Sweep,
        squares: Mapping[str, Tensor],
        sources: Mapping[str, Tensor],
        wanted: Sequence[str],
        output: Any = "ones",
    ) -> None:
        self.names = tuple(wanted)
        self.squares = {name: w.detach().requires_grad_(name in self.names) for name, w in squares.items()}
        with torch.enable_grad():
            root = plain(_weighed(sweep.run(self.squares, sources), output))
            leaves = [self.squares[name] for name in self.names]
            connected = root.tensor.requires_grad
            first = torch.autograd.grad(root.tensor, leaves, create_graph=True, allow_unused=True) if connected else ()
        found = dict(zip(self.names, first, strict=True)) if connected else {}
        self.value, self.exponent = root.tensor.detach(), root.exponent
        self.tau = {n: torch.zeros_like(self.squares[n]) if found.get(n) is None else found[n].detach() for n in self.names}
        self._live = {n: g for n, g in found.items() if g is not None and g.requires_grad}

    def product(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """H d for ``direction`` by name (a missing name is 0), at ``exponent``; names whose row is 0 throughout are left out.

        The Hessian is symmetric, so a reverse pass through the gradient is a product.
        """
        chosen = [n for n in self._live if n in direction]
        if not chosen:
            return {}
        outputs, vectors = [self._live[n] for n in chosen], [direction[n] for n in chosen]
        leaves = [self.squares[n] for n in self.names]
        pulled = torch.autograd.grad(outputs, leaves, vectors, retain_graph=True, allow_unused=True)
        return {n: h for n, h in zip(self.names, pulled, strict=True) if h is not None}


def _weighed(value: Scaled, output: Any) -> Scaled:
    """The output entries weighted and summed, or one of them alone."""
    if isinstance(output, int) and not isinstance(output, bool):
        return Scaled(value.tensor.reshape(-1)[output], value.exponent)
    return weigh(value, output)


def plain(value: Scaled) -> Scaled:
    """The value without exponent, where its derivatives and their squares are plain floats too."""
    if value.exponent == 0 or abs(value.exponent) > REACH[value.tensor.dtype]:
        return value
    return Scaled(times_power(value.tensor, value.exponent))
