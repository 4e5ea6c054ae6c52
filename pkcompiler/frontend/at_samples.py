"""What goes wrong at samples is blamed on the samples where the model itself fails at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.export import Call, evaluating
from pkcompiler.frontend.uncallable import first_line


class Runs(Protocol):
    """What holds a model and how it is called: a capture, say. Neither is read where nothing is raised."""

    @property
    def module(self) -> nn.Module:
        """The model."""

    @property
    def call(self) -> Call:
        """How the model is called."""


@contextmanager
def at_samples(of: Runs, samples: Sequence[Any] | None) -> Iterator[None]:
    """What is raised inside is ``PKC505`` where the model itself fails at the samples; else, and without samples, it stays."""
    try:
        yield
    except PkcError:
        raise
    except Exception as error:
        if samples is not None and (found := _failing(of.module, of.call, samples)):
            raise found from error
        raise


def _failing(model: nn.Module, call: Call, samples: Sequence[Any]) -> PkcError | None:
    """``PKC505`` with the first sample that the model fails at, run in evaluation mode; None where it takes all of them."""
    rows = [i for i, t in enumerate(samples) if isinstance(t, Tensor) and t.dim()]
    count = len(samples[rows[0]]) if rows else 0
    with evaluating(model), torch.no_grad():
        for n in range(count):
            try:
                call.run(model, [t[n : n + 1] if i in rows else t for i, t in enumerate(samples)])
            except Exception as error:
                notes = ["leave it out, or correct it"]
                if ids := [t[n] for t in samples if isinstance(t, Tensor) and t.dim() and not t.is_floating_point()]:
                    notes.insert(0, f"its whole numbers run from {int(ids[0].min())} to {int(ids[0].max())}")
                return fail("PKC505", f"the model fails at sample {n} of the data: {first_line(error)}", *notes)
    return None
