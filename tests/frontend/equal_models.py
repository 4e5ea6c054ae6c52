"""A function between two linear maps, and the figures that its writings must share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pkcompiler.frontend.capture import capture
from pkcompiler.ir.maps import Softmax
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.paths.certificate import certify_capture
from pkcompiler.paths.functional import functional_of
from pkcompiler.paths.semiring import settings

Form = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two linear maps of the last dimension, beside a skip."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.form = nn.Linear(4, 4), nn.Linear(4, 2), form
        self.w, self.v = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        return self.o(z + self.form(z) * self.w + self.v)


def figures(model: nn.Module, x: Tensor, *, softmax: str | None = None) -> list[float]:
    """R_1, R_2, the sizes of their derivatives, the number of paths, and the trace of the Path Kernel, of a graph that is certified
    at ``x``.

    ``softmax``: what one of its softmaxes allows.
    """
    captured = capture(model, x, dtype=torch.float64)
    assert certify_capture(captured).holds
    assert softmax is None or any(isinstance(op.map, Softmax) and op.map.allowed == softmax for op in captured.graph.ops)
    squares = settings(edge="theta^2", pools="sum", constants="on")
    masses = [functional_of(captured, chosen) for chosen in (settings(), squares)]
    slopes = [float(grad.square().sum()) * 4.0**mass.exponent for mass in masses for name, grad in sorted(mass.grad.items())]
    count = functional_of(captured, settings(edge="1")).count
    return [
        *(mass.value for mass in masses),
        *slopes,
        count or 0,
        kernel_of(captured.graph, captured.tensors, squares, {}).trace().value,
    ]
