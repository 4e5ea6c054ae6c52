"""Scores that are orders: ``walks`` in which random walks visit the weights, ``balance`` in which they are taken."""

from __future__ import annotations

from pkcompiler.scoring.functions.evaluation import Binding
from pkcompiler.scoring.functions.orders.balance import balance
from pkcompiler.scoring.functions.orders.walks import visits

VALUES: dict[str, Binding] = {**visits.VALUES, **balance.VALUES}
