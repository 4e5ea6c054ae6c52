"""What every function of a pass computes, by its name."""

from __future__ import annotations

from collections import ChainMap

from pkcompiler.scoring.functions import after, arithmetic, chance, derivatives, noise, outputs, paths, squares
from pkcompiler.scoring.functions.balance import balance
from pkcompiler.scoring.functions.evaluation import Binding
from pkcompiler.scoring.functions.walks import visits

_THEMES = (paths, derivatives, arithmetic, chance, outputs, squares, noise, visits, balance, after)

VALUES: ChainMap[str, Binding] = ChainMap(*(theme.VALUES for theme in _THEMES))
