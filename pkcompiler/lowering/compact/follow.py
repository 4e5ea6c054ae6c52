"""A recorded graph made to run over smaller tensors: node by node, which entries are left of a value, and what must be rewritten.

Every node is run twice, over the whole tensors and over what is left of them. A rule says which entries of its result are left
(``rules.py``, ``movement.py``); where there is none, what is gone is put back as zeros before the node. So nothing is guessed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pkcompiler.lowering.call import call_node, fetch
from pkcompiler.lowering.compact.cuts import Cut, positions, same
from pkcompiler.ops import gates

Settled = int | float | bool | None
Rule = Callable[["Follow", fx.Node, Sequence[Any]], Any]


class Unfit(Exception):
    """Why a graph cannot be made to run over smaller tensors."""


class Recorder(TorchDispatchMode):
    """The ATen operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


UNMOVED = frozenset(
    (
        *("_to_copy", "clone", "detach", "alias", "native_dropout", "bernoulli_", "empty_like", "lift_fresh", "copy_", "fill_"),
        *("log_sigmoid_forward", "rrelu_with_noise"),
    )
)
"""Operators that treat every entry alike, beside those that are pointwise."""


def is_pointwise(seen: Sequence[Any]) -> bool:
    """Whether all that ran computes each entry from those at its place."""
    return bool(seen) and all(gates.is_pointwise(op) or op._opname in UNMOVED for op in seen)


class Follow:
    """One graph over a tree of modules. ``root``: the whole tree, with masked weights, in evaluation mode; ``small``: the cut one,
    whose modules have the same names; ``cuts``: of every parameter and buffer by name; ``held``: what else the graph reads;
    ``rule``: what is left of the result of a node, which it rewrites, given the ATen operators that ran."""

    def __init__(
        self, graph: fx.Graph, root: nn.Module, small: nn.Module, cuts: Mapping[str, Cut], held: nn.Module, rule: Rule
    ) -> None:
        self.graph, self.root, self.tree, self.cuts, self.held, self.rule = graph, root, small, cuts, held, rule
        self.members = {n for t in (root.named_parameters, root.named_buffers) for n, _ in t(remove_duplicate=False)}
        self.dense: dict[fx.Node, Any] = {}
        self.part: dict[fx.Node, Any] = {}
        self.cut: dict[fx.Node, Any] = {}
        self.put_back: dict[str, int] = {}
        self.adapted: dict[tuple[fx.Node, tuple[Any, ...]], fx.Node] = {}

    def run(self, inputs: Iterator[Any]) -> None:
        """Rewrite the graph; ``inputs``: a value for every placeholder, in order.

        :raises Unfit: with the reason
        """
        last: dict[fx.Node, fx.Node] = {}
        nodes = list(self.graph.nodes)
        for node in nodes:
            last.update(dict.fromkeys(node.all_input_nodes, node))
        dying: dict[fx.Node, list[fx.Node]] = {}
        for node, reader in last.items():
            dying.setdefault(reader, []).append(node)
        with torch.no_grad():
            for node in nodes:
                self.step(node, inputs)
                for gone in dying.get(node, ()):
                    self.dense[gone] = self.part[gone] = None

    def step(self, node: fx.Node, inputs: Iterator[Any]) -> None:
        """One node."""
        match node.op:
            case "placeholder":
                self.know(node, next(inputs))
            case "get_attr":
                self.read(node)
            case "output":
                for given in node.all_input_nodes:
                    self.operand(node, given, whole_of(self.cut[given]))
            case _:
                with Recorder() as recorder:
                    self.dense[node] = call_node(node, self.root, self.dense.__getitem__)
                self.cut[node] = self.rule(self, node, recorder.seen)
                self.part[node] = call_node(node, self.tree, self.part.__getitem__)
                self.check(node)

    def know(self, node: fx.Node, value: Any) -> None:
        """A value of which nothing is gone."""
        self.dense[node] = value
        self.part[node] = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)
        self.cut[node] = whole_like(value)

    def read(self, node: fx.Node) -> None:
        """A parameter, a buffer or what else is held."""
        name = str(node.target)
        if name not in self.members:
            return self.know(node, fetch(self.held, name))
        self.dense[node], self.part[node] = fetch(self.root, name), fetch(self.tree, name)
        self.cut[node] = self.cuts.get(name) or Cut.whole(self.dense[node].shape)
        return None

    def check(self, node: fx.Node) -> None:
        """Raise :class:`Unfit` where what is left has not the sizes that the rule says."""
        tensors = [t.shape for t in pytree.tree_leaves(self.part[node]) if isinstance(t, Tensor)]
        for shape, cut in zip(tensors, cuts_in(self.cut[node]), strict=True):
            if tuple(shape) != cut.sizes:
                raise Unfit(f"{node.format_node()} gives {tuple(shape)} where {cut.sizes} are left")

    # operands ---------------------------------------------------------------------------------------------------------

    def tensors(self, node: fx.Node) -> list[fx.Node]:
        """The nodes among the operands that are tensors."""
        return [given for given in node.all_input_nodes if isinstance(self.cut.get(given), Cut)]

    def operand(self, node: fx.Node, given: fx.Node, want: Any) -> None:
        """Let ``node`` read of ``given`` just what ``want`` says is left."""
        if isinstance(want, Cut):
            node.replace_input_with(given, self.as_cut(node, given, want))
        elif isinstance(want, list | tuple):
            for own, wanted in zip(cuts_in(self.cut[given]), cuts_in(want), strict=True):
                if own.sizes != wanted.sizes:
                    raise Unfit(f"{given.format_node()} is returned as a group of tensors")

    def as_cut(self, before: fx.Node, given: fx.Node, want: Cut) -> fx.Node:
        """A node with what ``want`` says is left of ``given``: what else it has is taken out, what it lacks are zeros."""
        own: Cut = self.cut[given]
        key = (given, tuple(None if k is None else tuple(k.tolist()) for k in want.kept))
        if all(same(a, b) for a, b in zip(own.kept, want.kept, strict=True)):
            return given
        if key not in self.adapted:
            self.adapted[key] = self.insert_cut(before, given, own, want)
        return self.adapted[key]

    def insert_cut(self, before: fx.Node, given: fx.Node, own: Cut, want: Cut) -> fx.Node:
        """As :meth:`as_cut`, new nodes before ``before``."""
        now, value = given, self.part[given]
        for dim, (have, kept) in enumerate(zip(own.kept, want.kept, strict=True)):
            if same(have, kept):
                continue
            places = positions(have, kept, own.shape[dim])
            lacks = bool((places == value.shape[dim]).any())
            if lacks:
                pads = (0, 0) * (value.dim() - 1 - dim) + (0, 1)
                now, value = self.insert(before, torch.nn.functional.pad, (now, pads), value)
                self.put_back[given.name] = int((places == value.shape[dim] - 1).sum())
            with self.graph.inserting_before(before):
                index = self.constant(places)
            now, value = self.insert(before, torch.index_select, (now, dim, index), value)
        self.cut[now] = want
        return now

    def insert(self, before: fx.Node, function: Callable[..., Any], args: tuple[Any, ...], value: Any) -> tuple[fx.Node, Any]:
        """A new call before ``before``, with its value over what is left."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(function, args)
        self.part[args[0]] = value
        self.part[node] = call_node(node, self.tree, self.part.__getitem__)
        return node, self.part[node]

    def constant(self, places: Tensor) -> fx.Node:
        """A stored index, a buffer that no ``state_dict`` holds; equal ones once."""
        names = [n for n, b in self.tree.named_buffers(recurse=False) if n.startswith("kept_index")]
        for name in names:
            if torch.equal(self.tree.get_buffer(name).cpu(), places):
                break
        else:
            name = f"kept_index_{len(names)}"
            device = next((t.device for t in (*self.tree.parameters(), *self.tree.buffers())), places.device)
            self.tree.register_buffer(name, places.to(device), persistent=False)
        self.held.register_buffer(name, self.tree.get_buffer(name), persistent=False)
        node = self.graph.create_node("get_attr", name)
        self.part[node] = self.tree.get_buffer(name)
        return node

    def put_whole(self, node: fx.Node) -> Any:
        """No rule: all operands whole, and so is the result."""
        for given in node.all_input_nodes:
            self.operand(node, given, whole_of(self.cut[given]))
        self.settle(node)
        return whole_like(self.dense[node])

    def settle(self, node: fx.Node) -> None:
        """Numbers that were computed from sizes are what they were, in an operation that does not move entries."""
        node.args = tuple(self.settled(node, a) for a in node.args)
        node.kwargs = {name: self.settled(node, a) for name, a in node.kwargs.items()}

    def settled(self, node: fx.Node, given: Any) -> Any:
        """An argument in which every number is as with whole tensors."""
        if isinstance(given, fx.Node) and not cuts_in(self.cut.get(given)):
            return self.literal(node, given, self.dense[given], self.part[given])
        if isinstance(given, list | tuple):
            return type(given)(self.settled(node, part) for part in given)
        if isinstance(given, slice):
            return slice(*(self.settled(node, part) for part in (given.start, given.stop, given.step)))
        return given

    def literal(self, node: fx.Node, given: fx.Node, whole: Any, part: Any) -> Any:
        """The node where both values are equal; the number as it was; of sizes, each."""
        if type(whole) is type(part) and whole == part:
            return given
        if isinstance(whole, torch.Size):
            with self.graph.inserting_before(node):
                return tuple(self.item(given, i, n) if n == part[i] else n for i, n in enumerate(whole))
        if isinstance(whole, Settled):
            return whole
        raise Unfit(f"{given.format_node()} is computed from sizes, and is neither a number nor sizes")

    def item(self, given: fx.Node, index: int, value: int) -> fx.Node:
        """One of the sizes that a node gives."""
        node = self.graph.call_function(operator.getitem, (given, index))
        self.know(node, value)
        return node


def cuts_in(cut: Any) -> list[Cut]:
    """The cuts of a value, in the order of its tensors."""
    return [c for c in pytree.tree_leaves(cut, is_leaf=lambda c: isinstance(c, Cut)) if isinstance(c, Cut)]


def whole_like(value: Any) -> Any:
    """Cuts of a value of which nothing is gone; None for what is no tensor."""
    return pytree.tree_map(lambda v: Cut.whole(v.shape) if isinstance(v, Tensor) else None, value)


def whole_of(cut: Any) -> Any:
    """Cuts of the same shapes, of which nothing is gone."""
    return pytree.tree_map(lambda c: Cut.whole(c.shape) if isinstance(c, Cut) else None, cut, is_leaf=lambda c: isinstance(c, Cut))
