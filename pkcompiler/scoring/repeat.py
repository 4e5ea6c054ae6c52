"""Repetitions of a pass: fresh ``noise()``, fresh initial weights and fresh dropout in each; the score is their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pkcompiler.lang.ast import Pass
from pkcompiler.measured import scaled_float
from pkcompiler.paths.scaled import numbers
from pkcompiler.predict.initial import seeded
from pkcompiler.scoring import terms
from pkcompiler.scoring.evaluate import Evaluator
from pkcompiler.scoring.functions import noise
from pkcompiler.scoring.random_streams import Draw
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import Workspace


def repeated(chosen: Pass, work: Workspace, seed: int, moment: tuple[int, int] = (0, 0)) -> tuple[Term, float | None]:
    """The mean score over ``repeat`` draws, detached, and its standard error: None of one draw.

    ``moment``: the stage (from 0) and round (from 1) that draws belong to. The standard error: the root of the sum of the squared
    errors of all scores, by that of the squared scores.
    """
    total = single(chosen, work, Draw(seed, moment))
    if chosen.repeat == 1:
        return total, None
    squares = [_squares(total)]
    for repetition in range(1, chosen.repeat):
        term = single(chosen, work, Draw(seed, moment, repetition))
        squares.append(_squares(term))
        total = total + term
    mean = total / terms.number(chosen.repeat, work.dtype)
    return mean, _standard_error(squares, _squares(mean))


def _squares(term: Term) -> tuple[float, int]:
    """The sum of the squares, and the exponent of 2 that goes with it."""
    return sum(numbers(t.double().square().sum() for t in term.tensors.values())), 2 * term.exponent


def _standard_error(each: Sequence[tuple[float, int]], mean: tuple[float, int]) -> float:
    if mean[0] == 0:
        return 0.0 if all(size == 0 for size, _ in each) else math.inf
    spread = sum(scaled_float(size / mean[0], exponent - mean[1]) for size, exponent in each) / len(each)
    return math.sqrt(max(0.0, spread - 1) / (len(each) - 1))


def single(chosen: Pass, work: Workspace, draw: Draw) -> Term:
    """The score [param] of one repetition. The model, its buffers and the global random state are as before."""
    here = replace(work, draws=draw.number("run"))
    if chosen.init is not None:
        here = noise.initialised(here, chosen.init, draw)
    with seeded(here.draws):
        term = Evaluator(here, draw.seed, draw=draw).evaluate(chosen.typed)
    work.keep_mass(here)
    if term.axes != PARAM:
        term = Term(PARAM, {n: term.tensor.expand_as(t) for n, t in work.theta.items()}, term.exponent)
    return terms.detach(term)
