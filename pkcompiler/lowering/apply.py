"""Masks kept in place: the user's own class and training code, with nothing renamed and no parametrization.

What keeps a pruned weight at exactly zero:

- its stored value and gradient are zeroed now;
- a hook on the parameter replaces the incoming gradient by zero there (``torch.where``: infinite and NaN too), in
  ``backward()`` and in ``torch.autograd.grad``;
- a hook that torch runs after any optimizer's step zeroes it again, so that momentum gathered earlier does no harm;
- after ``load_state_dict`` it is zeroed again, of the module or of any that it is a part of, or that is a part of it.

All of it survives ``.to()``, ``.half()``, ``.cuda()``, ``copy.deepcopy`` and ``load_state_dict(assign=True)``. Torch has no hook
for writes of your own (``nn.init.normal_(weight)``, ``weight.data = ...``): they stand until the next step of the optimizer that
holds the weight, or until the masks are applied again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import fail, raise_all
from pkcompiler.frontend.hooks import MaskGradient
from pkcompiler.lowering.masks import Masks, canonical_names, check_masks, overlap_faults, zero_pruned
from pkcompiler.modes import in_own_modes

ATTRIBUTE = "_kept_masks"


class Cell:
    """A mask that may be tightened or replaced, and that follows the device on which it is asked for."""

    __slots__ = ("mask",)

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def on(self, device: torch.device) -> Tensor:
        if self.mask.device != device:
            self.mask = self.mask.to(device)
        return self.mask


class Keeper:
    """The masks of the parameters that a module itself owns, by their names in it, beside these parameters, which carry the hooks.

    Copying (or loading) it hooks the copied parameters, for a copy of the module holds them too.
    """

    def __init__(self) -> None:
        self.cells: dict[str, Cell] = {}
        self.parameters: dict[str, nn.Parameter] = {}

    def keep(self, name: str, parameter: nn.Parameter, mask: Tensor, *, anew: bool = False) -> None:
        self.parameters[name] = parameter
        self.cells[name] = _attach(parameter, mask, anew)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name, parameter in self.parameters.items():
            self.cells[name] = _attach(parameter, self.cells[name].mask)


@checked
@in_own_modes
def apply_masks(module: nn.Module, masks: Masks) -> nn.Module:
    """Zero the pruned weights of ``module`` in place and keep them zero through its training; returns ``module``.

    Keys, classes, parameter objects and the training flag stay as they are. Applying the same masks again changes nothing;
    other masks only tighten: a weight is kept when every mask so far keeps it.

    :param masks: parameter name (either name of a tied one) to bool tensor of its shape, True = kept; or what holds them, such as
        :class:`pkcompiler.Pruned`.
    :raises PkcError: as :func:`check_masks`; PKC474 also for parameters made under ``torch.inference_mode``.
    """
    return _applied(module, masks, anew=False)


def replace_masks(module: nn.Module, masks: Masks) -> nn.Module:
    """As :func:`apply_masks`, but the masks given take the place of those so far: weights may come back, and start at 0.

    :raises PkcError: as :func:`check_masks`.
    """
    return _applied(module, masks, anew=True)


def _applied(module: nn.Module, masks: Masks, *, anew: bool) -> nn.Module:
    refuse_inference(module)
    checked = check_masks(module, masks)
    raise_all(overlap_faults(module, checked))
    canonical = canonical_names(module)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if canonical[name] in checked:
            owner, leaf = _owner(module, name)
            _keeper(owner).keep(leaf, parameter, checked[canonical[name]], anew=anew)
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


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _keeper(owner: nn.Module) -> Keeper:
    """The keeper of a module; a new one makes it mask whatever ``load_state_dict`` of any module that holds it loads."""
    keeper = owner.__dict__.get(ATTRIBUTE)
    if keeper is None:
        keeper = owner.__dict__[ATTRIBUTE] = Keeper()
        owner.register_load_state_dict_post_hook(after_load)
    found: Keeper = keeper
    return found


def applied_masks(module: nn.Module) -> dict[str, Tensor]:
    """The masks that :func:`apply_masks` put on ``module``, a part of it or what holds it, by parameter name."""
    found = {}
    for name, _ in module.named_parameters():
        owner, leaf = _owner(module, name)
        keeper = owner.__dict__.get(ATTRIBUTE)
        if keeper is not None and leaf in keeper.cells:
            found[name] = keeper.cells[leaf].mask
    return found


def forget_masks(module: nn.Module) -> None:
    """Take the keepers and their hooks off a private copy; the parameters keep theirs."""
    for part in module.modules():
        if part.__dict__.pop(ATTRIBUTE, None) is not None:
            hooks = part._load_state_dict_post_hooks
            for key in [key for key, hook in hooks.items() if hook is after_load]:
                del hooks[key]


_CELLS = WeakTensorKeyDictionary()


def _attach(parameter: nn.Parameter, mask: Tensor, anew: bool = False) -> Cell:
    cell = _CELLS.get(parameter)
    if cell is None:
        cell = _CELLS[parameter] = Cell(mask.to(parameter.device, copy=True))
        _hook_gradient(parameter, cell)
        _hook_optimizers_once()
    else:
        given = mask.to(parameter.device, copy=True)
        cell.mask = given if anew else cell.on(parameter.device) & given
    zero_pruned(parameter, cell.mask)
    return cell


def _hook_gradient(parameter: nn.Parameter, cell: Cell) -> None:
    """Hooks need ``requires_grad``; a frozen parameter gets its hook for the day it is thawed."""
    frozen = not parameter.requires_grad
    parameter.requires_grad_(True)
    parameter.register_hook(MaskGradient(cell.on))
    parameter.requires_grad_(not frozen)


_optimizer_hook: list[Any] = []


def _hook_optimizers_once() -> None:
    if not _optimizer_hook:
        _optimizer_hook.append(register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            cell = _CELLS.get(parameter)
            if cell is not None:
                with torch.no_grad():
                    parameter.masked_fill_(~cell.on(parameter.device), 0)


def after_load(module: nn.Module, incompatible_keys: Any) -> None:
    keeper: Keeper = module.__dict__[ATTRIBUTE]
    for name, cell in list(keeper.cells.items()):
        parameter = module._parameters.get(name)
        if parameter is not None:
            keeper.keep(name, parameter, cell.mask)
