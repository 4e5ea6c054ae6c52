"""``pt2``: the evaluation program as ``torch.export`` saves it, for torch without the model's code."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pkcompiler.exporting.baked import Baked, fold_computed
from pkcompiler.exporting.compared import Given, compare
from pkcompiler.exporting.content import Content
from pkcompiler.exporting.recorded import record
from pkcompiler.frontend.export import quiet_tracing

TOLD = ("stack_trace", "source_fn_stack", "torch_fn")
"""What torch notes at nodes of the machine that they were recorded on."""


def to_pt2(baked: Baked, check: bool) -> Content:
    """The bytes of the file. Raises ``PKC650`` for what cannot be recorded, ``PKC651`` for another function."""
    fold_computed(baked.model)
    found = record(baked.model, *baked.given)
    for node in found.program.graph.nodes:
        for key in TOLD:
            node.meta.pop(key, None)
    found.program._example_inputs = None  # the user's own data
    stream = BytesIO()
    with quiet_tracing():
        torch.export.save(found.program, stream)
    data = stream.getvalue()
    worst = None
    if check:
        run = _Loaded(data)
        worst = compare(baked.model, run, baked.given, free=found.batch is None, what="the pt2 file")
    return Content({"": data}, found.inputs, (), found.batch, worst)


class _Loaded:
    def __init__(self, data: bytes) -> None:
        with quiet_tracing():
            self.module = torch.export.load(BytesIO(data)).module()

    def __call__(self, calls: Sequence[Given]) -> list[list[Tensor]]:
        with torch.no_grad(), quiet_tracing():
            return [
                [leaf.cpu() for leaf in pytree.tree_leaves(self.module(*args, **kwargs)) if isinstance(leaf, Tensor)]
                for args, kwargs in calls
            ]
