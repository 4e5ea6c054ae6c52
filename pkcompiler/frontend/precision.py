"""The precision of an analysis: a model's copy in it, and the runs of that copy, where every cast is to it (docs/theory.md, 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import mode_stack_state_for_pre_dispatch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import Diagnostic, fail, raise_all

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
"""The dtypes that analyses run in, each with that of complex numbers made of it."""

CASTS = {
    **{getattr(Tensor, name): torch.float32 for name in ("float", "double", "half", "bfloat16")},
    **{getattr(Tensor, name): torch.complex64 for name in ("cfloat", "cdouble", "chalf")},
}
"""Casts whose dtype is their name: whether they are to a real or to a complex one."""

BITS = (Tensor.view,)
"""What reads a dtype as another meaning of the same bits."""


def check_dtype(dtype: Any) -> None:
    """Raise ``PKC501`` for anything but a dtype that analyses run in."""
    if dtype not in COMPLEX:
        raise fail("PKC501", f"analyses run in float64 or float32, not {dtype}", "use dtype=torch.float64")


def kind_of(given: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What a dtype is in precision ``dtype``: floating ones are it, complex ones a pair of it, others stay."""
    if given.is_complex:
        return COMPLEX.get(dtype, given)
    return dtype if given.is_floating_point else given


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A floating or complex tensor in another precision; anything else as it is."""
    if not isinstance(value, Tensor) or value.dtype == kind_of(value.dtype, dtype):
        return value
    return value.to(kind_of(value.dtype, dtype))


# a model ----------------------------------------------------------------------------------------------------------------


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself, converted; complex tensors stay complex (``.to(dtype)`` would drop their imaginary part)."""
    model._apply(lambda tensor: cast(tensor, dtype))
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules") and any(_differs(t, dtype) for t in pytree.tree_leaves(value)):
                vars(module)[name] = pytree.tree_map(lambda t: cast(t, dtype), value)
    return model


def in_order(model: nn.Module) -> nn.Module:
    """The model itself, with the entries of every parameter and buffer in memory in the order of their positions."""
    for tensor in state_of(model):
        tensor.data = tensor.data.contiguous()
    return model


def refuse_complex(model: nn.Module) -> None:
    """Raise ``PKC209`` where parameters are complex."""
    last = "store real and imaginary part as parameters of their own, and compute with both"
    found = [(n, p.dtype) for n, p in model.named_parameters() if p.is_complex()]
    raise_all(
        [
            Diagnostic("PKC209", f"parameter '{name}' is complex ({kind}), and the weights of paths are real", notes=(last,))
            for name, kind in found
        ]
    )


def _differs(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.dtype != kind_of(value.dtype, dtype)


def is_ready(model: nn.Module, dtype: torch.dtype | None) -> bool:
    """Whether a model can be analysed as it is: in this precision and in order, and made outside of ``torch.inference_mode``."""
    state = [*state_of(model)]
    held = [t for t in pytree.tree_leaves([list(vars(m).values()) for m in model.modules()]) if isinstance(t, Tensor)]
    if any(t.is_inference() for t in (*state, *held)) or not all(t.is_contiguous() for t in state):
        return False
    return dtype is None or all(t.dtype == kind_of(t.dtype, dtype) for t in (*state, *held))


# its runs ---------------------------------------------------------------------------------------------------------------


@contextmanager
def defaults(dtype: torch.dtype | None, tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Inside, what names no dtype and no device is made in ``dtype`` (None: in that of the tensors, if that is a default dtype of
    torch's), where the tensors are."""
    before, held = torch.get_default_dtype(), list(tensors)
    own = next((t.dtype for t in held if t.is_floating_point() and t.dtype in COMPLEX), before)
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(dtype or own)
        if held and held[0].device.type != "cpu":
            stack.enter_context(held[0].device)
        yield


@contextmanager
def computing_in(dtype: torch.dtype | None, model: nn.Module) -> Iterator[None]:
    """:func:`defaults`, and every cast that the model's own code asks for is to ``dtype`` (None: what it asks for)."""
    with defaults(dtype, state_of(model)), ExitStack() as stack:
        if dtype is not None:
            stack.enter_context(_Casting(dtype))
        yield


def state_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from model.parameters()
    yield from model.buffers()


class _Casting(TorchFunctionMode):
    """Whatever dtype an operation is asked for, or reads, is floating in one precision alone.

    What torch itself calls while it traces one (below the modes of the trace) is left alone.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.depth = _dispatch_modes()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or func in BITS or _dispatch_modes() < self.depth:
            return func(*args, **kwargs)
        kind = _asked(func, args, kwargs)
        if kind is not None and (kind.is_floating_point or kind.is_complex):
            return Tensor.to(args[0], kind_of(kind, self.dtype), **{k: a for k, a in kwargs.items() if k != "dtype"})
        start = 1 if _writes(name) else 0
        given = (*args[:start], *(self._read(a) for a in args[start:]))
        result = func(*given, **{k: a if k == "out" else self._read(a) for k, a in kwargs.items()})
        made = not any(isinstance(t, Tensor) for t in args)
        return cast(result, self.dtype) if made else result

    def _read(self, argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return kind_of(argument, self.dtype)
        if isinstance(argument, Tensor):
            return cast(argument, self.dtype)
        if isinstance(argument, tuple | list) and any(isinstance(a, Tensor) for a in argument):
            return (tuple if isinstance(argument, tuple) else list)(cast(a, self.dtype) for a in argument)
        return argument


def _dispatch_modes() -> int:
    """How many dispatch modes are on torch's stacks: one less than around it inside of what a mode does."""
    return torch._C._len_torch_dispatch_stack() + mode_stack_state_for_pre_dispatch().count()


def _asked(func: Any, args: Any, kwargs: Any) -> torch.dtype | None:
    """The dtype of a cast that says it in its name or as a type of tensors."""
    if func in CASTS:
        return CASTS[func]
    if func is not Tensor.type or len(args) + len(kwargs) < 2:
        return None
    wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
    found: torch.dtype = getattr(
        attrgetter(wanted.removeprefix("torch."))(torch) if isinstance(wanted, str) else wanted, "dtype", wanted
    )
    return found


def _writes(name: str) -> bool:
    """Whether a method writes to its first argument, which must stay the one that it is."""
    return (name.endswith("_") and not name.endswith("__")) or name.startswith(("__i", "__set"))
