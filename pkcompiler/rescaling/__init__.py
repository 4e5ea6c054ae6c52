"""Function-preserving rescaling of the units of a network (docs/rescaling.md)."""

from pkcompiler.rescaling.objective import Figures
from pkcompiler.rescaling.rescale import Rescaled, rescale
from pkcompiler.rescaling.units import LeftAlone

__all__ = ["Figures", "LeftAlone", "Rescaled", "rescale"]
