"""What every function computes in an analysis, by its name, where it is not what it computes in a pass."""

from __future__ import annotations

from collections import ChainMap

from pkcompiler.analyses.functions import collapse, dynamics, kernels, paths
from pkcompiler.analyses.functions.figure import Binding

_THEMES = (kernels, dynamics, collapse, paths)

VALUES: ChainMap[str, Binding] = ChainMap(*(theme.VALUES for theme in _THEMES))
