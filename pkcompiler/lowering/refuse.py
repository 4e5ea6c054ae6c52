"""What a lowered copy could not keep, refused by name before any work."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pkcompiler.diagnostics import Diagnostic
from pkcompiler.frontend.hooks import gradient_hooks
from pkcompiler.lowering.keep import is_keeping

HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
OVERRIDES = ("train", "state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict", "get_extra_state")
KEEP_CLASS = "keep the class and its hooks: pkcompiler.apply_masks(model, masks)"


def unkept(model: nn.Module) -> Iterator[Diagnostic]:
    """PKC270 for each hook (except those of torch's own weight and spectral norm), PKC271 for each overridden method."""
    yield from _module_hooks(model)
    yield from _parameter_hooks(model)
    yield from _overrides(model)


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
