"""A pointwise region of the program as one gate: its text, its value and slope at 0, and the function itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from pkcompiler.frontend.lift.classify import op_name, short
from pkcompiler.frontend.lift.gain import gain_of
from pkcompiler.ir.maps import Gate
from pkcompiler.ir.walk import reached

PLUMBING = ("dtype", "layout", "device", "pin_memory")
"""Named arguments that change no value of an elementwise function."""


def region_nodes(node: fx.Node, root: fx.Node) -> list[fx.Node]:
    """The nodes of the region from ``root`` (excluded) to ``node`` (included), in the program's order."""

    def inner(here: fx.Node) -> list[fx.Node]:
        operands = here.all_input_nodes if here is not root else []
        return [n for n in operands if n is not root and n.op == "call_function" and _reads(n, root)]

    found = set(reached([node], inner))
    return [n for n in node.graph.nodes if n in found] if len(found) > 1 else [node]


def _reads(node: fx.Node, root: fx.Node) -> bool:
    """Whether ``node`` depends on ``root`` (a pointwise chain: short)."""
    return root in reached([node], lambda n: n.all_input_nodes)


def region_function(node: fx.Node, root: fx.Node, known: Mapping[str, Tensor | None]) -> Callable[[Tensor], Tensor]:
    """The scalar function phi of the region, evaluated elementwise; ``known`` holds the data-free tensors by node name."""
    nodes = region_nodes(node, root)

    def phi(z: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {root: z}

        def read(n: fx.Node) -> Any:
            if n in values:
                return values[n]
            constant = known.get(n.name)
            if constant is None:
                raise LookupError(f"{n.name} is no function of the root")
            number = constant.flatten()[0]
            return number.to(z) if number.is_floating_point() else number.to(z.device)

        for n in nodes:
            args = fx.map_arg(n.args, read)
            kwargs = {k: v for k, v in fx.map_arg(dict(n.kwargs), read).items() if k not in PLUMBING}
            target: Any = n.target
            values[n] = args[0] if op_name(n) == "aten._to_copy.default" else target(*args, **kwargs)
        result: Tensor = values[node]
        return result

    return phi


Described = tuple[Gate, float]
"""A gate, and its slope at 0."""


def describe_gate(node: fx.Node, root: fx.Node, known: Mapping[str, Tensor | None], seen: dict[str, Described]) -> Described | None:
    """The gate of a region with its gain, and its slope at 0; None when one of phi(0), phi'(0) is not finite.

    ``seen``: gates of the same program by their text, found once.
    """
    body = _text(node, root, known)
    if body not in seen:
        found = _described(node, root, known, body)
        if found is None:
            return None
        seen[body] = found
    return seen[body]


def _described(node: fx.Node, root: fx.Node, known: Mapping[str, Tensor | None], body: str) -> Described | None:
    nodes = region_nodes(node, root)
    phi = region_function(node, root, known)
    try:
        zero = value_and_slope_at_zero(phi)
    except LookupError:
        return None
    if not all(map(math.isfinite, zero)):
        return None
    kind = short(op_name(node)) if len(nodes) == 1 else "composite"
    gain = gain_of(phi, zero[0])
    return Gate(kind, body, zero[0], has_constant_slopes(phi), gain.bounded, gain.value, gain.exact), zero[1]


def value_and_slope_at_zero(phi: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """phi(0) and phi'(0) in float64 (torch's own convention at kinks: relu'(0) = 0)."""
    with torch.enable_grad():
        z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        value = phi(z)
        slope = torch.autograd.grad(value.sum(), z, allow_unused=True)[0] if value.requires_grad else None
    return float(value.detach()), 0.0 if slope is None else float(slope)


def has_constant_slopes(phi: Callable[[Tensor], Tensor]) -> bool:
    """Whether phi(z) = |z| phi(sign z): the slope phi(z)/z is locally constant (ReLU yes; ReLU6, which saturates, no).

    Probed on both sides of 0 over sixteen decades, in float64.
    """
    z = torch.logspace(-8, 8, 65, dtype=torch.float64)
    probes = torch.cat([z, -z])
    units = phi(probes.sign())
    return bool(torch.allclose(phi(probes), probes.abs() * units, rtol=1e-12, atol=0.0))


def is_floor(phi: Callable[[Tensor], Tensor]) -> bool:
    """Whether phi changes no ordinary number and keeps large ones large, infinite ones too (``max(z, finfo.min)``)."""
    z = torch.tensor([0.0, 1e-3, 0.3, 1.0, 7.0, 1e2, 9e3], dtype=torch.float64)
    far = torch.tensor([1e4, 1e5, 1e9, 1e38, 1e300, math.inf], dtype=torch.float64)
    try:
        with torch.no_grad():
            return all(torch.equal(phi(side * z), side * z) and bool((side * phi(side * far) >= 1e4).all()) for side in (1, -1))
    except (LookupError, RuntimeError, NotImplementedError):
        return False


def _text(node: fx.Node, root: fx.Node, known: Mapping[str, Tensor | None]) -> str:
    """phi as text in ``x``, with every argument that phi depends on: ``mul(x, sigmoid(x))``, ``clamp(x, None, 4)``."""

    def show(value: Any) -> str:
        if value is root:
            return "x"
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(show, value))}]"
        if not isinstance(value, fx.Node):
            return repr(value)
        if (constant := known.get(value.name)) is not None:
            return repr(constant.flatten()[0].item())
        if value.op != "call_function":
            return value.name
        named = (f"{name}={show(given)}" for name, given in value.kwargs.items() if name not in PLUMBING)
        return f"{short(op_name(value))}({', '.join((*map(show, value.args), *named))})"

    return show(node)
