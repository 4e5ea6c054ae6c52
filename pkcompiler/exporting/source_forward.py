"""A graph as the Python of a ``forward``: one line for each operation."""

from __future__ import annotations

import builtins
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from keyword import iskeyword
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.exporting.content import as_target
from pkcompiler.lowering.call import check_fixed, in_place, store

INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
HELPERS = {
    "_only": '''def _only(name, given, recorded):
    """An argument of which the network has been recorded with one value."""
    if given is not recorded and (isinstance(given, torch.Tensor) or given != recorded):
        raise ValueError(f"this network was recorded with {name} = {recorded!r}")''',
}
"""Functions that a forward may need, by name."""
TAKEN = frozenset(
    {"self", "torch", "nn", "F", "math", "operator", "aten", "Path", "Parts", "load", "load_model", *HELPERS, *dir(builtins)}
)


@dataclass(frozen=True, slots=True)
class Forward:
    """``parameters``: the signature behind ``self``; ``lines``: the body; ``helpers``: what it calls of :data:`HELPERS`."""

    parameters: tuple[str, ...]
    lines: tuple[str, ...]
    helpers: frozenset[str]


def forward_of(graph: fx.Graph, places: Mapping[str, str], fixed: Mapping[str, Any], *, recorded: bool) -> Forward:
    """The text of a graph. ``places``: the expression of everything that it reads or calls; ``fixed``: its arguments that are no
    tensors, where the graph does not say so itself; ``recorded``: by ``torch.export``, with the device of the example.

    Raises ``PKC653`` for what has no text.
    """
    return _Writer(graph, places, fixed, recorded).forward()


class _Writer:
    def __init__(self, graph: fx.Graph, places: Mapping[str, str], fixed: Mapping[str, Any], recorded: bool) -> None:
        self.graph, self.places, self.fixed, self.recorded = graph, places, fixed, recorded
        self.names: dict[fx.Node, str] = {}
        self.helpers: set[str] = set()
        self.scope = ""

    def forward(self) -> Forward:
        parameters, lines = [], []
        for node in self.graph.nodes:
            if node.op == "placeholder":
                parameters.append(self.parameter(node))
                lines += self.required(node)
            else:
                lines += self.statement(node)
        return Forward(tuple(parameters), tuple(lines), frozenset(self.helpers))

    def parameter(self, node: fx.Node) -> str:
        self.names[node] = name = self.named(str(node.target))
        if name in self.fixed:
            return f"{name}={self.value(self.fixed[name])}"
        return f"{name}={self.value(node.args[0])}" if node.args else name

    def required(self, node: fx.Node) -> list[str]:
        name = self.names[node]
        return [self.only(name, name, self.value(self.fixed[name]))] if name in self.fixed else []

    def only(self, name: str, given: str, recorded: str) -> str:
        self.helpers.add("_only")
        return f"_only({name!r}, {given}, {recorded})"

    def named(self, wanted: str) -> str:
        """A name for a value, of its own."""
        base = re.sub(r"\W", "_", wanted)
        base = base if not base[:1].isdigit() and base else f"v_{base}"
        name, taken = base, {*TAKEN, *self.names.values()}
        while name in taken or iskeyword(name):
            name += "_"
        return name

    def statement(self, node: fx.Node) -> list[str]:
        """The lines of a node; of what is only read, none."""
        if node.op == "get_attr":
            self.names[node] = self.place(str(node.target))
            return []
        if node.op == "output":
            return [f"return {self.output(node)}"]
        if node.target is check_fixed:
            given, recorded, name, *_ = node.args
            return [self.only(str(name), self.value(given), self.value(recorded))]
        if node.target is store:
            buffer, value, _ = node.args
            return [f"{self.value(buffer)}.copy_({self.value(value)})"]
        if not node.users and node.target in (operator.getitem, getattr):
            return []
        text = self.call(node)
        heading = self.heading(node)
        if not node.users:
            return [*heading, text]
        self.names[node] = self.named(node.name)
        return [*heading, f"{self.names[node]} = {text}"]

    def heading(self, node: fx.Node) -> list[str]:
        """A comment where the operations of another module begin."""
        stack = node.meta.get("nn_module_stack") or {}
        scopes = [str(entry[0]) for entry in stack.values()]
        scope = scopes[-1] if scopes else ""
        if node.op == "call_module":
            scope = str(node.target).rpartition(".")[0]
        if scope == self.scope:
            return []
        self.scope = scope
        return [f"# {scope}"] if scope else [""]

    def call(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{self.place(str(node.target))}({self.operands(node.args, node.kwargs)})"
        if node.op == "call_method":
            receiver, *rest = node.args
            return f"{self.atom(receiver)}.{node.target}({self.operands(rest, node.kwargs)})"
        return self.function(node)

    def function(self, node: fx.Node) -> str:
        target: Any = node.target
        if target in INFIX and len(node.args) == 2 and not node.kwargs:
            return f"{self.atom(node.args[0])} {INFIX[target]} {self.atom(node.args[1])}"
        if target is operator.getitem:
            return f"{self.atom(node.args[0])}[{self.index(node.args[1])}]"
        if target is operator.neg:
            return f"-{self.atom(node.args[0])}"
        if target is getattr and len(node.args) == 2 and str(node.args[1]).isidentifier():
            return f"{self.atom(node.args[0])}.{node.args[1]}"
        if target is in_place:
            name, *rest = node.args
            return f"operator.{name}({self.operands(rest, {})})"
        return f"{written(target)}({self.operands(node.args, node.kwargs)})"

    def operands(self, args: Any, kwargs: Mapping[str, Any]) -> str:
        return ", ".join([*map(self.value, args), *(f"{name}={self.value(value)}" for name, value in kwargs.items())])

    def index(self, given: Any) -> str:
        if isinstance(given, tuple) and given:
            return ", ".join(map(self.index, given)) + ("," if len(given) == 1 else "")
        if isinstance(given, slice):
            start, stop = ("" if end is None else self.value(end) for end in (given.start, given.stop))
            return f"{start}:{stop}" + ("" if given.step is None else f":{self.value(given.step)}")
        return self.value(given)

    def atom(self, given: Any) -> str:
        """A value that an operator may stand beside."""
        text = self.value(given)
        return text if isinstance(given, fx.Node) or not text.startswith("-") else f"({text})"

    def value(self, given: Any) -> str:
        """The text of an argument."""
        match given:
            case fx.Node():
                return self.names[given]
            case tuple():
                return "(" + ", ".join(map(self.value, given)) + ("," if len(given) == 1 else "") + ")"
            case list():
                return "[" + ", ".join(map(self.value, given)) + "]"
            case dict():
                return "{" + ", ".join(f"{self.value(k)}: {self.value(v)}" for k, v in given.items()) + "}"
            case slice():
                return f"slice({self.value(given.start)}, {self.value(given.stop)}, {self.value(given.step)})"
            case float() if not math.isfinite(given):
                return f'float("{given}")'
            case torch.device():
                return self.device(given)
            case EllipsisType():
                return "..."
            case torch.dtype() | torch.layout() | torch.memory_format():
                return str(given)
            case None | bool() | int() | float() | complex() | str():
                return repr(given)
        raise _wordless(f"a {type(given).__name__}")

    def device(self, given: torch.device) -> str:
        """A device; one that recording put in is where the input is."""
        tensors = [n for n in self.graph.find_nodes(op="placeholder") if str(n.target) not in self.fixed]
        return f"{self.names[tensors[0]]}.device" if self.recorded and tensors else f'torch.device("{given}")'

    def place(self, name: str) -> str:
        if name not in self.places:
            raise _wordless(f"'{name}'")
        return self.places[name]

    def output(self, node: fx.Node) -> str:
        """What is returned, in the structure that the user's forward gives it."""
        (given,) = node.args
        info = getattr(self.graph._codegen, "pytree_info", None)
        if info is None or info.out_spec is None:
            return self.value(given)
        flat = list(given) if isinstance(given, tuple | list) else [given]
        return self.value(_ordinary(pytree.tree_unflatten(flat, info.out_spec)))


def _ordinary(value: Any) -> Any:
    """Tuples, lists and dicts as Python writes them; other mappings (outputs of transformers) are dicts."""
    if isinstance(value, Mapping):
        return {key: _ordinary(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(_ordinary(inner) for inner in value)
    return value


@cache
def _known() -> dict[int, str]:
    """The functions of torch and of Python that have a public name."""
    spaces = (("", builtins), ("operator", operator), ("math", math), ("torch", torch), ("torch.Tensor", Tensor), ("F", F))
    found: dict[int, str] = {}
    for prefix, space in spaces:
        for name, value in vars(space).items():
            if callable(value) and not name.startswith("_"):
                found[id(value)] = f"{prefix}.{name}".lstrip(".")
    return found


def written(target: Callable[..., Any]) -> str:
    """The expression of a function. Raises ``PKC653`` where it has none."""
    if isinstance(target, OpOverload):
        namespace, name = target._schema.name.split("::")
        return f"{'' if namespace == 'aten' else 'torch.ops.'}{namespace}.{name}.{target._overloadname}"
    if id(target) in _known():
        return _known()[id(target)]
    name = fx.node._get_qualified_name(target)
    found: Any = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    if name.startswith("torch.") and found is target:
        return name
    raise _wordless(name)


def _wordless(what: str) -> PkcError:
    return fail(
        "PKC653",
        f"the model's graph holds {what}, which Python without the model's own code cannot say",
        f"write it with {as_target('pt2', 'onnx')}, or compute with torch's own functions and modules",
    )
