"""Models that are pruned already: by ``torch.nn.utils.prune``, or by code that keeps a mask ``weight_mask`` beside a weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pkcompiler.diagnostics import Diagnostic, raise_all
from pkcompiler.frontend.copies import copied_unseen
from pkcompiler.frontend.faithful import faithful_copy

ORIGINAL, MASK = "_orig", "_mask"
"""What torch appends to the name of a parameter that it prunes."""

Masks = Mapping[str, Tensor]


def unpruned(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model without ``torch.nn.utils.prune``, and its masks by parameter name: itself where it has none, else a copy."""
    if not is_pruned_by_torch(model):
        return model, {}
    twin = copied_unseen(model) if example_inputs is None else faithful_copy(model, example_inputs)
    return twin, settle(twin)


def is_pruned_by_torch(model: nn.Module) -> bool:
    """Whether ``torch.nn.utils.prune`` masks a parameter in a hook before each call."""
    return any(isinstance(hook, prune.BasePruningMethod) for part in model.modules() for hook in part._forward_pre_hooks.values())


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


def both(given: Masks | None, held: Masks) -> Masks | None:
    """What both masks keep; a parameter that one of them does not name, it keeps."""
    if not held:
        return given
    named = given or {}
    return {
        **named,
        **{n: m & named[n].to(m.device) if n in named and named[n].shape == m.shape else named.get(n, m) for n, m in held.items()},
    }


def taken_apart(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masks of a state, and the state without them: ``weight_mask`` is that of ``weight``, or of ``weight_orig``.

    Raises ``PKC465`` where such a tensor is none: it holds other numbers than 0 and 1.
    """
    masks: dict[str, Tensor] = {}
    weights = {n.removesuffix(ORIGINAL) if f"{n.removesuffix(ORIGINAL)}{MASK}" in state else n: t for n, t in state.items()}
    odd = []
    for name, tensor in state.items():
        of = name.removesuffix(MASK)
        if of == name or of not in weights or weights[of].shape != tensor.shape:
            continue
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            odd.append(name)
            continue
        masks[of] = tensor.detach() != 0
        del weights[name]
    note = "a mask holds 0 and 1 alone: make it one, mask != 0"
    raise_all(Diagnostic("PKC465", f"'{name}' stands beside a weight of its shape, and is no mask", notes=(note,)) for name in odd)
    return masks, weights


def of_zeros(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries that are not zero, of every matrix or kernel that holds a zero."""
    matrices = {n: t for n, t in state.items() if t.dim() > 1 and t.is_floating_point()}
    return {n: t.detach() != 0 for n, t in matrices.items() if not bool(torch.all(t != 0))}
