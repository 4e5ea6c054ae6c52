"""Weights that a forward's own code computes from parameters alone (``w / w.norm(dim=1)``), and what masks make 0/0 of them.

There is no example where masks are applied. So the code of each module that reads an emptied parameter is recorded symbolically, as
far as that goes, and what depends on parameters alone is computed twice: without and with the masks.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Set
from typing import Any

import torch
from torch import Tensor, fx, nn

from pkcompiler.frontend.faithful import left_alone
from pkcompiler.lowering.call import call_node, fetch, in_place
from pkcompiler.lowering.masks import of_all_names
from pkcompiler.lowering.placed import has_memory, is_placed
from pkcompiler.lowering.reached import names_read
from pkcompiler.lowering.trace import MaskTracer, NotTraceable, fixed_arguments

READS_ALL = {"parameters", "named_parameters", "state_dict", "getattr"}
DIVIDES = {operator.truediv, torch.div, torch.true_divide, torch.divide, "div", "div_", "true_divide", "divide"}

Pair = tuple[Any, Any]
"""A value without and with the masks."""


def undefined_by_hand(root: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter (by the name of its mask) of which a weight is computed that the masks leave undefined, and where it is."""
    whole = of_all_names(root, masks)
    emptied = {name for name, mask in whole.items() if _drops_a_row(mask)}
    for path, module in root.named_modules() if emptied else ():
        prefix, names = f"{path}." if path else "", names_read(module)
        inside = {name.removeprefix(prefix): mask for name, mask in whole.items() if names and name.startswith(prefix)}
        read = {name for name in inside if prefix + name in emptied and _is_read(module, name, names)}
        if read and all(has_memory(p) and not is_placed(p) for p in module.parameters()):
            for name, where in _undefined(module, inside, read):
                yield next(n for n, mask in masks.items() if mask is inside[name]), where


def _drops_a_row(mask: Tensor) -> bool:
    """Whether nothing is kept at some index of some axis."""
    axes = range(mask.dim())
    return any(not bool(mask.movedim(a, 0).flatten(1).any(1).all()) for a in axes) if mask.dim() > 1 else not bool(mask.all())


def _is_read(module: nn.Module, name: str, names: Set[str]) -> bool:
    """Whether the code of a module, which says ``names``, reads one of the parameters within it."""
    owner, _, leaf = name.rpartition(".")
    listed = isinstance(module.get_submodule(owner), nn.ParameterList | nn.ParameterDict)
    return (owner.rpartition(".")[2] if listed else leaf) in names or bool(READS_ALL & names)


def _undefined(module: nn.Module, masks: Mapping[str, Tensor], read: set[str]) -> Iterator[tuple[str, Tensor]]:
    with left_alone(module), torch.no_grad():
        graph, scratch = _recorded(module)
        values, sources = _computed(graph, scratch, masks)
        for node, (before, after) in values.items():
            used = [user for user in node.users if user not in values]
            names = sorted(sources[node] & read)
            if not used or not names or not isinstance(after, Tensor) or not after.is_floating_point():
                continue
            lost = ~after.isfinite() & before.isfinite()
            if any(_divides(user, node) for user in used):
                lost = lost | ((after == 0) & (before != 0))
            if bool(lost.any()):
                yield names[0], lost


def _divides(user: fx.Node, by: fx.Node) -> bool:
    if user.target is in_place:
        return user.args[0] == "itruediv" and user.args[2] is by
    return user.target in DIVIDES and user.args[1:2] == (by,)


def _recorded(module: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """What a copy of a module computes, up to where nothing can be recorded."""
    tracer = MaskTracer()
    try:
        scratch = copy.deepcopy(module).eval()
        try:
            fixed = fixed_arguments(scratch, (), {})
        except NotTraceable:
            fixed = {}
        tracer.trace(scratch, fixed)
    except Exception:
        scratch = getattr(tracer, "root", module)
    return getattr(tracer, "graph", fx.Graph()), scratch


def _computed(
    graph: fx.Graph, source: nn.Module, masks: Mapping[str, Tensor]
) -> tuple[dict[fx.Node, Pair], dict[fx.Node, frozenset[str]]]:
    """The values that depend on no input, and the masked parameters that they are made of."""
    values: dict[fx.Node, Pair] = {}
    sources: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        given = node.all_input_nodes
        if node.op in ("placeholder", "output") or any(n not in values for n in given) or not (given or node.op == "get_attr"):
            continue
        try:
            values[node] = _member(node, source, masks) if node.op == "get_attr" else _run(node, source, values)
        except Exception:  # the code of the user's, cut from its context
            continue
        own = {str(node.target)} & masks.keys() if node.op == "get_attr" else frozenset[str]()
        sources[node] = frozenset(own).union(*(sources[n] for n in given))
    return values, sources


def _member(node: fx.Node, source: nn.Module, masks: Mapping[str, Tensor]) -> Pair:
    value, name = fetch(source, str(node.target)), str(node.target)
    if not isinstance(value, Tensor):
        return value, value
    value = value.detach()
    return value.clone(), torch.where(masks[name].to(value.device), value, 0) if name in masks else value.clone()


def _run(node: fx.Node, source: nn.Module, values: Mapping[fx.Node, Pair]) -> Pair:
    return call_node(node, source, lambda n: values[n][0]), call_node(node, source, lambda n: values[n][1])
