"""Import: a model and the weights of a network that others have pruned -> an artifact."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch

from pkcompiler.driver.open import Opened
from pkcompiler.frontend.load_weights import load_state, read_state
from pkcompiler.frontend.pruned import taken_apart, unpruned
from pkcompiler.ir.text import print_graph
from pkcompiler.lang.ast import Schedule
from pkcompiler.lang.plan import Plan
from pkcompiler.lowering.imported import import_masks
from pkcompiler.lowering.masks import check_masks
from pkcompiler.modes import in_own_modes
from pkcompiler.pruning.provenance import Provenance, describe_inputs, make_recipe, state_of
from pkcompiler.pruning.state import Pruned

PLAN = Plan(Schedule("imported", None, None, (), ""), ())
"""What pkcompiler itself has done: nothing."""


@in_own_modes
def import_to(opened: Opened, weights: Path | None, out: Path, *, zeros: bool) -> Path:
    """Write the artifact of masks that others have made. ``weights``: the file that holds them; None: the model has them itself.

    Returns ``out``. Raises ``PKC464`` and ``PKC465`` for the masks, ``PKC64x`` for the file, ``PKC47x`` where they do not fit.
    """
    if weights is None:
        found, (module, _) = import_masks(opened.module, zeros=zeros), unpruned(opened.module, opened.inputs)
        own = replace(opened, module=module)
    else:
        state = read_state(weights)
        found, own = import_masks(state, zeros=zeros), replace(opened, weights_sha256=sha256(weights.read_bytes()).hexdigest())
        load_state(own.module, taken_apart(state)[1], weights)
    masks = {name: mask.cpu() for name, mask in check_masks(own.module, found).items()}
    captured, dense, inputs = own.capture(torch.float64), state_of(own.module), describe_inputs(own.inputs)
    recipe = make_recipe(dense, graph=print_graph(captured.graph), schedule=PLAN.text, inputs=inputs, dtype=torch.float64)
    total = sum(mask.numel() for mask in masks.values())
    origin = Provenance(dense, own.describe(), inputs, None, recipe)
    return Pruned(masks, PLAN, captured.graph, captured.tensors, 0.0, total, origin).save(out)
