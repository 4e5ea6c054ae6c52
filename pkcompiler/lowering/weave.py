"""Masks into an fx graph: every use of a masked parameter reads ``torch.where(mask, weight, 0)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from pkcompiler.lowering.call import call_with


def weave(
    graph: fx.Graph, root: nn.Module, canonical: Mapping[str, str], mask_names: Mapping[str, str], fill_names: Mapping[str, str]
) -> None:
    """Rewrite ``graph`` in place.

    :param root: the module that the graph's targets name.
    :param canonical: every parameter name to its canonical name.
    :param mask_names: canonical name of each masked parameter to the name of its mask buffer.
    :param fill_names: the same of the parameters that read a buffer in place of 0 where they are dropped.
    """
    loom = _Loom(graph, root, canonical, mask_names, fill_names)
    for node in list(graph.nodes):
        loom.operands(node)
        if node.op == "call_module":
            loom.call(node)
        elif node.target is call_with:
            loom.call_again(node)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


class _Loom:
    def __init__(
        self,
        graph: fx.Graph,
        root: nn.Module,
        canonical: Mapping[str, str],
        mask_names: Mapping[str, str],
        fill_names: Mapping[str, str],
    ) -> None:
        self.graph, self.root, self.canonical, self.mask_names, self.fill_names = graph, root, canonical, mask_names, fill_names
        self.woven: dict[str, fx.Node] = {}

    def attribute(self, name: str) -> fx.Node:
        """``graph.get_attr`` without its warning that the traced copy lacks what ``root`` has."""
        return self.graph.create_node("get_attr", name)

    def masked(self, name: str) -> str | None:
        """The canonical name when the parameter called ``name`` is masked."""
        first = self.canonical.get(name)
        return first if first in self.mask_names else None

    def weight(self, name: str) -> fx.Node:
        """The masked weight, computed at the insertion point or where it was first needed."""
        if name not in self.woven:
            weight, mask = self.attribute(name), self.attribute(self.mask_names[name])
            dropped = self.attribute(self.fill_names[name]) if name in self.fill_names else 0
            self.woven[name] = self.graph.call_function(torch.where, (mask, weight, dropped))
        return self.woven[name]

    def parameter(self, name: str) -> fx.Node:
        first = self.masked(name)
        return self.weight(first) if first else self.attribute(name)

    def operands(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            first = self.masked(str(source.target)) if source.op == "get_attr" else None
            if first:
                with self.graph.inserting_before(node):
                    node.replace_input_with(source, self.weight(first))

    def call(self, node: fx.Node) -> None:
        path, module = str(node.target), self.root.get_submodule(str(node.target))
        masked = self.masked_within(path)
        if not masked:
            return
        plain = _functional(module, node)
        with self.graph.inserting_before(node):
            new = self.plain_call(node, path, module, *plain) if plain else self.module_call(node, path, masked)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def call_again(self, node: fx.Node) -> None:
        """A module that an earlier lowering calls with some weights gets those masked now as well."""
        module, weights, *operands = cast("tuple[Any, ...]", node.args)
        with self.graph.inserting_before(node):
            more = {
                name: self.weight(first) for name, first in self.masked_within(str(module.target)).items() if name not in weights
            }
        node.args = (module, {**weights, **more}, *operands)

    def masked_within(self, path: str) -> dict[str, str]:
        """Names of the masked parameters of the module at ``path``, relative to it, to their canonical names."""
        module = self.root.get_submodule(path)
        full = {name: f"{path}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)}
        return {name: first for name, whole in full.items() if (first := self.masked(whole))}

    def plain_call(
        self, node: fx.Node, path: str, module: nn.Module, function: Callable[..., Any], settings: tuple[Any, ...]
    ) -> fx.Node:
        x = node.args[0] if node.args else node.kwargs["input"]
        bias = None if module.bias is None else self.parameter(f"{path}.bias")
        return self.graph.call_function(function, (x, self.parameter(f"{path}.weight"), bias, *settings))

    def module_call(self, node: fx.Node, path: str, masked: Mapping[str, str]) -> fx.Node:
        weights = {name: self.weight(first) for name, first in masked.items()}
        return self.graph.call_function(call_with, (self.attribute(path), weights, node.args, dict(node.kwargs)))


def _linear(module: nn.Linear) -> tuple[Any, ...]:
    return ()


def _conv(module: Any) -> tuple[Any, ...]:
    return module.stride, module.padding, module.dilation, module.groups


def _conv_transpose(module: Any) -> tuple[Any, ...]:
    return module.stride, module.padding, module.output_padding, module.groups, module.dilation


FUNCTIONS: dict[type[nn.Module], tuple[Callable[..., Any], Callable[[Any], tuple[Any, ...]]]] = {
    nn.Linear: (F.linear, _linear),
    nn.Conv1d: (F.conv1d, _conv),
    nn.Conv2d: (F.conv2d, _conv),
    nn.Conv3d: (F.conv3d, _conv),
    nn.ConvTranspose1d: (F.conv_transpose1d, _conv_transpose),
    nn.ConvTranspose2d: (F.conv_transpose2d, _conv_transpose),
    nn.ConvTranspose3d: (F.conv_transpose3d, _conv_transpose),
}


def _functional(module: nn.Module, node: fx.Node) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """The function and the settings after ``input, weight, bias`` that equal calling ``module``; None: call the module.

    Exact types only, with both parameters their own, one operand (``output_size`` is computed by the module), zero padding.
    """
    entry = FUNCTIONS.get(type(module))
    ordinary = set(module._parameters) == {"weight", "bias"} and not module._forward_pre_hooks
    if entry is None or not ordinary or len(node.args) + len(node.kwargs) != 1:
        return None
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    function, settings = entry
    return function, settings(module)
