"""Files of weights alone: ``safetensors``, with zeros for what is dropped, and ``torch-prune``, with the masks beside them."""

from __future__ import annotations

from io import BytesIO

import torch
from safetensors.torch import save
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.exporting.baked import Baked
from pkcompiler.exporting.content import Content
from pkcompiler.frontend.pruned import MASK, ORIGINAL
from pkcompiler.lowering.masks import of_all_names
from pkcompiler.pruning.provenance import state_of


def to_safetensors(baked: Baked) -> Content:
    """The state of the model, dense, under its own names. Raises ``PKC630`` for entries that are no tensors."""
    return Content({"": save(state_of(baked.model), metadata={"format": "pt"})})


def to_torch_prune(baked: Baked) -> Content:
    """The state that ``torch.nn.utils.prune`` gives a model: ``weight_orig`` and ``weight_mask`` in the place of ``weight``.

    Pruned weights have the values that they had. Raises ``PKC463`` where nothing is masked, ``PKC630`` as above.
    """
    masks, dense = (of_all_names(baked.model, found) for found in (baked.masks, baked.dense))
    if not masks:
        raise fail("PKC463", f"no parameter of {type(baked.model).__name__} is masked", "give masks, or a model that has some")
    state: dict[str, Tensor] = {}
    for name, tensor in state_of(baked.model).items():
        if name in masks:
            state[name + ORIGINAL], state[name + MASK] = dense[name].cpu(), masks[name].to(tensor)
        else:
            state[name] = tensor
    stream = BytesIO()
    torch.save(state, stream)
    return Content({"": stream.getvalue()})
