"""The modules of a network as Python that makes them: torch's own by their constructors, all else as what they hold."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn

REQUIRED = inspect.Parameter.empty
RECURRENT = {
    "input_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
}
"""The arguments of recurrent modules with their defaults, which their signatures do not say."""
UNKNOWN = object()
HELD = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
"""Attributes of ``nn.MultiheadAttention`` that say whether an argument was given."""
INDENT = "    "


@dataclass(frozen=True, slots=True)
class Tree:
    """``lines``: the body of ``__init__`` below ``super().__init__()``; ``base``: the class that the network derives from.

    ``places``: the expression of every module and tensor, by its dotted name (``self.layer1[0].conv1.weight``).
    """

    base: str
    lines: tuple[str, ...]
    places: Mapping[str, str]


def tree_of(root: nn.Module, called: Collection[str], read: Collection[str]) -> Tree:
    """The tree of ``root``: what has parameters or buffers, what the graph calls, and the tensors that it reads."""
    return _Builder(root, set(called), set(read)).tree()


def constructor(module: nn.Module) -> dict[str, Any] | None:
    """The arguments that make a module of torch's anew, without those at their defaults; None where that is not certain.

    They are tried: the new module has the same tensors by name, shape and dtype, and the same plain attributes.
    """
    kind = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or getattr(nn, kind.__name__, None) is not kind:
        return None
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
        return None
    dtype = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)
    for given in (_arguments(module, short=True), _arguments(module, short=False)):
        typed = given if dtype == torch.float32 else {**given, "dtype": dtype}
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                twin = kind(**typed)
        except (TypeError, ValueError, RuntimeError):
            continue
        if _facts(module) == _facts(twin):
            return typed
    return None


def _arguments(module: nn.Module, *, short: bool) -> dict[str, Any]:
    """What a constructor was given, as far as attributes of the same names say. ``short``: one number for several equal ones."""
    names = _signature(module)
    found = {}
    for name, default in names.items():
        value = _argument(module, name)
        if short and isinstance(value, tuple) and len(set(value)) == 1 and len(value) > 1 and name != "normalized_shape":
            value = value[0]
        if value is not UNKNOWN and (default is REQUIRED or value != default):
            found[name] = value
    return found


def _signature(module: nn.Module) -> dict[str, Any]:
    """The names of the arguments, with their defaults."""
    if isinstance(module, nn.RNNBase):
        return RECURRENT | ({"nonlinearity": "tanh"} if isinstance(module, nn.RNN) else {})
    parameters = inspect.signature(type(module).__init__).parameters
    return {n: p.default for n, p in parameters.items() if n not in ("self", "device", "dtype") and not n.startswith("_")}


def _argument(module: nn.Module, name: str) -> Any:
    """The value of an argument: of a bias whether there is one."""
    held = HELD.get(name, name) if isinstance(module, nn.MultiheadAttention) else name
    value = getattr(module, held, UNKNOWN)
    return value is not None if name in HELD and not isinstance(value, bool) else value


def _facts(module: nn.Module) -> list[Any]:
    tensors = [(n, t.shape, t.dtype) for n, t in (*module.named_parameters(), *module.named_buffers())]
    plain = {
        f"{path}.{name}": value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in ("training", "_is_full_backward_hook") and isinstance(value, bool | int | float | str | tuple | None)
    }
    return [type(module), sorted(tensors, key=lambda fact: fact[0]), plain, [type(part) for part in module.modules()]]


class _Builder:
    def __init__(self, root: nn.Module, called: set[str], read: set[str]) -> None:
        self.root, self.called, self.read = root, called, read
        self.places: dict[str, str] = {}
        self.first: dict[int, str] = {}
        self.ties: list[tuple[str, str]] = []

    def tree(self) -> Tree:
        children = self.children("", self.root)
        listed = _is_list(children) and not self.tensors("", self.root)
        lines = ["super().__init__()"] if not listed else []
        if listed:
            lines += ["super().__init__(", *_indented(self.listed(children, "self")), ")"]
        else:
            for name, tensor in self.tensors("", self.root).items():
                lines += self.assigned(name, tensor)
            for name, path in children.items():
                head, *rest = self.module(path, _member("self", name))
                plain = _plain(name)
                lines += _closed(
                    f"self.{name} = {head}" if plain else f"self.add_module({name!r}, {head}", rest, "" if plain else ")"
                )
        lines += [f"{self.places[alias]} = {self.places[name]}" for alias, name in self.ties]
        lines += self.frozen()
        return Tree("nn.ModuleList" if listed else "nn.Module", tuple(lines), self.places)

    def assigned(self, name: str, tensor: Tensor) -> list[str]:
        """A parameter or a buffer of the root."""
        self.place(name, f"self.{name}", tensor)
        if isinstance(tensor, nn.Parameter):
            return [f"self.{name} = {_tensor(tensor)}"]
        return [f"self.register_buffer({name!r}, {_tensor(tensor)})"]

    def frozen(self) -> list[str]:
        """What does not train, of modules that torch makes."""
        names = [n for n, p in self.root.named_parameters() if not p.requires_grad and n in self.places]
        return [f"for name in {tuple(names)!r}:", f"{INDENT}self.get_parameter(name).requires_grad_(False)"] if names else []

    def children(self, path: str, module: nn.Module) -> dict[str, str]:
        """The children that matter, by name, with their paths."""
        full = {name: f"{path}.{name}" if path else name for name, child in module._modules.items() if child is not None}
        return {name: place for name, place in full.items() if self.matters(place)}

    def matters(self, path: str) -> bool:
        part = self.root.get_submodule(path)
        tensors = [*part.parameters(), *part.buffers()]
        return bool(tensors) or any(c == path or c.startswith(f"{path}.") for c in (*self.called, *self.read))

    def tensors(self, path: str, module: nn.Module) -> dict[str, Tensor]:
        """The tensors that a module itself holds, plain ones that the graph reads among them."""
        found = {n: t for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
        for name in self.read:
            owner, _, leaf = name.rpartition(".")
            if owner == path and leaf not in found and isinstance(value := getattr(module, leaf, None), Tensor):
                found[leaf] = value
        return found

    def place(self, name: str, expression: str, tensor: Tensor) -> None:
        """Where a tensor is; a second name of one is tied to its first."""
        self.places[name] = expression
        first = self.first.setdefault(id(tensor), name)
        if first != name:
            self.ties.append((name, first))

    def module(self, path: str, place: str) -> list[str]:
        """The expression that makes a module, over several lines where it is long."""
        module = self.root.get_submodule(path)
        self.places[path] = place
        made = constructor(module)
        if made is not None:
            for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
                self.place(f"{path}.{name}", f"{place}.{name}", tensor)
            for name, _ in module.named_modules():
                self.places[f"{path}.{name}" if name else path] = f"{place}.{name}" if name else place
            return [f"nn.{type(module).__name__}({_call(made, module)})"]
        children, tensors = self.children(path, module), self.tensors(path, module)
        if _is_list(children) and not tensors:
            return ["nn.ModuleList(", *_indented(self.listed(children, place)), ")"]
        lines = []
        for name, tensor in tensors.items():
            self.place(f"{path}.{name}", _member(place, name), tensor)
            lines.append(f"{name}={_tensor(tensor)},")
        for name, child in children.items():
            head, *rest = self.module(child, _member(place, name))
            lines += _closed(f"{name}={head}" if _plain(name) else f"**{{{name!r}: {head}", rest, "," if _plain(name) else "},")
        return ["Parts(", *_indented(lines), ")"] if lines else ["Parts()"]

    def listed(self, children: Mapping[str, str], place: str) -> list[str]:
        """The elements of a list of modules, with ``nn.Identity()`` where nothing is."""
        lines = ["["]
        for index in range(max(map(int, children), default=-1) + 1):
            path = children.get(str(index))
            head, *rest = ["nn.Identity()"] if path is None else self.module(path, f"{place}[{index}]")
            lines += _indented(_closed(head, rest, ","))
        return [*lines, "]"]


def _closed(head: str, rest: list[str], end: str) -> list[str]:
    """The lines of an expression, with ``end`` after the last."""
    return [head, *rest[:-1], rest[-1] + end] if rest else [head + end]


def _indented(lines: list[str]) -> list[str]:
    return [INDENT + line for line in lines]


def _is_list(children: Mapping[str, str]) -> bool:
    return bool(children) and all(name.isdigit() and str(int(name)) == name for name in children)


def _plain(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _member(place: str, name: str) -> str:
    return f"{place}.{name}" if _plain(name) else f"getattr({place}, {name!r})"


def _tensor(tensor: Tensor) -> str:
    """An empty tensor, or parameter, of this shape."""
    dtype = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    empty = f"torch.zeros({tuple(tensor.shape)}{dtype})"
    if not isinstance(tensor, nn.Parameter):
        return empty
    return f"nn.Parameter({empty})" if tensor.requires_grad else f"nn.Parameter({empty}, requires_grad=False)"


def _call(given: Mapping[str, Any], module: nn.Module) -> str:
    """Arguments as they are written: by position as long as they are the first ones."""
    names = [n for n in inspect.signature(type(module).__init__).parameters if n != "self"]
    order = list(RECURRENT) if isinstance(module, nn.RNNBase) else names
    parts: list[str] = []
    leading = True
    for name, expected in zip_longest(given, order[: len(given)]):
        leading = leading and name == expected and len(parts) < 3 and not isinstance(given[name], bool)
        parts.append(f"{given[name]!r}" if leading else f"{name}={given[name]!r}")
    return ", ".join(parts)
