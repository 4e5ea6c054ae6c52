"""Scalar nonlinearities: value, value at 0, and slope (phi(z) - phi(0)) / z, with the derivative at z = 0 (ReLU: 0)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phi:
    """``value`` of z, ``zero`` = phi(0), ``derivative`` = phi'(0), ``gain`` = the supremum of abs(slope), worked out by hand."""

    value: Callable[[float], float]
    zero: float
    derivative: float
    gain: float = 1.0

    def slope(self, z: float) -> float:
        return self.derivative if z == 0.0 else (self.value(z) - self.zero) / z


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


GATES: dict[str, Phi] = {
    "relu": Phi(lambda z: max(z, 0.0), 0.0, 0.0),
    "leaky": Phi(lambda z: z if z > 0 else 0.1 * z, 0.0, 0.1),
    "silu": Phi(lambda z: z * sigmoid(z), 0.0, 0.5),
    "gelu": Phi(lambda z: z * 0.5 * (1.0 + math.erf(z / math.sqrt(2.0))), 0.0, 0.5),
    "gelu_tanh": Phi(lambda z: 0.5 * z * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))), 0.0, 0.5),
    "tanh": Phi(math.tanh, 0.0, 1.0),
    "sin": Phi(lambda z: math.sin(3.0 * z), 0.0, 3.0, 3.0),
    "sigmoid": Phi(sigmoid, 0.5, 0.25, 0.25),
    "cos": Phi(math.cos, 1.0, 0.0, math.sin(2.331122370414423)),
}

BOUNDED = ("tanh", "sin", "sigmoid", "cos")
"""Whose values stay between two numbers."""
