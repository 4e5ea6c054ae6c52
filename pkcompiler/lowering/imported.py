"""Masks of networks that others have pruned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pkcompiler.arguments import checked
from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.frontend.pruned import both, of_zeros, taken_apart
from pkcompiler.lowering.apply import applied_masks
from pkcompiler.modes import in_own_modes


@checked
@in_own_modes
def import_masks(module_or_state: nn.Module | Mapping[str, Tensor], *, zeros: bool = False) -> dict[str, Tensor]:
    """The masks of a network that is pruned already, by the names of the parameters in the dense model.

    Of a module or a ``state_dict``: those that ``torch.nn.utils.prune`` keeps (``weight_orig``, ``weight_mask``), and those of code
    that keeps a tensor ``weight_mask`` of 0 and 1 beside ``weight``; of a module also those that pkcompiler has put on it.

    :param zeros: take matrices and kernels that hold zeros, and have no mask, as pruned where they are zero.
    :returns: parameter name to bool tensor, True = kept.
    :raises PkcError: PKC464 where no mask is found, PKC465 for a ``weight_mask`` of other numbers than 0 and 1.
    """
    state = _state(module_or_state)
    masks, weights = taken_apart(state)
    if isinstance(module_or_state, nn.Module):
        masks = dict(both(masks, applied_masks(module_or_state)) or {})
    if zeros:
        masks |= {name: mask for name, mask in of_zeros(weights).items() if name not in masks}
    if not masks:
        raise _none_found(weights, zeros)
    return masks


def _state(given: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors by name, masks that no ``state_dict`` holds among them."""
    if not isinstance(given, nn.Module):
        return {name: value for name, value in given.items() if isinstance(value, Tensor)}
    return dict([*given.named_parameters(), *given.named_buffers()])


def _none_found(weights: Mapping[str, Tensor], zeros: bool) -> PkcError:
    held = of_zeros(weights)
    note = "a mask is a tensor 'weight_mask' of 0 and 1 beside 'weight' or 'weight_orig'"
    take = typed_or_called("take the zeros as pruned: --zeros", "take the zeros as pruned: zeros=True")
    message = f"none of the {len(weights)} tensors is a mask" + ("" if zeros else f"; {len(held)} matrices hold zeros")
    return fail("PKC464", message, *([take] if held and not zeros else []), note)
