"""What every function computes in an analysis, by its name, where it is not what it computes in a pass."""

from __future__ import annotations

from collections import ChainMap

from pkcompiler.analyses.functions import collapse, curves, kernels, paths
from pkcompiler.analyses.functions.figure import Binding

VALUES: ChainMap[str, Binding] = ChainMap(kernels.VALUES, curves.VALUES, collapse.VALUES, paths.VALUES)
