"""What each node of an exported program is to paths: known without data, observed at the data, an index, or a path value."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from pkcompiler.frontend.export import Program
from pkcompiler.frontend.lift.computed import computed_weights
from pkcompiler.ops.gates import FACTORIES, LINEAR, NORMS, PASS_THROUGH, SINGULAR, is_pointwise, is_singular

Kind = Literal["number", "known", "index", "stored", "path", "observed", "several"]

RESHAPES = frozenset(
    ["aten.view.default", "aten.reshape.default", "aten.unsqueeze.default", "aten.squeeze.dim", "aten.flatten.using_ints"]
)


@dataclass(frozen=True, slots=True)
class Region:
    """A pointwise function of one tensor: ``root`` is that tensor.

    ``bent``: the function is a gate, and not a linear one, which has paths of its own.
    """

    root: fx.Node
    bent: bool


@dataclass(frozen=True, slots=True)
class Classes:
    """The kind of every node, the pointwise regions, why each observed node is one (``norm`` or ``factor``), and which nodes are
    computed weights (stored, as a parameter is)."""

    kinds: Mapping[fx.Node, Kind]
    regions: Mapping[fx.Node, Region]
    observed: Mapping[fx.Node, str]
    computed: frozenset[fx.Node] = frozenset()


def op_name(node: fx.Node) -> str:
    """``aten.relu.default``; Python's own functions by their bare name."""
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def short(operator: str) -> str:
    """``aten.erf.default`` as ``erf``."""
    return operator.removeprefix("aten.").rsplit(".", 1)[0]


def meta(node: fx.Node) -> Any:
    """What the trace recorded of what a node gives: a tensor without values, several, or a number; None where nothing."""
    return node.meta.get("val")


def is_floating(node: fx.Node) -> bool:
    """Whether a node gives one floating-point tensor."""
    value = meta(node)
    return isinstance(value, Tensor) and value.is_floating_point()


def is_complex(node: fx.Node) -> bool:
    """Whether a node gives one complex tensor."""
    value = meta(node)
    return isinstance(value, Tensor) and value.is_complex()


def tensor_operands(node: fx.Node) -> list[fx.Node]:
    """The node's operands that are tensors (or tuples of tensors), in order."""
    return [
        n
        for n in node.all_input_nodes
        if not isinstance(meta(n), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)
    ]


def classify(program: Program) -> Classes:
    """Walk the program once, in order."""
    return _Classifier(program).run()


class _Classifier:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.kinds: dict[fx.Node, Kind] = {}
        self.regions: dict[fx.Node, Region] = {}
        self.observed: dict[fx.Node, str] = {}
        self.computed = frozenset(computed_weights(program))

    def run(self) -> Classes:
        for node in self.program.module.graph.nodes:
            if node.op != "output":
                self.kinds[node] = self.kind(node)
        return Classes(self.kinds, self.regions, self.observed, self.computed)

    def kind(self, node: fx.Node) -> Kind:
        if node.op == "placeholder":
            return self.placeholder(node)
        if node in self.computed:
            return "stored"
        value = meta(node)
        if node.op == "get_attr":
            return "known"
        if value is not None and not isinstance(value, Tensor | tuple | list):
            return "number"
        if op_name(node) in FACTORIES:
            return "known"
        operands = [self.kinds[n] for n in node.all_input_nodes]
        if not any(k in ("path", "stored", "observed", "several") for k in operands):
            return self.data_free(node, operands)
        if isinstance(value, tuple | list):
            return "several"
        if node.target is operator.getitem:
            return "path" if is_floating(node) or is_complex(node) else self.observe(node, "factor")
        if is_complex(node):
            on_path = any(k in ("path", "stored", "several") for k in operands)
            return "path" if on_path else self.observe(node, "factor")
        if not is_floating(node):
            self.compare(node)
            return self.observe(node, "factor")
        return self.floating(node)

    def placeholder(self, node: fx.Node) -> Kind:
        if node.name in self.program.parameters:
            return "stored" if is_floating(node) else "known"  # whole numbers are no weights: indices, counts
        if node.name in self.program.inputs:
            if is_floating(node) or is_complex(node):
                return "path"
            return "index" if isinstance(meta(node), Tensor) else "known"
        return "known"

    def data_free(self, node: fx.Node, operands: list[Kind]) -> Kind:
        """No parameter and no floating input: a constant, or an integer input that is reshaped, or one that is computed with."""
        if "index" not in operands:
            return "known"
        if op_name(node) in RESHAPES | PASS_THROUGH and not is_floating(node):
            return "index"
        return self.observe(node, "factor")

    def observe(self, node: fx.Node, why: str) -> Kind:
        self.observed[node] = why
        return "observed"

    def data(self, node: fx.Node) -> list[fx.Node]:
        return [n for n in tensor_operands(node) if self.kinds[n] in ("path", "stored", "observed")]

    def compare(self, node: fx.Node) -> None:
        """A comparison of one tensor may be part of an activation (``where(x > 0, x, a * x)``)."""
        data = self.data(node)
        if is_pointwise(node.target) and data and (root := self.common_root(node, data)):
            self.regions[node] = Region(root, True)

    def floating(self, node: fx.Node) -> Kind:
        name, data = op_name(node), self.data(node)
        if all(self.kinds[n] == "observed" for n in data):
            if len(data) == 1 and data[0] in self.regions and (is_pointwise(node.target) or name in PASS_THROUGH):
                self.regions[node] = self.regions[data[0]]
            return self.observe(node, "norm" if any(self.observed[n] == "norm" for n in data) else "factor")
        if not is_pointwise(node.target):
            return self.observe(node, "norm" if name in NORMS else "factor") if name in NORMS | SINGULAR else "path"
        return self.pointwise(node, name, data)

    def pointwise(self, node: fx.Node, name: str, data: list[fx.Node]) -> Kind:
        root = self.common_root(node, data)
        inside = [self.region_of(n) for n in data] if root else []
        bent_inside = any(r.bent for r in inside)
        if is_singular(name, node.args[1] if len(node.args) > 1 else None) and not bent_inside:
            return self.observe(node, "norm" if name in NORMS else "factor")
        if root:
            linear = name in PASS_THROUGH or (name in LINEAR and not is_square(node) and (len(data) == 1 or name in SUMS))
            self.regions[node] = Region(root, bent_inside or not linear)
        return "path"

    def region_of(self, node: fx.Node) -> Region:
        """The region that ends at ``node``; a node that is no pointwise function starts one of its own."""
        return self.regions.get(node) or Region(node, False)

    def common_root(self, node: fx.Node, data: list[fx.Node]) -> fx.Node | None:
        """The one tensor that the node is a pointwise function of: constants are numbers, shapes are equal."""
        root = self.region_of(data[0]).root
        shape = tuple(meta(node).shape)
        others = [n for n in tensor_operands(node) if n not in data]
        fits = (
            self.kinds[root] in ("path", "stored")
            and all(self.region_of(n).root is root and tuple(meta(n).shape) == shape for n in data)
            and all(isinstance(meta(n), Tensor) and (meta(n).numel() == 1 or filled(n, shape)) for n in others)
        )
        return root if fits else None


SUMS = frozenset(name for name in LINEAR if "add" in name or "sub" in name)


def is_square(node: fx.Node) -> bool:
    """``x * x``"""
    return op_name(node) == "aten.mul.Tensor" and node.args[0] is node.args[1]


def filled(node: fx.Node, shape: tuple[Any, ...]) -> bool:
    """Whether the node is a tensor of that shape with one number everywhere."""
    return op_name(node) in FACTORIES and tuple(meta(node).shape) == shape
