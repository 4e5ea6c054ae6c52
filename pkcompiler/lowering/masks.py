"""Masks by parameter name: checked against a module, one per storage."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pkcompiler.diagnostics import Diagnostic, fail, first_few, raise_all
from pkcompiler.frontend.inputs import not_plain, plainly
from pkcompiler.lowering.placed import FULLY_SHARD, flat_fault, has_memory, is_flat, is_placed, keeps_flat, local


def canonical_names(module: nn.Module) -> dict[str, str]:
    """Every name of every parameter, aliases included, to the first name that ``named_parameters()`` gives its storage."""
    first: dict[object, str] = {}
    return {
        name: first.setdefault(storage_key(parameter), name) for name, parameter in module.named_parameters(remove_duplicate=False)
    }


class HasMasks(Protocol):
    """A result that holds masks: :class:`pkcompiler.Pruned`, :class:`pkcompiler.Artifact`."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """bool tensors by parameter name, True = kept."""


Masks = Mapping[str, Tensor] | HasMasks


def masks_of(given: Masks) -> Mapping[str, Tensor]:
    """Masks by name: a mapping as it is, of a result its ``masks``. Raises ``PKC472`` for anything else."""
    found = given if isinstance(given, Mapping) else getattr(given, "masks", None)
    if isinstance(found, Mapping):
        return found
    raise fail(
        "PKC472",
        f"masks are given as a {type(given).__name__}, expected a mapping of parameter names to torch.bool tensors",
        "give pkcompiler.prune(model, example_inputs, ...).masks",
    )


def check_masks(module: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """The masks by canonical parameter name (bool, True = kept, the parameter's shape).

    :raises PkcError: all at once: PKC470 unknown name, PKC471 shape, PKC472 not a bool tensor, PKC473 two masks for one
        tied parameter that differ, PKC474 a parameter that cannot be masked.
    """
    masks = masks_of(masks)
    raise_all(mask_faults(module, masks))
    canonical = canonical_names(module)
    return {canonical[name]: mask.detach() for name, mask in masks.items()}


def mask_faults(module: nn.Module, masks: Masks) -> Iterator[Diagnostic]:
    """What :func:`check_masks` raises."""
    masks = masks_of(masks)
    canonical = canonical_names(module)
    yield from _misfits(module, masks)
    yield from _conflicts(canonical, masks)
    yield from _unmaskable(module, canonical, masks)


def of_all_names(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks by canonical name, under every name of each parameter."""
    return {name: masks[first] for name, first in canonical_names(module).items() if first in masks}


def storage_key(parameter: Tensor) -> object:
    """Equal for tensors that are one and the same memory."""
    if isinstance(parameter, nn.parameter.UninitializedParameter) or not has_memory(parameter):
        return id(parameter)
    return parameter.device, local(parameter.detach()).data_ptr(), tuple(parameter.shape), parameter.stride(), parameter.dtype


def overlap_faults(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    """Masks (by canonical name) that cannot be stored in place: of an expanded parameter (``PKC474``), or one drops an entry that
    another one, of a parameter in the same memory (transposed, sliced), keeps (``PKC473``).
    """
    canonical, groups = canonical_names(module), dict[object, dict[str, Tensor]]()
    for name, p in module.named_parameters():
        if not isinstance(p, nn.parameter.UninitializedParameter) and not is_placed(p) and has_memory(p):
            groups.setdefault((p.device, p.untyped_storage().data_ptr()), {}).setdefault(canonical[name], p)
    for group in groups.values():
        given = [n for n in group if n in masks]
        expanded = [n for n in given if 0 in group[n].stride()]
        if expanded:
            note = "lower(model, masks) gives it memory of its own"
            yield Diagnostic("PKC474", f"parameter {expanded[0]!r} is expanded: several of its entries share memory", notes=(note,))
        elif given and len(group) > 1:
            yield from _overlaps(group, {n: masks[n].cpu() for n in given})


def _overlaps(group: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    """The faults of the parameters that lie in one piece of memory."""
    count = max(p.untyped_storage().nbytes() // p.element_size() for p in group.values())
    places = {n: torch.arange(count).as_strided(p.shape, p.stride(), p.storage_offset()) for n, p in group.items()}
    gone = torch.zeros(count, dtype=torch.bool)
    for name, mask in masks.items():
        gone[places[name][~mask]] = True
    for name, place in places.items():
        wrong = gone[place] & masks.get(name, torch.ones_like(place, dtype=torch.bool))
        if wrong.any():
            others = first_few([repr(n) for n in group if n != name])
            yield Diagnostic(
                "PKC473",
                f"parameter {name!r} shares memory with {others}, and keeps {int(wrong.sum()):,} entries that are dropped there",
                notes=("lower(model, masks) gives each its own memory; or prune one of them: except = GLOB",),
            )
            return


def _shape(parameter: Tensor) -> torch.Size | None:
    """None where there is none yet, or only a piece of it."""
    return None if isinstance(parameter, nn.parameter.UninitializedParameter) or is_flat(parameter) else parameter.shape


def _misfits(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    """One error for all unknown names, one for all that are no masks, one for all other shapes."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    unknown = [name for name in masks if name not in parameters]
    odd = [n for n, mask in masks.items() if n in parameters and not _is_mask(mask)]
    misshapen = {
        name: _shape(parameters[name])
        for name, mask in masks.items()
        if name in parameters and name not in odd and _shape(parameters[name]) not in (None, mask.shape)
    }
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), parameters, 3) or list(parameters)[:3]
        listed = (f"closest names: {', '.join(close)}", "list them: [n for n, _ in model.named_parameters()]")
        notes = (FULLY_SHARD,) if keeps_flat(module) else listed
        yield Diagnostic(
            "PKC470", _counted(unknown, "names no parameter of the model", "name no parameter of the model"), notes=notes
        )
    if odd:
        kind = _kind(masks[odd[0]])
        one, many = f"is {kind}, expected a torch.bool", f"are no masks: {odd[0]!r} is {kind}, expected a torch.bool"
        yield Diagnostic(
            "PKC472",
            _counted(odd, one, many) + " tensor (True = kept)",
            notes=(_remedy(odd[0], masks[odd[0]]),),
        )
    if misshapen:
        shapes = [f"{n!r} has shape {tuple(masks[n].shape)}, the parameter has {tuple(s or ())}" for n, s in misshapen.items()]
        plural = "mask " if len(shapes) == 1 else f"{len(shapes)} masks do not fit: "
        yield Diagnostic(
            "PKC471",
            plural + first_few(shapes, 3, "; "),
            notes=("make the masks from this model: pkcompiler.prune(model, example_inputs, ...).masks",),
        )


def _counted(names: Sequence[str], one: str, many: str) -> str:
    """``mask 'a' is ...``, or ``3 masks ('a', 'b', 'c') are ...``."""
    shown = first_few([repr(n) for n in names])
    return f"mask {shown} {one}" if len(names) == 1 else f"{len(names)} masks ({shown}) {many}"


def _kind(mask: object) -> str:
    if isinstance(mask, Tensor) and (why := not_plain(mask)):
        return why.removeprefix("is ")
    return str(mask.dtype) if isinstance(mask, Tensor) else type(mask).__name__


def _remedy(name: str, mask: object) -> str:
    """What makes a mask of what was given for one, where something does."""
    given = f"masks[{name!r}]"
    if isinstance(mask, Tensor):
        plain = plainly(mask) if not_plain(mask) else ""
        return "give a mask with values" if mask.is_meta else f"{given} = {given}{plain} != 0"
    if hasattr(mask, "__array__") or isinstance(mask, list):
        return f"{given} = torch.as_tensor({given}) != 0"
    return "give a torch.bool tensor of the parameter's shape"


def _is_mask(mask: object) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool and not not_plain(mask)


def _conflicts(canonical: Mapping[str, str], masks: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    seen: dict[str, str] = {}
    for name in (name for name in masks if name in canonical and _is_mask(masks[name])):
        other = seen.setdefault(canonical[name], name)
        if not torch.equal(masks[other].cpu(), masks[name].cpu()):
            yield Diagnostic(
                "PKC473",
                f"masks {other!r} and {name!r} differ, yet both name one tied parameter",
                notes=(f"keep one of them: del masks[{name!r}]",),
            )


def _unmaskable(module: nn.Module, canonical: Mapping[str, str], masks: Mapping[str, Tensor]) -> Iterator[Diagnostic]:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            note = "call the model once first: model(x)"
            yield Diagnostic("PKC474", f"parameter {name!r} has no shape yet (lazy module)", notes=(note,))
        elif is_flat(parameter) and name in masks:
            yield flat_fault(name)
        elif not (parameter.is_floating_point() or parameter.is_complex()) and name in masks:
            note = f"leave it as it is: del masks[{name!r}]"
            yield Diagnostic("PKC474", f"parameter {name!r} is {parameter.dtype}, which nothing trains", notes=(note,))
    wanted = {canonical[name]: name for name in masks if name in canonical}
    for path, child in module.named_modules():
        if not isinstance(child, nn.Embedding | nn.EmbeddingBag):
            continue
        given = wanted.get(canonical.get(f"{path}.weight" if path else "weight", ""))
        odd = "sparse=True" if child.sparse else f"max_norm={child.max_norm}" if child.max_norm is not None else ""
        if given and odd:
            yield Diagnostic(
                "PKC474",
                f"mask {given!r} is for an embedding with {odd}, which rewrites or sends gradients to single rows only",
                notes=(f"leave it dense: del masks[{given!r}]",),
            )
