"""Masks as ``torch.nn.utils.prune`` keeps them, for code that knows that layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune

from pkcompiler.diagnostics import Diagnostic, raise_all


def prune_as_torch(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Prune parameters in place by masks under all their names; returns ``module``.

    Raises ``PKC474`` for a weight that torch would compute at calls that never come: its module is not called, but read.
    """
    raise_all(_uncalled(module, masks))
    for name, mask in masks.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        prune.custom_from_mask(owner, leaf, mask.to(owner.get_parameter(leaf).device))
    return module


def _uncalled(module: nn.Module, masks: Mapping[str, Tensor]) -> list[Diagnostic]:
    """The output projections of torch's own attention, whose weights it reads without calling them."""
    read = [
        f"{path}.out_proj." if path else "out_proj."
        for path, part in module.named_modules()
        if isinstance(part, nn.MultiheadAttention)
    ]
    wrong = [name for name in masks if name.startswith(tuple(read))]
    note = "mask it without layout='torch', which does not depend on calls"
    return [
        Diagnostic("PKC474", f"parameter {name!r} is read by its attention, which never calls its module", notes=(note,))
        for name in wrong
    ]
