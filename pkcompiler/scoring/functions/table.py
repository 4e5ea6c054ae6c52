"""What every function of a pass computes, by its name."""

from __future__ import annotations

from collections import ChainMap

from pkcompiler.scoring.functions import after, arithmetic, chance, gradient, noise, orders, outputs, paths, second
from pkcompiler.scoring.functions.evaluation import Binding

_THEMES = (paths, gradient, arithmetic, chance, outputs, second, noise, orders, after)

VALUES: ChainMap[str, Binding] = ChainMap(*(theme.VALUES for theme in _THEMES))
