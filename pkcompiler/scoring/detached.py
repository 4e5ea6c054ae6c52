"""Path functionals at the data that nothing is derived through: swept a few samples at a time, without a graph of derivatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pkcompiler.frontend.capture import Capture
from pkcompiler.frontend.export import example_batch
from pkcompiler.paths.functional import chunks, masked
from pkcompiler.paths.record import observe
from pkcompiler.paths.scaled import Scaled, aligned
from pkcompiler.paths.semiring import Settings
from pkcompiler.paths.sources import input_sources
from pkcompiler.paths.sweep import Sweep

ENTRIES, TOKEN, FEWEST = 2**18, 64, 8
"""So many input entries are swept together (a token counts ``TOKEN``), at least ``FEWEST`` samples: what is recorded of the gates
is held for so many."""


def swept(
    captured: Capture,
    chosen: Settings,
    samples: Sequence[Any],
    input: str | Tensor,
    masks: Mapping[str, Tensor],
    at_once: int | None = None,
) -> Scaled:
    """The functional of every sample and output [sample, ...] at theta * mask, at one exponent; no derivative.

    ``samples``: the model's flat inputs. ``input``: a word, or weights [1 or sample, ...]. ``at_once``: how many samples at a time,
    where the trace leaves the batch free (default: by their size). Costs one forward pass of the model and one sweep, and memory
    for ``at_once`` samples.
    """
    given = {**captured.program.tensors, **masked(captured, masks)}
    sweep = Sweep(captured.graph, captured.tensors, chosen)
    edges = sweep.edges(masks)
    parts, first = [], 0
    with torch.no_grad():
        for piece in _pieces(captured, samples, at_once):
            sweep.batch = example_batch(piece)
            if chosen.reads_data:
                sweep.observed, _ = observe(captured.program, captured.lifted, piece, given, chosen)
            weights = input if isinstance(input, str) or len(input) == 1 else input[first : first + sweep.batch]
            read = samples if isinstance(weights, str) and weights.startswith("mean") else piece
            parts.append(sweep.run(edges, input_sources(captured, read, weights, sweep.batch, chosen.dtype)))
            first += sweep.batch
    tensors, exponent = aligned(parts)
    return Scaled(torch.cat(tensors), exponent)


def _pieces(captured: Capture, samples: Sequence[Any], at_once: int | None) -> list[Sequence[Any]]:
    """The samples in batches: those that a trace has baked in, else ``at_once`` at most, and about as many in each."""
    if not captured.batched:
        return [piece for piece in chunks(captured, samples, whole=False) if piece is not None]
    n = example_batch(samples)
    step = math.ceil(n / math.ceil(n / (at_once or _room(samples))))
    return [[t[i : i + step] if isinstance(t, Tensor) and t.dim() else t for t in samples] for i in range(0, n, step)]


def _room(samples: Sequence[Any]) -> int:
    each = sum(t[0].numel() * (1 if t.is_floating_point() else TOKEN) for t in samples if isinstance(t, Tensor) and t.dim())
    return max(FEWEST, ENTRIES // max(1, each))
