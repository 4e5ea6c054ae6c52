"""What a lowered copy could not keep, refused by name before any work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pkcompiler.diagnostics import Diagnostic
from pkcompiler.frontend.hooks import gradient_hooks
from pkcompiler.lowering.keep import is_keeping
from pkcompiler.lowering.modules import Lowered, ModePair

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
OVERRIDES = ("train", "state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict", "get_extra_state")
RENAME = "rename it, or lower a module that holds this one, such as nn.Sequential(model), with masks named '0.NAME'"
BEFORE = "give the module as it was before torch.jit.script or torch.jit.trace"
KEEP_CLASS = "keep the class and its hooks: pkcompiler.apply_masks(model, masks)"


def unkept(model: nn.Module) -> Iterator[Diagnostic]:
    """PKC270 for each hook (except those of torch's own weight and spectral norm), PKC271 for each overridden method, PKC273 for
    each module of TorchScript, PKC274 for each name that the lowered network has itself.
    """
    scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        what = f"module {scripted[0]!r}" if scripted[0] else "the model"
        yield Diagnostic("PKC273", f"{what} is TorchScript, of which no graph is recorded", notes=(BEFORE,))
        return
    yield from _taken(model)
    yield from _module_hooks(model)
    yield from _parameter_hooks(model)
    yield from _overrides(model)


def _taken(model: nn.Module) -> Iterator[Diagnostic]:
    """Parameters, buffers, modules and plain tensors of the root: the lowered network holds them under their names."""
    kinds: dict[str, dict[str, Any]] = {"parameter": model._parameters, "buffer": model._buffers, "module": model._modules}
    held = {name: kind for kind, members in kinds.items() for name in members}
    for name in sorted(own_names()):
        kind = held.get(name) or ("tensor" if isinstance(inspect.getattr_static(model, name, None), Tensor) else None)
        if kind is not None:
            message = f"the {kind} {name!r} of {type(model).__name__} has the name of an attribute of lowered networks"
            yield Diagnostic("PKC274", message, notes=(RENAME,))


@cache
def own_names() -> frozenset[str]:
    """What lowered networks have besides the members of their model and what every module has."""
    graph = fx.Graph()
    graph.output(None)
    empty: tuple[nn.Module, ...] = Lowered(nn.Module(), graph, {}), ModePair(nn.Module(), graph, graph, {})
    return frozenset(name for network in empty for name in dir(network)) - frozenset(dir(nn.Module()))


def _module_hooks(model: nn.Module) -> Iterator[Diagnostic]:
    for path, module in model.named_modules():
        for attribute, kind in HOOKS.items():
            for hook in getattr(module, attribute).values():
                norm = path and isinstance(hook, WeightNorm | SpectralNorm)
                if norm or is_keeping(hook) or isinstance(module, LazyModuleMixin):
                    continue
                where = f"module {path!r}" if path else "the model"
                yield Diagnostic("PKC270", f"{kind} {_name(hook)} on {where} would be lost", notes=(KEEP_CLASS,))


def _parameter_hooks(model: nn.Module) -> Iterator[Diagnostic]:
    for name, parameter in model.named_parameters():
        for hook in gradient_hooks(parameter):
            yield Diagnostic("PKC270", f"gradient hook {_name(hook)} on parameter {name!r} would be lost", notes=(KEEP_CLASS,))


def _overrides(model: nn.Module) -> Iterator[Diagnostic]:
    for method in OVERRIDES:
        defined_by = next(cls for cls in type(model).__mro__ if method in vars(cls))
        if defined_by.__module__.split(".")[0] not in ("torch", "transformers", "pkcompiler"):
            yield Diagnostic(
                "PKC271", f"{type(model).__name__}.{method} is overridden, a lowered graph would not run it", notes=(KEEP_CLASS,)
            )


def _name(hook: object) -> str:
    return repr(getattr(hook, "__qualname__", type(hook).__name__))
