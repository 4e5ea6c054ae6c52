"""What is exported: a copy of a model whose pruned weights are stored as zeros, with nothing of the masks left."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm
from torch.utils._pytree import tree_map

from pkcompiler.diagnostics import raise_all
from pkcompiler.frontend.copies import copied_unseen, refuse_valueless
from pkcompiler.frontend.export import normalise_inputs
from pkcompiler.frontend.faithful import faithful_copy
from pkcompiler.frontend.pruned import settle
from pkcompiler.lowering.apply import applied_masks, forget_masks
from pkcompiler.lowering.masks import Masks, check_masks, mask_faults
from pkcompiler.lowering.modules import Lowered, ModePair
from pkcompiler.lowering.unweave import drop_buffers, unweave
from pkcompiler.lowering.zero_rows import undefined_faults, zero_rows


@dataclass(frozen=True, slots=True, eq=False)
class Baked:
    """``model``: the copy, in evaluation mode, on the CPU. ``masks``: by parameter, of all that is masked in it; ``dense``: what
    these parameters were before.

    ``given``: positional and keyword arguments; of a model that was exported when it was lowered, in the order of its graph.
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    given: tuple[tuple[Any, ...], dict[str, Any]]


def bake(model: nn.Module, masks: Masks | None, example_inputs: Any) -> Baked:
    """Store zeros (in a copy) for what the masks drop: those given, those that the model has, those of ``torch.nn.utils.prune``.

    Raises PkcError: masks that do not fit (``PKC470``-``PKC474``), a computed weight that they leave 0/0 (``PKC462``).
    """
    refuse_valueless(model)
    args, kwargs = ((), {}) if example_inputs is None else normalise_inputs(example_inputs)
    given = {} if masks is None else masks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own pytrees in the old way
        twin = copied_unseen(model) if example_inputs is None else faithful_copy(model, example_inputs)
    found = settle(twin)
    raise_all(mask_faults(twin, given))
    for more in (check_masks(twin, given), applied_masks(model)):
        found |= {name: mask & found[name].to(mask.device) if name in found else mask for name, mask in more.items()}
    forget_masks(twin)
    if isinstance(twin, Lowered | ModePair):
        args, kwargs = _unwoven(twin, found, args, kwargs)
    fills = zero_rows(twin, found)
    raise_all(undefined_faults(twin, found, given, fills))
    parameters = dict(twin.named_parameters())
    dense = {name: parameters[name].detach().clone() for name in found}
    with torch.no_grad():
        for name, mask in found.items():
            parameter = parameters[name]
            parameter.copy_(torch.where(mask.to(parameter.device), parameter, fills.get(name, 0)))
    given = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, (args, kwargs))
    return Baked(twin.cpu().eval(), found, dense, given)


def _unwoven(
    twin: Lowered | ModePair, masks: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Take the masks out of the graphs of a lowered network; the inputs in the order of its graphs."""
    programs = (twin,) if isinstance(twin, Lowered) else twin.programs
    drop = list(twin.mask_names.values())
    for program in programs:
        masks |= {name: mask for name, mask in unweave(program).items() if name not in masks}
    for holder in (twin, *programs):
        holder.mask_names = {}
    drop_buffers(twin, drop)
    if isinstance(twin, ModePair) and twin.recorded is not None and (args or kwargs):
        return twin.recorded.arranged(args, kwargs)
    return args, kwargs


def fold_computed(model: nn.Module) -> None:
    """Put, in place, a parameter of its present value for every weight that torch's parametrizations and norms compute."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _settle(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm | SpectralNorm):
                _fold(module, hook)


def _settle(module: nn.Module) -> None:
    """Give a parametrized module its own class again. Torch's way would change the class, which is the original's, too."""
    held = cast(nn.ModuleDict, module.parametrizations)
    trains = {leaf: any(True for _ in parts.parameters()) for leaf, parts in held.items()}
    values = {leaf: getattr(module, leaf).detach().clone() for leaf in held}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for leaf, value in values.items():
        if trains[leaf]:
            module.register_parameter(leaf, nn.Parameter(value))
        else:
            module.register_buffer(leaf, value)


def _fold(module: nn.Module, hook: WeightNorm | SpectralNorm) -> None:
    name = hook.name
    (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(module, name)
    dropped = module._buffers.pop(f"{name}_dropped", None)
    module._non_persistent_buffers_set.discard(f"{name}_dropped")
    for key, other in list(module._forward_pre_hooks.items()):
        if isinstance(other, partial) and other.args == (name,):
            del module._forward_pre_hooks[key]
    weight = getattr(module, name).detach()
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(weight if dropped is None else torch.where(dropped, 0, weight)))
