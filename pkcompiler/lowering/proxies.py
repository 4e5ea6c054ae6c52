"""What stands for values while a forward is traced: what fx would get wrong about them, they record or refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx

from pkcompiler.diagnostics import fail
from pkcompiler.lowering.call import in_place

IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "ilshift", "irshift", "imatmul")
OF_PROXIES = frozenset({"tracer", "node", "root", "attr", "_node"})


def _recorded(name: str) -> Callable[[Any, Any], fx.Proxy]:
    def write(self: Any, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", in_place, (name, self, other), {})

    return write


class Written(fx.Proxy):
    """``x += 1`` is a write to x, of which fx would make a sum. ``x.data = y`` is no operation, and refused."""

    for _name in IN_PLACE:
        locals()[f"__{_name}__"] = _recorded(_name)
    del _name

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            note = "write into it, x.copy_(...), or assign the buffer itself, self.name = ...; or keep its class: "
            message = "the forward assigns the .data of a tensor, which a lowered graph would not"
            raise fail("PKC279", message, note + "pkcompiler.apply_masks(model, masks)")
        if name not in OF_PROXIES:
            raise TypeError(f"the forward assigns the attribute {name!r} of a tensor, which no node records")
        super().__setattr__(name, value)


KNOWN = ("shape", "ndim", "size", "dim", "numel", "nelement")


class Value(Written):
    """What an operation gives."""


class Attribute(Written, fx.proxy.Attribute):
    """What an attribute of a value gives, or a method that is called."""


class Member(Written):
    """A parameter or buffer read at run time, whose shape is known now."""

    member: Tensor

    def __init__(self, node: fx.Node, tracer: fx.Tracer, member: Tensor) -> None:
        super().__init__(node, tracer)
        vars(self).update({"member": member, **{name: getattr(member, name) for name in KNOWN}})

    def __len__(self) -> int:
        return len(self.member.shape) and self.member.shape[0]
