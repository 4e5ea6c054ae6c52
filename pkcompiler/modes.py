"""torch's modes as every public entry sets them, whatever its caller's are: the same call gives the same numbers everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._contextlib import context_decorator

from pkcompiler.diagnostics import fail, typed_or_called

Given = ParamSpec("Given")
Result = TypeVar("Result")
Kind = TypeVar("Kind", bound=type)

MARK = "sets_own_modes"
"""The attribute of what is decorated."""


@contextmanager
def own_modes() -> Iterator[None]:
    """Inside: gradients are recorded, tensors are no inference tensors, nothing is autocast, numbers are float32 and on the CPU
    where nobody says otherwise, and attention takes one path. Afterwards all of it is as it was.

    torch's fast path of attention is off: with a padding mask it computes another function than the layers that it stands for.
    The default dtype and that switch are those of the whole process, so two threads that enter at once may meet.
    """
    dtype, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


@contextmanager
def keeping_default_device(whose: str) -> Iterator[None]:
    """Inside, the user's code may not change torch's default device, on which everything after it would be made (``PKC248``)."""
    before = torch.get_default_device()
    try:
        yield
    finally:
        now = _default_device()
        if now != str(before):
            torch.set_default_device(None if before.type == "cpu" else before)
            moves = typed_or_called("--device of pkc prune moves the model", "model.to(device) moves the model")
            message = f"{whose} sets torch's default device to {now}, for this whole process"
            raise fail("PKC248", message, f"leave out torch.set_default_device; {moves}")


def _default_device() -> str:
    try:
        return str(torch.get_default_device())
    except (RuntimeError, AssertionError):  # torch makes a tensor to find out
        return "one that is not there"


def in_own_modes(entry: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that runs in :func:`own_modes` (a generator between its yields, its reader in the reader's own).

    Inference tensors among its arguments, in tuples, lists and dicts too, are copied: autograd refuses them.
    """
    inside: Any = context_decorator(own_modes, entry)  # type: ignore[no-untyped-call]

    @functools.wraps(entry)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        result: Result = inside(*(usable(a) for a in args), **{name: usable(a) for name, a in kwargs.items()})
        return result

    setattr(called, MARK, True)
    return called


def methods_in_own_modes(kind: Kind) -> Kind:
    """A class whose public methods and properties, its constructor and its iteration run in :func:`own_modes`."""
    for name, member in list(vars(kind).items()):
        if name.startswith("_") and name not in ("__init__", "__next__", "__call__"):
            continue
        if inspect.isfunction(member):
            setattr(kind, name, in_own_modes(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(kind, name, property(in_own_modes(member.fget), member.fset, member.fdel, member.__doc__))
    setattr(kind, MARK, True)
    return kind


def usable(value: Any) -> Any:
    """Inference tensors as ordinary ones; anything else as it is."""
    if not any(isinstance(leaf, Tensor) and leaf.is_inference() for leaf in pytree.tree_leaves(value)):
        return value
    with torch.inference_mode(False):
        return pytree.tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, value)
