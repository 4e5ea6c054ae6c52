"""Reserved names: values that need no declaration, one record each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reserved:
    """``axes``: of its value, separated by blanks. ``moves``: grad sees it. ``data``: it reads data.

    ``anew``: it has another value at other weights, which ``after`` may read. ``legend``: a line below every formula that reads it.
    """

    name: str
    axes: str
    doc: str
    moves: bool = False
    data: bool = False
    anew: bool = False
    legend: str = ""


NAMES = {
    name.name: name
    for name in (
        Reserved("theta", "param", "the stored, unmasked value of every floating parameter", moves=True),
        Reserved("mask", "param", "the 0/1 mask at the start of the round"),
        Reserved(
            "prunable",
            "param",
            "1 for every entry that may be pruned (after include, before except), else 0",
            legend="prunable_i = 1 where a pass may prune (after include, before except), else 0",
        ),
        Reserved("data", "sample input", "the inputs of the data", data=True),
        Reserved(
            "loss",
            "",
            "the mean loss over all samples, at theta * mask",
            moves=True,
            data=True,
            anew=True,
            legend="loss = the mean loss over all samples, at theta * mask",
        ),
        Reserved(
            "losses",
            "sample",
            "the loss of every sample alone, at theta * mask",
            moves=True,
            data=True,
            legend="losses_n = the loss of sample n alone, at theta * mask",
        ),
        Reserved("samples", "", "how many samples the data have", data=True),
        Reserved(
            "output",
            "sample output",
            "the output of the model on the data, at theta * mask",
            moves=True,
            data=True,
            anew=True,
        ),
    )
}
