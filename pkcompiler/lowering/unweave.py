"""The inverse of :mod:`~pkcompiler.lowering.weave`: a graph that reads its parameters as they are, and calls its modules.

What masks drop is stored in the parameters, so that the function stays the same; the masks are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from pkcompiler.lowering.call import call_with, check_given, check_shapes, fetch
from pkcompiler.lowering.weave import FUNCTIONS


def unweave(network: fx.GraphModule) -> dict[str, Tensor]:
    """Take the masks out of the graph and the buffers of ``network``, in place, and the checks of what it is called with.

    Returns them by the name of the parameter, as it is read. A parameter that is read without its mask elsewhere keeps it.
    """
    found: dict[str, Tensor] = {}
    for node, weight, mask, dropped in list(_woven(network)):
        parameter = fetch(network, weight)
        with torch.no_grad():
            parameter.copy_(torch.where(mask, parameter, dropped))
        found[weight] = mask.detach()
        read = node.args[1]
        assert isinstance(read, fx.Node)
        node.replace_all_uses_with(read)
        network.graph.erase_node(node)
    for node in list(network.graph.nodes):
        if node.target in (check_given, check_shapes):
            network.graph.erase_node(node)
        elif node.op == "call_function":
            _call_module(network, node)
    for node in reversed(list(network.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            network.graph.erase_node(node)
    network.graph.lint()
    network.recompile()
    return found


def drop_buffers(root: nn.Module, names: Iterable[str]) -> None:
    """Remove buffers by name, and what is known of them."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = root.get_submodule(path)
        owner._buffers.pop(leaf, None)
        owner._non_persistent_buffers_set.discard(leaf)


def _woven(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str, Tensor, Tensor | int]]:
    """Every ``torch.where(mask, weight, dropped)`` of stored tensors, with the parameter's name."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    called = [f"{node.target}." for node in network.graph.nodes if node.op == "call_module"]
    for node in network.graph.nodes:
        if node.target is not torch.where or len(node.args) != 3:
            continue
        mask, weight, dropped = (_stored(network, given) for given in node.args)
        name = str(getattr(node.args[1], "target", ""))
        if name not in parameters or not isinstance(mask, Tensor) or mask.dtype != torch.bool or weight is None or dropped is None:
            continue
        alone = all(len(read.users) == 1 for read in network.graph.find_nodes(op="get_attr", target=name))
        if alone and not name.startswith(tuple(called)):
            yield node, name, mask, dropped


def _stored(network: fx.GraphModule, given: object) -> Tensor | int | None:
    """The value of a stored tensor or of a whole number, else None."""
    if isinstance(given, fx.Node) and given.op == "get_attr":
        found = fetch(network, str(given.target))
        return found if isinstance(found, Tensor) else None
    return given if isinstance(given, int) else None


def _call_module(network: fx.GraphModule, node: fx.Node) -> None:
    """Put the call of a module in the place of a function of its own parameters, where they are that."""
    call = _again(network, node) if node.target is call_with else _plain(network, node)
    if call is None:
        return
    path, args, kwargs = call
    with network.graph.inserting_before(node):
        new = network.graph.create_node("call_module", path, tuple(args), dict(kwargs))
    node.replace_all_uses_with(new)
    network.graph.erase_node(node)


def _again(network: fx.GraphModule, node: fx.Node) -> tuple[str, tuple, dict] | None:
    given: Any = node.args
    module, weights, args, kwargs = given
    assert isinstance(module, fx.Node) and isinstance(weights, dict)
    path = str(module.target)
    own = network.get_submodule(path)
    if all(isinstance(w, fx.Node) and fetch(network, str(w.target)) is fetch(own, leaf) for leaf, w in weights.items()):
        return path, tuple(args), dict(kwargs)
    return None


def _plain(network: fx.GraphModule, node: fx.Node) -> tuple[str, tuple, dict] | None:
    """The module whose call is ``F.linear(x, weight, bias, *settings)`` and its kin."""
    if len(node.args) < 3 or node.kwargs or not isinstance(node.args[1], fx.Node) or node.args[1].op != "get_attr":
        return None
    x, _, bias, *settings = node.args
    path = str(node.args[1].target).removesuffix(".weight")
    module = network.get_submodule(path) if f"{path}.weight" == node.args[1].target else None
    entry = FUNCTIONS.get(type(module)) if module is not None else None
    if module is None or entry is None or entry[0] is not node.target or tuple(settings) != entry[1](module):
        return None
    own = None if module.bias is None else f"{path}.bias"
    return (path, (x,), {}) if (bias.target if isinstance(bias, fx.Node) else bias) == own else None
