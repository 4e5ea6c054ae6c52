"""Masks kept in place: the user's own class and training code, with nothing renamed and no parametrization.

What :mod:`~pkcompiler.lowering.keep` says holds through ``.to()``, ``.half()``, ``.cuda()``, ``copy.deepcopy``, pickling,
``load_state_dict(assign=True)``, ``fully_shard`` and ``module.weight = nn.Parameter(...)``. Two things it cannot do:

- Torch has no hook for writes of your own (``nn.init.normal_(weight)``, ``weight.data = ...``). They stand until the next step of
  the optimizer that holds the weight, the next ``state_dict``, or until the masks are applied again.
- ``torch.func.grad`` over ``torch.func.functional_call`` differentiates by the tensors that it is given, which carry no hook of
  the parameters: mask these, ``{name: torch.where(masks[name], w, 0) for name, w in ...}``, inside of what is differentiated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail, raise_all
from pkcompiler.lowering.as_torch import prune_as_torch
from pkcompiler.lowering.keep import ATTRIBUTE, is_keeping, keep, keeper_of
from pkcompiler.lowering.masks import Masks, check_masks, of_all_names, overlap_faults
from pkcompiler.lowering.zero_rows import undefined_faults
from pkcompiler.modes import in_own_modes, keeping_default_device


@checked
@in_own_modes
def apply_masks(module: nn.Module, masks: Masks, *, layout: Literal["own", "torch"] = "own") -> nn.Module:
    """Zero the pruned weights of ``module`` in place and keep them zero through its training; returns ``module``.

    Keys, classes, parameter objects and the training flag stay as they are. Applying the same masks again changes nothing;
    other masks only tighten: a weight is kept when every mask so far keeps it.

    :param masks: parameter name (either name of a tied one) to bool tensor of its shape, True = kept; or what holds them, such as
        :class:`pkcompiler.Pruned`.
    :param layout: ``"torch"`` masks as ``torch.nn.utils.prune`` does, instead: a parameter ``weight_orig`` with all values and a
        buffer ``weight_mask`` take the place of ``weight``, which is computed before each call of its module. Make the optimizer
        after that.
    :raises PkcError: as :func:`check_masks`; PKC474 also for parameters made under ``torch.inference_mode``; PKC462 for a computed
        weight that the masks leave 0/0 (of one that the forward computes by its own code: as far as it can be recorded without an
        example, and never of parameters that several processes hold).
    """
    if layout == "torch":
        refuse_inference(module)
        return prune_as_torch(module, of_all_names(module, check_masks(module, masks)))
    return _applied(module, masks, anew=False)


def replace_masks(module: nn.Module, masks: Masks) -> nn.Module:
    """As :func:`apply_masks`, but the masks given take the place of those so far: weights may come back, and start at 0.

    :raises PkcError: as :func:`check_masks`.
    """
    return _applied(module, masks, anew=True)


def _applied(module: nn.Module, masks: Masks, *, anew: bool) -> nn.Module:
    refuse_inference(module)
    checked = check_masks(module, masks)
    _refuse_scripted(module, checked)
    raise_all(overlap_faults(module, checked))
    held = {} if anew else applied_masks(module)
    whole = {**held, **{n: mask & held[n].to(mask.device) if n in held else mask for n, mask in checked.items()}}
    with keeping_default_device("forward"):
        raise_all(undefined_faults(module, whole, masks))
    keep(module, of_all_names(module, checked), anew=anew, called=True)
    return module


@checked
@in_own_modes
def remove_masks(module: nn.Module) -> nn.Module:
    """Take the masks off that :func:`apply_masks` or a schedule in training put on ``module`` or parts of it; returns ``module``.

    Its pruned weights are zero and stay so until something changes them, the others are not touched. Nothing of the masks is left:
    no hook, no state. Masks on what holds ``module`` stay where they are not its own.

    :raises PkcError: PKC463 where nothing is masked, and for a lowered network, whose graph has the masks.
    """
    owners = [part for part in module.modules() if (keeper := keeper_of(part)) is not None and keeper.cells]
    if not owners:
        raise fail("PKC463", f"no parameter of {type(module).__name__} is masked", "give the module that was masked")
    keepers = [part.__dict__[ATTRIBUTE] for part in owners]
    if any(keeper.woven for keeper in keepers):
        note = "load its weights into a model of the class that was lowered: model.load_state_dict(network.state_dict())"
        raise fail("PKC463", f"the masks of the lowered network {type(module).__name__} are in its graph, and stay there", note)
    for part, keeper in zip(owners, keepers, strict=True):
        keeper.forget_lost(part)  # what no mask fits any more has none
        keeper.release()
    forget_masks(module)
    return module


def refuse_inference(module: nn.Module) -> None:
    """Raise ``PKC474`` where parameters are inference tensors, which torch lets nobody write to or train."""
    held = [name for name, parameter in module.named_parameters() if not is_lazy(parameter) and parameter.is_inference()]
    if held:
        raise fail(
            "PKC474",
            f"parameter {held[0]!r} is an inference tensor (as are {len(held) - 1} more), which cannot be trained",
            "build or load the model outside of torch.inference_mode()",
        )


def _refuse_scripted(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise ``PKC474`` for parameters of what ``torch.jit.script`` made, which takes no hooks."""
    scripted = [path for path, part in module.named_modules() if isinstance(part, torch.jit._script.RecursiveScriptModule)]
    within = tuple(f"{path}." if path else "" for path in scripted)
    if held := [name for name in masks if name.startswith(within)]:
        note = "mask the module as it was before torch.jit.script, and train that"
        raise fail("PKC474", f"parameter {held[0]!r} is one of a TorchScript module, which takes no hooks", note)
    if "" in within:
        raise fail(
            "PKC474", "the model is a TorchScript module, which takes no hooks", "give the module as it was before torch.jit.script"
        )


def applied_masks(module: nn.Module) -> dict[str, Tensor]:
    """The masks that :func:`apply_masks` put on ``module``, a part of it or what holds it, by parameter name."""
    found = {}
    for name, parameter in module.named_parameters():
        path, _, leaf = name.rpartition(".")
        keeper = keeper_of(module.get_submodule(path))
        if keeper is not None and leaf in keeper.cells and keeper.cells[leaf].mask.shape == parameter.shape:
            found[name] = keeper.cells[leaf].mask
    return found


def forget_masks(module: nn.Module) -> None:
    """Take the keepers and the hooks of modules off; the parameters keep theirs."""
    for part in module.modules():
        part.__dict__.pop(ATTRIBUTE, None)
        for hooks in (part._state_dict_pre_hooks, part._load_state_dict_post_hooks, part._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if is_keeping(hook)]:
                del hooks[key]
