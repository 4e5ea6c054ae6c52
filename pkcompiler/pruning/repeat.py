"""Repetitions of a pass: fresh ``noise()``, fresh initial weights and fresh dropout in each; the score is their mean."""

from __future__ import annotations

from dataclasses import replace

from pkcompiler.kernel.initial import seeded
from pkcompiler.lang.ast import Pass
from pkcompiler.pruning import fresh, terms
from pkcompiler.pruning.draws import Draw
from pkcompiler.pruning.evaluate import Evaluator
from pkcompiler.pruning.terms import PARAM, Term
from pkcompiler.pruning.workspace import Workspace


def repeated(chosen: Pass, work: Workspace, seed: int, moment: tuple[int, int] = (0, 0)) -> Term:
    """The mean score over ``repeat`` draws, detached. ``moment``: the stage (from 0) and round (from 1) that draws belong to."""
    total = single(chosen, work, Draw(seed, moment))
    for repetition in range(1, chosen.repeat):
        total = terms.binary("+", total, single(chosen, work, Draw(seed, moment, repetition)))
    return total if chosen.repeat == 1 else terms.binary("/", total, terms.number(chosen.repeat, work.dtype))


def single(chosen: Pass, work: Workspace, draw: Draw) -> Term:
    """The score [param] of one repetition. The model, its buffers and the global random state are as before."""
    here = replace(work, draws=draw.number("run"))
    if chosen.init is not None:
        here = fresh.initialised(here, chosen.init, draw)
    with seeded(here.draws):
        term = Evaluator(dict(chosen.lets), here, draw.seed, draw=draw).evaluate(chosen.score)
    work.keep_mass(here)
    if term.axes != PARAM:
        term = Term(PARAM, {n: term.tensor.expand_as(t) for n, t in work.theta.items()}, term.exponent)
    return terms.detach(term)
