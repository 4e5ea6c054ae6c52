"""When rounds are due: against a walk over every epoch and step of small trainings; what never comes is refused at once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.ast import At, Stage
from pkcompiler.training.agenda import Agenda, check_agenda
from pkcompiler.training.schedule import load_schedule

SPANS = st.tuples(st.integers(1, 9), st.integers(0, 8), st.integers(1, 4))


def stage(at: At | None, rounds: int = 1, rewind: tuple[str, int] | None = None, name: str = "magnitude") -> Stage:
    return Stage(name, 0.1, ("density", 0.1), rounds=rounds, at=at, rewind=rewind)


def walked(agenda: Agenda, epochs: int, steps: int) -> list[tuple[int, int, int, int]]:
    """(stage, round, epoch, step) of every round, by asking at every moment of a training that never goes back."""
    done: list[tuple[int, int, int, int]] = []

    def ask(kind: str, number: int, epoch: int, step: int) -> None:
        while due := agenda.due(len(done), (kind, number)):
            done.append((due.stage, due.round, epoch, step))

    ask("start", 0, 0, 0)
    step = 0
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            step += 1
            ask("steps", step, epoch - 1, step)
        ask("epochs", epoch, epoch, step)
    ask("end", 0, epochs, step)
    return done


@given(st.sampled_from(["epochs", "steps"]), SPANS)
def test_visits_are_those_of_the_language(kind: str, span: tuple[int, int, int]) -> None:
    """first..last by every: after each of these, both ends included, the first is 1."""
    first, length, every = span
    last = first + length // every * every
    agenda = Agenda.of((stage(At(kind, first, last, every)),))
    found = walked(agenda, epochs=20, steps=2)
    numbers = [epoch if kind == "epochs" else step for _, _, epoch, step in found]
    assert numbers == [n for n in range(1, 41) if first <= n <= last and (n - first) % every == 0]
    assert [k for _, k, _, _ in found] == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    "text, visits",
    [
        ("epochs(2..4)", [(2, 6), (3, 9), (4, 12)]),
        ("epochs(3)", [(3, 9)]),
        ("epochs(1..4, every = 2)", [(1, 3), (3, 9)]),
        ("steps(4..10, every = 3)", [(1, 4), (2, 7), (3, 10)]),
        ("steps(3..6, every = 3)", [(0, 3), (1, 6)]),
        ("end", [(5, 15)]),
    ],
)
def test_moments_as_written(text: str, visits: list[tuple[int, int]]) -> None:
    agenda = load_schedule(f"schedule s {{ prune magnitude {{ density = 10% at = {text} }} }}").agenda
    assert [(epoch, step) for _, _, epoch, step in walked(agenda, 5, 3)] == visits


def test_stages_run_in_order_start_and_end_with_all_their_rounds() -> None:
    agenda = Agenda.of((stage(None, 3), stage(At("epochs", 2, 3)), stage(At("end"), 2)))
    assert walked(agenda, 4, 1) == [
        (0, 1, 0, 0),
        (0, 2, 0, 0),
        (0, 3, 0, 0),
        (1, 1, 2, 2),
        (1, 2, 3, 3),
        (2, 1, 4, 4),
        (2, 2, 4, 4),
    ]


def test_a_stage_that_overtakes_another_is_refused() -> None:
    agenda = Agenda.of((stage(At("steps", 1, 9)), stage(At("epochs", 2, 3), name="random")))
    with pytest.raises(PkcError, match=r"PKC459.*'random' runs after epoch 2, but the stage 'magnitude' .* waits for step 7"):
        walked(agenda, 4, 3)
    assert len(walked(agenda, 4, 5)) == 11


EPOCHS, STEPS = 4, 12
PER_EPOCH = STEPS // EPOCHS
MOMENTS = [
    At("end"),
    *(At(k, a, b) for k, n in (("epochs", 5), ("steps", 13)) for a, b in itertools.combinations(range(1, n + 1), 2)),
]


def passed(back: tuple[str, int], at: At) -> bool:
    """Whether a walk through training comes to a state before the first round: at a step, the round is before the epoch's end.

    At the end of training nothing is left to train again.
    """
    if back in (("epoch", EPOCHS), ("step", STEPS)):
        return False
    first = (at.kind, at.first)
    seen = [("epoch", 0), ("step", 0)]
    for epoch in range(1, EPOCHS + 1):
        for moment in [("step", s) for s in range((epoch - 1) * PER_EPOCH + 1, epoch * PER_EPOCH + 1)] + [("epoch", epoch)]:
            if (f"{moment[0]}s", moment[1]) == first:
                return back in seen
            seen.append(moment)
    return back in seen


REWINDS = [None, *(("epoch", n) for n in (0, 1, 3, 4)), *(("step", n) for n in (0, 3, 6, 7, 11, 12))]


@pytest.mark.parametrize("rewind", REWINDS, ids=str)
def test_what_training_never_comes_to_is_refused(rewind: tuple[str, int] | None) -> None:
    length = {"epochs": EPOCHS, "steps": STEPS}
    for at in MOMENTS:
        reached = at.kind == "end" or at.last <= length[at.kind]
        reached = reached and (rewind is None or passed(rewind, at))
        agenda = Agenda.of((stage(at, 2, rewind),))
        if reached:
            check_agenda(agenda, EPOCHS, PER_EPOCH)
            continue
        with pytest.raises(PkcError, match="PKC451"):
            check_agenda(agenda, EPOCHS, PER_EPOCH)


@pytest.mark.parametrize(
    "at, rewind, told",
    [
        (At("steps", 4, 8, 4), ("epoch", 1), "rewinds to epoch 1, but runs after step 4 already, in epoch 1 of 4 steps"),
        (At("epochs", 2, 2), ("step", 11), "rewinds to step 11, but runs after epoch 2 already, which ends with step 8"),
    ],
)
def test_rewinding_across_epochs_and_steps(at: At, rewind: tuple[str, int], told: str) -> None:
    with pytest.raises(PkcError) as caught:
        check_agenda(Agenda.of((stage(at, rewind=rewind),)), 4, 4)
    (found,) = caught.value.diagnostics
    assert found.message == f"the stage 'magnitude' {told}"
    assert found.notes == ("rewind to an earlier moment; where an epoch has other than 4 steps, say so: steps_per_epoch=...",)
    check_agenda(Agenda.of((stage(at, rewind=rewind),)), 4, 3 if rewind[0] == "epoch" else 6)
    check_agenda(Agenda.of((stage(at, rewind=rewind),)), 4, None)


def test_all_that_is_wrong_at_once_and_what_to_write() -> None:
    agenda = Agenda.of((stage(At("epochs", 2, 8, 2)), stage(At("end"), rewind=("epoch", 4))))
    with pytest.raises(PkcError) as caught:
        check_agenda(agenda, 4, None)
    beyond, back = caught.value.diagnostics
    assert beyond.message == "the stage 'magnitude' runs after epoch 8, but training has 4 epochs"
    assert beyond.notes == ("train longer, or write at = epochs(2..4, every = 2)",)
    assert back.message == "the stage 'magnitude' rewinds to epoch 4, but training has 4 epochs"


def test_steps_of_unknown_number_are_not_refused() -> None:
    check_agenda(Agenda.of((stage(At("steps", 1, 10**9, 10**6)),)), 1, None)
