"""The functions that lowered graphs call beside torch's own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.func import functional_call

from pkcompiler.diagnostics import PkcError, fail

Shapes = tuple[tuple[int | str, ...] | None, ...]


def fetch(module: nn.Module, name: str) -> Any:
    """The attribute with the dotted ``name``."""
    value: Any = module
    for atom in name.split("."):
        value = getattr(value, atom)
    return value


def call_with(module: nn.Module, weights: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``module(*args, **kwargs)`` with ``weights`` in place of the parameters of those names (aliases follow)."""
    return functional_call(module, dict(weights), tuple(args), dict(kwargs))


def store(buffer: Tensor, value: Tensor, name: str) -> None:
    """What a forward assigns to the buffer ``name``, written into it.

    :raises PkcError: PKC279 for another shape or dtype than the buffer has.
    """
    if value.shape != buffer.shape or value.dtype != buffer.dtype:
        raise fail(
            "PKC279",
            f"the forward assigns {_kind(value)} to the buffer {name!r}, which is {_kind(buffer)}",
            "register the buffer as it will be, or keep the class: pkcompiler.apply_masks(model, masks)",
        )
    buffer.copy_(value)


def in_place(name: str, target: Any, value: Any) -> Any:
    """``target += value`` and its like, by the name in :mod:`operator`; a tensor is written, a number is not."""
    return getattr(operator, name)(target, value)


def check_fixed(given: Any, fixed: Any, name: str, note: str = "") -> None:
    """The argument ``name`` of the forward must be what recording fixed it to.

    :param note: what to do else; default: to lower with a dict that has it.
    :raises PkcError: PKC278.
    """
    if given is not fixed and (isinstance(given, Tensor) or given != fixed):
        raise _other_argument(name, repr(fixed), given, note)


def check_given(given: Any, name: str) -> None:
    """The argument ``name`` of the forward, which may be left out there, was a tensor when it was recorded.

    :raises PkcError: PKC278.
    """
    if not isinstance(given, Tensor):
        raise _other_argument(name, "a tensor", given)


def _other_argument(name: str, recorded: str, given: Any, note: str = "") -> PkcError:
    what = _kind(given) if isinstance(given, Tensor) else repr(given)
    note = note or f"lower with an example of this call: lower(model, masks, {{..., {name!r}: ...}})"
    return fail("PKC278", f"the graph was recorded with {name} = {recorded}, it was called with {name} = {what}", note)


def _kind(tensor: Tensor) -> str:
    return f"a {str(tensor.dtype).removeprefix('torch.')} tensor of shape {_text(tensor.shape)}"


def check_shapes(expected: Shapes, inputs: Sequence[Any]) -> None:
    """Sizes recorded as numbers must be equal, sizes recorded under one letter must agree; None stands for what is no tensor.

    :raises PkcError: PKC276.
    """
    sizes: dict[str, int] = {}
    pairs = [(want, value.shape) for want, value in zip(expected, inputs, strict=True) if want is not None]
    if not all(_fits(want, shape, sizes) for want, shape in pairs):
        raise fail(
            "PKC276",
            f"the graph was recorded for inputs of shape {', '.join(_text(want) for want, _ in pairs)}, "
            f"it was called with {', '.join(_text(shape) for _, shape in pairs)}",
            "lower again for these sizes: lower(model, masks, example_inputs)",
        )


def _fits(want: Sequence[int | str], shape: Sequence[int], sizes: dict[str, int]) -> bool:
    if len(want) != len(shape):
        return False
    return all(size == (x if isinstance(x, int) else sizes.setdefault(x, size)) for x, size in zip(want, shape, strict=True))


def _text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def call_node(node: fx.Node, root: nn.Module, values: Callable[[fx.Node], Any]) -> Any:
    """What a node that calls something computes, of other values of its operands, in the modules of another tree."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values)
    return called(node, root, args, kwargs)


def called(node: fx.Node, root: nn.Module, args: Any, kwargs: Any) -> Any:
    """The same, of these arguments."""
    target: Any = node.target
    if node.op == "call_module":
        return fetch(root, target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)
