"""Scores that have no order: NaN, of which nothing can be chosen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail, first_few, typed_or_called


def refuse_nan(what: str, source: str, *given: Mapping[str, Tensor]) -> None:
    """``PKC507`` where an entry is NaN, which names the first parameters. ``what`` is NaN, by a fault of ``source``."""
    bad = {n: t.dtype for scores in given for n, t in scores.items() if bool(t.isnan().any())}
    if not bad:
        return
    notes = [f"check {source} for 0/0 or log of 0"]
    if torch.float64 not in bad.values():
        option = typed_or_called("--dtype float64", "dtype=torch.float64")
        notes.append(f"or these masks let the network overflow float32: score in float64, {option}")
    raise fail("PKC507", f"{what} NaN for {first_few([repr(n) for n in bad], 3)}", *notes)
