"""Computed weights (docs/theory.md, section 1): which nodes of a program are one factor made of parameters, and the text of how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pkcompiler.frontend.export import Program
from pkcompiler.frontend.observed import DTYPES, MAKES_WEIGHTS, behind
from pkcompiler.ir.computed import OPERATORS, WORDS, Argument, Dtype, Operand, Result, Step
from pkcompiler.ops.gates import is_random

LAYERS = frozenset(
    ["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"]
)

FACTORS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(["mul", "mm", "bmm", "matmul", "mv", "dot"], (0, 1)),
    **dict.fromkeys(["div", "embedding"], (0,)),
    **dict.fromkeys(["addmm", "baddbmm"], (1, 2)),
    **dict.fromkeys(LAYERS, (0, 1)),
    **dict.fromkeys(["layer_norm", "rms_norm", "group_norm", "native_layer_norm"], (2,)),
    **dict.fromkeys(["batch_norm", "instance_norm", "_native_batch_norm_legit_no_training"], (1,)),
}
"""The arguments of an operator that are factors of its result, by position."""


def overload(node: fx.Node) -> str:
    """``mul.Tensor``"""
    return str(node.target).removeprefix("aten.") if isinstance(node.target, torch._ops.OpOverload) else "getitem"


def packet(node: fx.Node) -> str:
    """``mul``"""
    return overload(node).partition(".")[0]


def computed_weights(program: Program) -> tuple[fx.Node, ...]:
    """The nodes that are computed weights, in the program's order. What computes them is marked: there 0/0 is 0 in every run."""
    found = _Finder(program).found()
    for node in {part for weight in found for part in behind(weight)}:
        node.meta[MAKES_WEIGHTS] = node.op == "call_function"
    return found


class _Finder:
    """What every node depends on: data, or parameters alone, and in which way."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.data: set[fx.Node] = set()
        self.parameters: dict[fx.Node, frozenset[str]] = {}
        self.layered: set[fx.Node] = set()
        self.plain: set[fx.Node] = set()
        for node in program.module.graph.nodes:
            self.visit(node)

    def found(self) -> tuple[fx.Node, ...]:
        wanted = (n for n in self.parameters if self.is_candidate(n))
        return tuple(n for n in wanted if any(self.is_factor(n, user) for user in n.users))

    def visit(self, node: fx.Node) -> None:
        operands = node.all_input_nodes
        if node.op == "placeholder":
            name = self.program.parameters.get(node.name)
            if name is not None and self.program.tensors[name].is_floating_point():
                self.parameters[node] = frozenset({name})
                self.plain.add(node)
            elif node.name in self.program.inputs:
                self.data.add(node)
            return
        if any(n in self.data for n in operands) or (node.op == "call_function" and is_random(node.target, node.args)):
            self.data.add(node)
            return
        mine = [n for n in operands if n in self.parameters]
        if not mine:
            return
        self.parameters[node] = frozenset().union(*(self.parameters[n] for n in mine))
        if any(n in self.layered for n in mine) or self.is_layer(node):
            self.layered.add(node)
        if all(n in self.plain for n in mine) and self.keeps_paths(node, mine):
            self.plain.add(node)

    def is_layer(self, node: fx.Node) -> bool:
        """A linear layer or a convolution with a stored weight."""
        weight = node.args[1] if len(node.args) > 1 else None
        return packet(node) in LAYERS and isinstance(weight, fx.Node) and weight.name in self.program.parameters

    def keeps_paths(self, node: fx.Node, mine: list[fx.Node]) -> bool:
        """A view, a sum, or a product by fixed factors or of factors that share no parameter; a cast to integers rounds."""
        kind = OPERATORS.get(overload(node))
        if isinstance(value := node.meta.get("val"), Tensor) and not value.is_floating_point():
            return False
        if kind != "product":
            return kind in ("view", "sum")
        if packet(node) in ("where", "masked_fill"):
            return node.args[0 if packet(node) == "where" else 1] not in self.parameters
        if packet(node) == "div" and isinstance(node.args[1], fx.Node) and node.args[1] in self.parameters:
            return False
        factors = [n for i in FACTORS.get(packet(node), (0,)) if i < len(node.args) and (n := node.args[i]) in mine]
        shared = [self.parameters[n] for n in factors if isinstance(n, fx.Node)]
        return sum(map(len, shared)) == len(frozenset().union(*shared))

    def is_candidate(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return floating and node not in self.plain and node not in self.layered and node.op == "call_function"

    def is_factor(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether ``user`` multiplies something that depends on data (or on layers of parameters) by ``node``."""
        if user.op != "call_function" or not (user in self.data or user in self.layered):
            return False
        name = packet(user)
        if OPERATORS.get(overload(user)) == "view" and user.args and user.args[0] is node and name != "embedding":
            return any(self.is_factor(user, further) for further in user.users)
        positions = FACTORS.get(name, ()) if user in self.data else (1,) if name in LAYERS else ()
        return any(i < len(user.args) and user.args[i] is node for i in positions)


class Formula:
    """The steps of one computed weight, and the nodes at which it begins."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self.program = program
        self.operands: list[fx.Node] = []
        self.steps: list[Step] = []
        self.unknown: list[fx.Node] = []
        self._made: dict[fx.Node, Operand | Result] = {}
        self._reads_parameters: dict[fx.Node, bool] = {}
        upstream = behind(node)
        for n in (n for n in node.graph.nodes if n in upstream):
            own = n.op == "placeholder" and self._is_weight(n)
            self._reads_parameters[n] = own or any(self._reads_parameters[i] for i in n.all_input_nodes)
        for n in self._reads_parameters:
            if n.op == "call_function" and self._reads_parameters[n]:
                self._made[n] = self._step(n)

    def _is_weight(self, node: fx.Node) -> bool:
        """Whether a placeholder is a parameter of numbers (whole ones are indices)."""
        name = self.program.parameters.get(node.name)
        return name is not None and self.program.tensors[name].is_floating_point()

    def _step(self, node: fx.Node) -> Result:
        op = overload(node)
        if op not in OPERATORS or not self._is_written(node):
            self.unknown.append(node)
            return Result(-1)
        named = {
            k: v for k, v in node.kwargs.items() if k not in ("device", "layout", "pin_memory", "memory_format", "non_blocking")
        }
        arguments = tuple(self._argument(a) for a in node.args)
        self.steps.append(Step(op, arguments, tuple((k, self._argument(v)) for k, v in named.items())))
        return Result(len(self.steps) - 1)

    def _argument(self, value: Any) -> Argument:
        match value:
            case fx.Node():
                return self._made.get(value) or self._operand(value)
            case torch.dtype():
                return Dtype(DTYPES[value])
            case list() | tuple():
                return tuple(self._argument(v) for v in value)
            case bool() | int() | float() | str() | None:
                return value
        raise TypeError(f"an argument of type {type(value).__name__}")

    def _is_written(self, node: fx.Node) -> bool:
        """Whether a formula has words for its arguments: for no complex number, and no dtype but the usual ones."""
        leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))
        return not any(isinstance(a, complex) or (isinstance(a, torch.dtype) and DTYPES.get(a) not in WORDS) for a in leaves)

    def _operand(self, node: fx.Node) -> Operand:
        self.operands.append(node)
        self._made[node] = Operand(len(self.operands) - 1)
        return Operand(len(self.operands) - 1)

    @property
    def inner(self) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Each operand with the nodes of the formula that read it."""
        steps = {n for n, made in self._made.items() if isinstance(made, Result)}
        return ((n, user) for n in self.operands for user in n.users if user in steps)


def label(module: str, node: fx.Node) -> str:
    """The name of a computed weight: ``fc.weight`` of ``fc.parametrizations.weight.0``, else the module's, with what it is."""
    owner, found, rest = module.partition(".parametrizations.")
    if not found and module.startswith("parametrizations."):
        owner, found, rest = "", module, module.removeprefix("parametrizations.")
    if found:
        return f"{owner}.{rest.split('.')[0]}".lstrip(".")
    multiplies = any(packet(user) in LAYERS and user.args[1] is node for user in node.users)
    return f"{module}.{'weight' if multiplies else node.name}".lstrip(".")
