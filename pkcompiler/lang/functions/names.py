"""Reserved names: values that need no declaration, one record each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reserved:
    """``axes``: of its value, separated by blanks. ``moves``: grad sees it. ``data``: it reads data.

    ``anew``: it has another value at other weights, which ``after`` may read.
    """

    name: str
    axes: str
    doc: str
    moves: bool = False
    data: bool = False
    anew: bool = False


NAMES = {
    name.name: name
    for name in (
        Reserved("theta", "param", "the stored, unmasked value of every floating parameter", moves=True),
        Reserved("mask", "param", "the 0/1 mask at the start of the round"),
        Reserved("prunable", "param", "1 for every entry that may be pruned (after include, before except), else 0"),
        Reserved("data", "sample input", "the inputs of the data", data=True),
        Reserved("loss", "", "the mean loss over all samples, at theta * mask", moves=True, data=True, anew=True),
        Reserved("losses", "sample", "the loss of every sample alone, at theta * mask", moves=True, data=True),
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
