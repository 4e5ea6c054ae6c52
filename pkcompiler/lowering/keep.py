"""What keeps a pruned weight at exactly zero, in a model's own class (``apply_masks``) and in a lowered network alike.

- Its stored value and gradient are zeroed now.
- A hook on the parameter replaces the incoming gradient by zero there (``torch.where``: infinite and NaN too).
- Hooks around the step of any optimizer find the parameters by their names, and zero them again after the step, so that no
  update and no momentum gathered earlier does harm.
- Before ``state_dict`` and after ``load_state_dict`` of the module, of any that it is a part of or that is a part of it, it is
  zeroed again.
- Before a module of the user's own class is called, parameters that were replaced by others under the same name are found
  (:class:`FindAgain`); a name that has no parameter any more, or one of another shape, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.frontend.hooks import KeepsMask
from pkcompiler.lowering.placed import FULLY_SHARD, flat_fault, has_memory, is_flat, keeps_flat, local, part, where_kept, whole

ATTRIBUTE = "_kept_masks"
AGAIN = "mask the model as it is now: pkcompiler.apply_masks(model, masks)"


class Cell(KeepsMask):
    """A mask that may be tightened or replaced, and the gradient hook of what it masks.

    One cell serves all parameters that take one another's place: a weight, its shard, its copy while it is gathered.
    """

    __slots__ = ("_mask", "_parts")

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @property
    def mask(self) -> Tensor:
        """bool, the whole parameter's shape, True = kept."""
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        self._mask = whole(mask)
        self._parts: dict[object, Tensor] = {}

    def tighten(self, mask: Tensor) -> None:
        """Keep only what ``mask`` keeps, too."""
        self.mask = self.mask & whole(mask).to(self.mask.device)

    def of(self, tensor: Tensor) -> Tensor:
        """The mask of what this process holds of ``tensor``: on its device, of :func:`local`'s shape."""
        return part(self._mask, tensor, self._parts)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The gradient, 0 where the mask drops the entry."""
        return where_kept(self.of(gradient), gradient)

    def drop(self, tensor: Tensor) -> None:
        """Store zero in ``tensor`` wherever the mask drops (NaN and infinities included)."""
        if has_memory(tensor):
            with torch.no_grad():
                local(tensor).masked_fill_(~self.of(tensor), 0)

    def zero(self, tensor: Tensor) -> None:
        """:meth:`drop`, in the gradient too."""
        self.drop(tensor)
        if tensor.grad is not None:
            with torch.no_grad():
                tensor.grad = self(tensor.grad)

    def __reduce__(self) -> tuple[type[Cell], tuple[Tensor]]:
        return Cell, (self._mask,)


class Keeper:
    """The masks of the parameters that one module owns, by their names in it.

    ``held``: the module's own table of parameters; ``parameters``: those last seen, which carry the hooks, at these ``places`` of
    memory; ``names``: under which the masks were given; ``woven``: whether they are in the graph of a lowered network, too.
    Copying (or loading) a keeper hooks the copied parameters.
    """

    def __init__(self, held: Mapping[str, nn.Parameter | None]) -> None:
        self.held = held
        self.cells: dict[str, Cell] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        self.places: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.woven = False
        _KEEPERS.add(self)

    def keep(self, leaf: str, name: str, mask: Tensor, *, anew: bool) -> None:
        """Hold a mask on the parameter ``leaf``: besides the masks so far, or (``anew``) in their place."""
        parameter = self.held[leaf]
        assert parameter is not None
        own = mask.to(mask.device if parameter.is_meta else parameter.device, copy=True)
        cell = cell_of(parameter) or Cell(own)
        if anew:
            cell.mask = own
        else:
            cell.tighten(mask)
        self.names[leaf] = name
        self._hold(leaf, parameter, cell)

    def find_again(self, among: Container[int] | None = None) -> None:
        """Hold the masks on the parameters that stand under their names now (of those whose ``id`` is in ``among``).

        :raises PkcError: PKC471 for one of another shape, PKC474 for pieces of a flat one.
        """
        for leaf, cell in list(self.cells.items()):
            now = self.held.get(leaf)
            found = now if isinstance(now, nn.Parameter) else self.parameters[leaf]
            if among is not None and id(found) not in among:
                continue
            if is_flat(found):
                raise PkcError(flat_fault(self.names[leaf]))
            if _last_hook(found) is not cell or self.places[leaf] != found._cdata:
                self._hold(leaf, found, cell)
            self.parameters[leaf] = found

    def is_current(self) -> bool:
        """Whether the parameters last seen are those that there are: what a compiler can ask, and guards."""
        return all(self.held.get(leaf, parameter) is parameter for leaf, parameter in self.parameters.items())

    def _hold(self, leaf: str, parameter: nn.Parameter, cell: Cell) -> None:
        if parameter.shape != cell.mask.shape:
            raise fail(
                "PKC471",
                f"the parameter {self.names[leaf]!r} was replaced by one of shape {tuple(parameter.shape)}, "
                f"its mask has {tuple(cell.mask.shape)}",
                AGAIN,
            )
        other = cell_of(parameter)
        if other is None:
            _hook_gradient(parameter, cell)
        elif other is not cell:
            other.tighten(cell.mask)
            cell = other
        _make_last(parameter, cell)
        self.parameters[leaf], self.cells[leaf], self.places[leaf] = parameter, cell, parameter._cdata
        cell.zero(parameter)

    def restore(self) -> None:
        """Zero what anybody wrote into pruned weights; where nobody did, the parameters are not touched."""
        self.find_again()
        for leaf, parameter in self.parameters.items():
            cell = self.cells[leaf]
            if has_memory(parameter) and bool((local(parameter.detach()) != 0)[~cell.of(parameter)].any()):
                cell.zero(parameter)

    def lost(self, owner: nn.Module) -> list[str]:
        """The names that have no parameter any more, neither in ``owner`` nor in what computes its weights."""
        gone = [leaf for leaf in self.cells if leaf not in self.held]
        within = {id(p) for p in owner.parameters()} if gone else set()
        return [leaf for leaf in gone if id(self.parameters[leaf]) not in within]

    def forget_lost(self, owner: nn.Module) -> None:
        """Drop the masks that nothing can be held to any more, of parameters that are gone or have another shape."""
        now = {leaf: self.held.get(leaf) for leaf in self.cells}
        other = [leaf for leaf, p in now.items() if p is not None and p.shape != self.cells[leaf].mask.shape]
        for leaf in (*self.lost(owner), *other):
            self.forget(leaf)

    def release(self) -> None:
        """Hold no mask any more, nor does anything else that holds the same: the pruned weights stay at zero until they train.

        What carries the hook and cannot be found here (a weight while it is gathered) gets its gradient as it is.
        """
        self.restore()
        for cell in set(self.cells.values()):
            for other in list(_KEEPERS):
                for leaf in [leaf for leaf, held in other.cells.items() if held is cell]:
                    _unhook(other.parameters[leaf], cell)
                    other.forget(leaf)
            cell.mask = torch.ones_like(cell.mask)

    def forget(self, leaf: str) -> None:
        """Drop all that is known of one parameter."""
        del self.cells[leaf], self.parameters[leaf], self.places[leaf], self.names[leaf]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _KEEPERS.add(self)
        _hook_optimizers_once()
        for leaf, parameter in self.parameters.items():
            self._hold(leaf, parameter, self.cells[leaf])


_KEEPERS: WeakSet[Keeper] = WeakSet()


class FindAgain:
    """A forward pre-hook: before a module is called, masks are held on the parameters that it has now.

    ``torch.compile`` breaks its graph where they have changed; ``torch.export`` and the transforms of ``torch.func`` run the module
    with tensors that take the place of the parameters, and nothing is done then.
    """

    def __init__(self) -> None:
        self.keepers: list[Keeper] = []

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Find the parameters again, unless what runs here is traced; compiled code leaves its graph where they have changed."""
        if torch.compiler.is_dynamo_compiling():
            if not all(keeper.is_current() for keeper in self.keepers):
                _UNCOMPILED["find"](self, module)
        elif not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
            self.find(module)

    def find(self, module: nn.Module) -> None:
        """Hold the masks on the parameters that there are now. Raises ``PKC470`` where one of them is gone."""
        for keeper in self.keepers:
            keeper.find_again()
        own = keeper_of(module)
        for keeper in (k for k in self.keepers if k is own or k.woven):
            if lost := keeper.lost(module):
                note = FULLY_SHARD if keeps_flat(module) else AGAIN
                raise fail(
                    "PKC470", f"the model has no parameter {keeper.names[lost[0]]!r} any more, and a mask was held on it", note
                )


def keep(module: nn.Module, masks: Mapping[str, Tensor], *, anew: bool, called: bool) -> None:
    """Hold ``masks`` (by any names of parameters, of their shapes) on the parameters of ``module`` from now on.

    :param anew: in the place of the masks so far, not besides them.
    :param called: whether the modules that own the parameters, and those around them, are called; else ``module`` alone is.
    """
    _hook_optimizers_once()
    for owner in module.modules():
        if (before := keeper_of(owner)) is not None:
            before.forget_lost(owner)
    for name, mask in masks.items():
        path, _, leaf = name.rpartition(".")
        keeper = _keeper(module.get_submodule(path))
        keeper.keep(leaf, name, mask, anew=anew)
        keeper.woven |= not called
        for around in _around(module, path) if called else (module,):
            _find_again_in(around, keeper)


def keeper_of(module: nn.Module) -> Keeper | None:
    """The keeper of the parameters that a module itself owns, where there is one."""
    return module.__dict__.get(ATTRIBUTE)


def is_keeping(hook: object) -> bool:
    """Whether a hook of a module is one of those that keep masks."""
    return hook is before_saving or hook is after_loading or isinstance(hook, FindAgain)


def cell_of(parameter: Tensor) -> Cell | None:
    """The cell whose hook a parameter carries."""
    for hook in (parameter._backward_hooks or {}).values():
        if isinstance(hook, Cell):
            return hook
    return None


def _keeper(owner: nn.Module) -> Keeper:
    found = keeper_of(owner)
    if found is None:
        found = owner.__dict__[ATTRIBUTE] = Keeper(owner._parameters)
        owner.register_state_dict_pre_hook(before_saving)
        owner.register_load_state_dict_post_hook(after_loading)
    return found


def _around(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """``module``, what owns the parameters at ``path``, and all between."""
    yield module
    for atom in path.split(".") if path else ():
        module = module.get_submodule(atom)
        yield module


def _find_again_in(module: nn.Module, keeper: Keeper) -> None:
    hook = next((h for h in module._forward_pre_hooks.values() if isinstance(h, FindAgain)), None)
    if hook is None:
        hook = FindAgain()
        module.register_forward_pre_hook(hook)
    if keeper not in hook.keepers:
        hook.keepers.append(keeper)


def _hook_gradient(parameter: nn.Parameter, cell: Cell) -> None:
    """Hooks need ``requires_grad``; a frozen parameter gets its hook for the day it is thawed."""
    frozen = not parameter.requires_grad
    parameter.requires_grad_(True)
    parameter.register_hook(cell)
    parameter.requires_grad_(not frozen)


def _unhook(parameter: nn.Parameter, cell: Cell) -> None:
    kept = {key: hook for key, hook in (parameter._backward_hooks or {}).items() if hook is not cell}
    if kept:
        parameter._backward_hooks.clear()  # type: ignore[union-attr]
        parameter._backward_hooks.update(kept)  # type: ignore[union-attr]
    else:
        parameter._backward_hooks = None


def _last_hook(parameter: nn.Parameter) -> object:
    return next(reversed((parameter._backward_hooks or {}).values()), None)


def _make_last(parameter: nn.Parameter, cell: Cell) -> None:
    """Run the hook of a cell after all others, which may write to gradients; and all of them after ``torch.utils.swap_tensors``,
    which takes a parameter to a place where torch knows none."""
    hooks: Any = parameter._backward_hooks
    key = next(key for key, hook in hooks.items() if hook is cell)
    hooks[key] = hooks.pop(key)
    parameter._backward_hooks = hooks


_UNCOMPILED: dict[str, Callable[..., None]] = {}
"""What no compiler traces, from the first mask on: importing torch's compiler takes a second."""


def _hook_optimizers_once() -> None:
    if _UNCOMPILED:
        return
    functions = {"find": FindAgain.find, "before": _before_step, "after": _after_step}
    _UNCOMPILED.update({name: torch.compiler.disable(function) for name, function in functions.items()})
    register_optimizer_step_pre_hook(_UNCOMPILED["before"])
    register_optimizer_step_post_hook(_UNCOMPILED["after"])


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for keeper in list(_KEEPERS):
        keeper.find_again(held)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        cell = cell_of(parameter)
        if cell is not None:
            cell.drop(parameter)


def before_saving(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    """Before the ``state_dict`` of a module that owns masked parameters, or of one around it."""
    keeper = keeper_of(module)
    if keeper is not None and not torch.compiler.is_compiling():
        keeper.restore()


def after_loading(module: nn.Module, incompatible_keys: Any) -> None:
    """After ``load_state_dict``, which may have put other parameters in place (``assign=True``)."""
    keeper = keeper_of(module)
    if keeper is not None:
        keeper.restore()
