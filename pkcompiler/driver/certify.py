"""Certify: is the path graph of an opened model the model?"""

from __future__ import annotations

import torch
from torch import Tensor

from pkcompiler.driver.open import Opened
from pkcompiler.frontend.inputs import Inputs
from pkcompiler.modes import in_own_modes
from pkcompiler.paths.certificate import Certificate, certify_capture


@in_own_modes
def certificate(opened: Opened) -> Certificate:
    """The certificates in float64, at standard normal inputs of the example's shapes (integer inputs as they are)."""
    return certify_capture(opened.capture(torch.float64, random_inputs(opened.inputs, opened.seed)))


def random_inputs(inputs: Inputs, seed: int) -> Inputs:
    """Floating tensors drawn anew from a standard normal distribution."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

    return Inputs(tuple(drawn(t) for t in inputs.args), {name: drawn(t) for name, t in inputs.kwargs.items()})
