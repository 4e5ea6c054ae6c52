"""What :func:`pkcompiler.compact` gives: the smaller network, what is left of every tensor, and states there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkcompiler.arguments import methods_checked
from pkcompiler.diagnostics import fail, first_few
from pkcompiler.lowering.compact.cuts import Cut
from pkcompiler.lowering.modules import Lowered, ModePair
from pkcompiler.modes import methods_in_own_modes

Kept = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """``parameters``, ``multiply_adds``: of the dense network and of this one, for one sample; ``stays``: units that carry nothing
    and stay, by the reason; ``put_back``: values that an operation reads whole, with how many zeros are put back there."""

    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    stays: tuple[tuple[str, int], ...]
    put_back: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        rows = [
            f"{name:<14} {dense:>14,} -> {left:>14,}  {left / dense if dense else 0:8.2%}"
            for name, (dense, left) in (("parameters", self.parameters), ("multiply-adds", self.multiply_adds))
        ]
        rows += [f"{count:,} dead {_units(count)}: {reason}" for reason, count in self.stays]
        rows += [f"%{name} is read whole, with zeros put back: {count:,}" for name, count in self.put_back]
        return "\n".join(rows)


def _units(count: int) -> str:
    return "unit stays" if count == 1 else "units stay"


@methods_checked
@methods_in_own_modes
@dataclass(frozen=True, eq=False)
class Compact:
    """A smaller network with the function of a masked one.

    ``module``: a trainable graph under the names of the dense model, in which masks that drop anything else are woven in as by
    :func:`pkcompiler.lower`. ``masks``: bool, in compact shapes, where something is still dropped. ``cuts``: of every parameter
    and buffer by each of its names. ``dense``: the masks that it was made with.
    """

    module: Lowered | ModePair
    masks: dict[str, Tensor]
    report: Report
    cuts: Mapping[str, Cut]
    dense: Mapping[str, Tensor]

    @property
    def kept(self) -> dict[str, Kept]:
        """By name of a parameter or buffer: for each dimension the positions that are left (int64, ascending), None = all."""
        return {name: cut.kept for name, cut in self.cuts.items()}

    @property
    def gone(self) -> dict[str, int]:
        """By name of a parameter or buffer, how many entries have left; those of which none has are not listed."""
        sizes = {n: (torch.Size(c.shape).numel(), torch.Size(c.sizes).numel()) for n, c in self.cuts.items()}
        return {name: whole - left for name, (whole, left) in sizes.items() if whole != left}

    def shrink(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A ``state_dict`` of the dense model in compact shapes. Raises ``PKC281`` for names or shapes that are not its own."""
        return {name: self._cut(name, tensor, "shape").take(tensor.detach()).clone() for name, tensor in state.items()}

    def expand(self, state: Mapping[str, Tensor], base: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """A ``state_dict`` of the compact network in the dense model's shapes.

        :param base: a ``state_dict`` of the dense model, whose entries fill what is gone; default: zeros.
        :raises PkcError: PKC281 for names or shapes that are not its own
        """
        out = {}
        for name, tensor in state.items():
            cut = self._cut(name, tensor, "sizes")
            whole = base.get(name) if base is not None else None
            if whole is not None and tuple(whole.shape) != cut.shape:
                raise _misfit(name, whole, cut.shape)
            out[name] = cut.put(tensor.detach(), tensor.new_zeros(cut.shape) if whole is None else whole.detach().to(tensor))
        return out

    def shrink_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the dense model in compact shapes."""
        return self.shrink(masks)

    def expand_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks in compact shapes in the dense model's; what is gone is dropped."""
        return self.expand(masks)

    def shrink_optimizer(self, state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """The ``state_dict`` of an optimizer over the dense model's parameters, for one over the compact network's.

        :param names: of the parameters in the order in which the optimizer has them
        :raises PkcError: PKC282 for a state whose tensors have not their parameter's shape
        """
        return self._optimizer(state, names, lambda cut, tensor, _: cut.take(tensor).clone(), "shape", None)

    def expand_optimizer(
        self, state: Mapping[str, Any], names: Sequence[str], base: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The ``state_dict`` of an optimizer over the compact network's parameters, for one over the dense model's.

        :param base: a ``state_dict`` of that one, whose entries fill what is gone; default: zeros
        :raises PkcError: PKC282 for a state whose tensors have not their parameter's shape
        """

        def put(cut: Cut, tensor: Tensor, whole: Tensor | None) -> Tensor:
            return cut.put(tensor, tensor.new_zeros(cut.shape) if whole is None else whole.to(tensor))

        return self._optimizer(state, names, put, "sizes", base)

    def _optimizer(self, state: Mapping[str, Any], names: Sequence[str], change: Any, own: str, base: Any) -> dict[str, Any]:
        for given in (state, *([] if base is None else [base])):
            _refuse_stateless(given)
        order = [p for group in state["param_groups"] for p in group["params"]]
        listed = list(names)
        if len(listed) != len(order):
            raise fail(
                "PKC282",
                f"the optimizer has {len(order)} parameters, and {len(listed)} names are given",
                "names = [n for n, _ in model.named_parameters()], in the order in which the optimizer was given them",
            )
        changed = {}
        for key, name in zip(order, listed, strict=True):
            if key not in state["state"]:
                continue
            cut, entries = self._named(name), {}
            for what, value in state["state"][key].items():
                if not isinstance(value, Tensor) or value.dim() == 0:
                    entries[what] = value.clone() if isinstance(value, Tensor) else value
                elif tuple(value.shape) == getattr(cut, own):
                    whole = base["state"].get(key, {}).get(what) if base is not None else None
                    entries[what] = change(cut, value, whole)
                else:
                    raise fail(
                        "PKC282",
                        f"the state '{what}' of '{name}' has shape {tuple(value.shape)}, the parameter has {getattr(cut, own)}",
                        "states of the parameter's shape translate (SGD, Adam and their like); begin others anew",
                    )
            changed[key] = entries
        return {"state": changed, "param_groups": [dict(group) for group in state["param_groups"]]}

    def _named(self, name: str) -> Cut:
        if name not in self.cuts:
            raise fail("PKC281", f"'{name}' is no parameter or buffer of the model", f"it has {first_few(list(self.cuts))}")
        return self.cuts[name]

    def _cut(self, name: str, tensor: Tensor, own: str) -> Cut:
        cut = self._named(name)
        if tuple(tensor.shape) != getattr(cut, own):
            raise _misfit(name, tensor, getattr(cut, own))
        return cut


def _refuse_stateless(state: Mapping[str, Any]) -> None:
    """Raise ``PKC282`` for what no optimizer of torch's gives."""
    groups, entries = state.get("param_groups"), state.get("state")
    grouped = isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    if not grouped or not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise fail("PKC282", "this is no state of an optimizer: no 'param_groups', or no 'state'", "give optimizer.state_dict()")


def _misfit(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Exception:
    return fail(
        "PKC281",
        f"'{name}' has shape {tuple(tensor.shape)}, expected {shape}",
        "shrink takes the dense model's state, expand the compact network's",
    )
