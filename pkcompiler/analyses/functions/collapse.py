"""At which compression a pass leaves nothing of each parameter tensor (layer collapse, Tanaka et al. 2020, arXiv:2006.05467)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from pkcompiler.analyses.functions.figure import Binding, Figures, Mark
from pkcompiler.analyses.source import Source
from pkcompiler.lang.ast import Name, Pass, Schedule, Stage, Text, Typed
from pkcompiler.lang.plan import plan_of
from pkcompiler.measured import Measured
from pkcompiler.pruning.collapse import Collapsed
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.evidence import Evidence
from pkcompiler.selection.candidates import candidates

PER_DECADE = 4
"""Compressions that are tried to a factor of 10."""


def collapse(source: Source, pass_: Pass, until: float) -> tuple[dict[str, Measured], str]:
    """The first compression 10^(k/4) at which nothing is kept of each prunable parameter, as a bound; the notes bracket it.

    A pass of several rounds is run once, one round for each compression; a pass of one round anew for each. The run ends at
    ``until``, or where no path is left, which the second result says: what is kept there is alive at least up to there.
    """
    found = candidates(source.graph)
    steps = [k for k in range(1, _last(until) + 1) if found.total >= compression(k)]
    died: dict[str, int] = {}
    before = {n for n in found.competing if n in source.masks and not bool(source.masks[n].any())}
    last, whole = 0, True
    for k, masks, connected in _states(source, pass_, steps):
        last, whole = k, connected
        for name in found.competing:
            if name not in died and not bool(masks[name].any()):
                died[name] = k
    ended = "" if whole else f"no path is left at {compression(last):.4g}"
    return {n: _measured(died.get(n), last, n in before) for n in found.competing}, ended


def compression(k: int) -> float:
    """10^(k/4)."""
    return float(10 ** (k / PER_DECADE))


def _last(until: float) -> int:
    """The last k with 10^(k/4) <= until, but at least 1."""
    return max(1, math.floor(PER_DECADE * math.log10(until) + 1e-9))


def _measured(k: int | None, last: int, empty: bool) -> Measured:
    if empty:
        return Measured(1.0, note="empty to begin with")
    if k is None:
        return Measured(compression(last), status="bound", note=f"> {compression(last):.4g}")
    note = f"{compression(k - 1):.4g} < c <= {compression(k):.4g}"
    return Measured(compression(k), status="bound", note=note)


def _states(source: Source, pass_: Pass, steps: list[int]) -> Iterator[tuple[int, Mapping[str, Tensor], bool]]:
    """k, the masks at 10^(k/4), and whether a path is left; ends with the first state that has none."""
    runs = [steps] if pass_.rounds > 1 else [[k] for k in steps]
    for part in runs:
        try:
            for k, state in zip(part, _run(source, pass_, part).rounds(masks=source.masks), strict=True):
                yield k, state.masks, True
        except Collapsed as error:
            yield part[error.reached.stage], error.reached.masks, False
            return


def _run(source: Source, pass_: Pass, steps: list[int]) -> Run:
    """One stage of one round for each compression."""
    stages = tuple(Stage(pass_.name, 1 / compression(k), ("compression", compression(k)), rounds=1) for k in steps)
    schedule = Schedule(pass_.name, source.seed, None, stages, "", ((pass_.name, pass_),))
    evidence = Evidence(source.data, source.loss, source.batch, source.initialise)
    return Run(source.capture, plan_of(schedule=schedule), source.dtype, evidence, state=source.tensors)


def _value(figures: Figures, node: Typed) -> dict[str, Measured]:
    (named,) = node.call.args
    assert isinstance(named, Name | Text)
    found, ended = collapse(figures.source, figures.pass_named(named.value), float(node.words["until"]))
    figures.mark(node, Mark("bound", ended))
    return found


VALUES: dict[str, Binding] = {"collapse": _value}
