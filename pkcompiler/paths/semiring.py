"""Edge transforms and the settings of a path functional (docs/theory.md, section 2): values, not classes with behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.frontend.precision import check_dtype


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge transform t, the power q of the fixed factors, and whether paths keep their sign."""

    name: str
    transform: Callable[[Tensor], Tensor]
    power: int
    signed: bool = False


EDGES: dict[str, Edge] = {
    "abs(theta)": Edge("abs(theta)", torch.abs, 1),
    "theta^2": Edge("theta^2", torch.square, 2),
    "theta": Edge("theta", torch.clone, 1, signed=True),
    "1": Edge("1", torch.ones_like, 0),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that fixes a path functional but its input, its output and its masks. Names and defaults as in the language."""

    edge: str = "abs(theta)"
    gates: Literal["open", "data", "data^2"] = "open"
    pools: Literal["max", "sum", "data"] = "max"
    norms: Literal["unit", "data"] = "unit"
    products: Literal["pairs", "value", "either"] = "pairs"
    constants: Literal["off", "on"] = "off"
    dtype: torch.dtype = torch.float64

    @property
    def reads_data(self) -> bool:
        """Whether gates, pools or norms are those at the data."""
        return "data" in (self.gates, self.pools, self.norms) or self.gates == "data^2"

    @property
    def transform(self) -> Edge:
        """The transform t of ``edge``."""
        return EDGES[self.edge]

    @property
    def slope_power(self) -> int:
        """r: the power of the gate slopes."""
        return 2 if self.gates == "data^2" else 1

    @property
    def gain_power(self) -> int:
        """q - r: the power of the gates' gains, beside that of their slopes (docs/theory.md, section 1)."""
        return self.transform.power if self.gates == "open" else self.transform.power - self.slope_power

    @property
    def norm_power(self) -> int:
        """The power of observed deviations: that of the slopes, or without them that of the edge."""
        if self.gates != "open":
            return self.slope_power
        return 2 if self.edge == "theta^2" else 1


CHOICES = {
    "edge": tuple(EDGES),
    "gates": ("open", "data", "data^2"),
    "pools": ("max", "sum", "data"),
    "norms": ("unit", "data"),
    "products": ("pairs", "value", "either"),
    "constants": ("off", "on"),
}


def settings(**given: object) -> Settings:
    """Checked settings; raises ``PKC501`` for a value that does not exist."""
    for name, value in given.items():
        allowed = CHOICES.get(name)
        if allowed and value not in allowed:
            raise fail("PKC501", f"path_functional has no {name} = {value!r}", f"expected one of {', '.join(map(repr, allowed))}")
    if (dtype := given.get("dtype")) is not None:
        check_dtype(dtype)
    return Settings(**given)  # type: ignore[arg-type]
