"""A device that is not there: tensors that say they lie on ``meta`` and hold their numbers on the CPU.

Under :func:`elsewhere` an operation whose tensors lie on two devices is an error, as it is where a GPU is at hand, and so are
random numbers drawn there, which a GPU would draw otherwise. What may meet is what torch lets meet: numbers of no dimension in
pointwise operations, positions of an index, and both sides of a copy. Results are those of the CPU, bit for bit.

It is a device to Python alone: not to what torch decides in C++ by the kind of a device (fused attention, streams, pinned memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily

DEVICE = torch.device("meta")
"""The one name that a CPU build lets tensors of another device have."""
CPU = torch.device("cpu")

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
"""From one device to another."""
POSITIONS = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Indices may lie on the CPU, and a value of no dimension."""
NUMBERS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill_.Tensor, aten.where.self}
"""Beside the pointwise operations, those that take a number from the CPU."""
MADE = (torch.tensor, torch.as_tensor, torch.asarray)
"""What torch, on ``meta``, makes of no numbers at all."""


class Elsewhere(Tensor):
    """A tensor on :data:`DEVICE`; ``held``: its numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: Elsewhere = Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=DEVICE)
        made.held = held
        return made

    @property
    def data(self) -> Any:
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Elsewhere) -> None:
        if not isinstance(value, Elsewhere):
            raise RuntimeError("the data of a tensor on the device are set to some on the CPU")
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    @property
    def is_meta(self) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}) if _ours(types) else NotImplemented


class _Operations(TorchDispatchMode):
    """What has no tensor among its arguments, such as ``torch.zeros(3, device=DEVICE)``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}) if _ours(types) else NotImplemented


class _Numbers(TorchFunctionMode):
    """What makes a tensor of Python's numbers, and what torch computes in other last digits under a mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.linalg.eigvalsh and isinstance(args[0], Elsewhere) and not args[0].requires_grad:
            with no_dispatch():  # else it computes eigenvectors too
                return Elsewhere(func(args[0].held, **given))
        there = args[0].device if func is Tensor.new_tensor else given.get("device")
        if (func in MADE or func is Tensor.new_tensor) and there is not None and torch.device(there) == DEVICE:
            return func(*args, **{**given, "device": CPU}).to(DEVICE)
        return func(*args, **given)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, ``.to(DEVICE)`` and ``device=DEVICE`` give tensors that are :class:`Elsewhere`.

    ``torch.export`` runs outside of it, for it computes shapes on ``meta`` tensors of its own.
    """
    program = torch.export.ExportedProgram
    with (
        mock.patch.object(torch.export, "export", _outside(torch.export.export)),
        mock.patch.object(program, "run_decompositions", _outside(program.run_decompositions)),
        _Numbers(),
        _Operations(),
    ):
        yield


def _outside(function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        with _pop_mode_temporarily():
            return function(*args, **kwargs)

    return called


def _ours(types: Sequence[type]) -> bool:
    return all(issubclass(kind, Elsewhere) or kind in (Tensor, torch.nn.Parameter) for kind in types)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on what the tensors hold; its result lies where theirs do, or where it is asked for."""
    there: dict[int, Elsewhere] = {}
    asked = kwargs.get("device")

    def held(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            there[id(value.held)] = value
            return value.held
        return CPU if isinstance(value, torch.device) and value == DEVICE else value

    def placed(value: Tensor) -> Tensor:
        return there[id(value)] if id(value) in there else Elsewhere(value)

    plain, named = _mapped(held, args), {name: _mapped(held, value) for name, value in kwargs.items()}
    lands = isinstance(args[0], Elsewhere) if func is aten.copy_.default else there if asked is None else asked == DEVICE
    if there:
        _refuse_two_devices(func, args, kwargs)
    if lands and torch.Tag.nondeterministic_seeded in func.tags:
        raise RuntimeError(f"{func} draws on the device: other numbers than on the CPU")
    found = (aten.zeros.default if func is aten._efficientzerotensor.default else func)(*plain, **named)
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # the wrapper takes the new shape too
            func(*args, **kwargs)
    return _mapped(lambda v: placed(v) if isinstance(v, Tensor) else v, found) if lands else found


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, v) for v in value])
    return function(value)


def _refuse_two_devices(func: Any, args: Any, kwargs: Any) -> None:
    """Raise RuntimeError where two devices meet that torch does not let meet."""
    if func in COPIES:
        return
    takes_numbers = func in NUMBERS or torch.Tag.pointwise in func.tags
    for argument, value in zip(func._schema.arguments, args, strict=False):
        _refuse(func, argument, value, takes_numbers)
    for argument in func._schema.arguments:
        if argument.name in kwargs:
            _refuse(func, argument, kwargs[argument.name], takes_numbers)


def _refuse(func: Any, argument: Any, value: Any, takes_numbers: bool) -> None:
    if isinstance(value, list | tuple):
        for part in value:
            _refuse(func, argument, part, takes_numbers)
        return
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
        return
    written = argument.alias_info is not None and argument.alias_info.is_write
    position = func in POSITIONS and (argument.name == "indices" or not value.dim())
    if written or not (position or (takes_numbers and not value.dim())):
        shown = f"'{argument.name}' {tuple(value.shape)}"
        raise RuntimeError(f"{func}: all tensors must be on one device; {shown} is on the CPU, others are not")
