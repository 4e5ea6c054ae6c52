"""Models that are pruned already: by ``torch.nn.utils.prune``, whose masks lie beside the weights as ``weight_mask``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import prune

ORIGINAL, MASK = "_orig", "_mask"
"""What torch appends to the name of a parameter that it prunes."""


def settle(model: nn.Module) -> dict[str, Tensor]:
    """Take ``torch.nn.utils.prune`` off, in place: parameters have their own names and their unpruned values again.

    Returns the masks by parameter name, True = kept.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if not isinstance(hook, prune.BasePruningMethod):
                continue
            leaf = hook._tensor_name
            del module._forward_pre_hooks[key]
            found[f"{path}.{leaf}" if path else leaf] = module._buffers.pop(leaf + MASK).detach() != 0
            original = module._parameters.pop(leaf + ORIGINAL)
            delattr(module, leaf)
            setattr(module, leaf, original)
    return found
