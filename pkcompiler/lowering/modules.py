"""What :func:`pkcompiler.lowering.lower` returns: one graph, or one for each mode, over one tree of parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from pkcompiler.diagnostics import fail
from pkcompiler.lowering.as_recorded import Recorded

TREE = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
STATE_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


class MaskedTree:
    """What both kinds share: the masks as non-persistent buffers.

    ``mask_names`` holds the canonical name of each masked parameter and the name of its mask buffer.
    """

    mask_names: dict[str, str]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        tree: Any = self
        with values_kept(tree):
            return super()._apply(fn, recurse)  # type: ignore[misc]

    @property
    def masks(self) -> dict[str, Tensor]:
        """Canonical parameter name to its mask (bool, True = kept), the buffers themselves."""
        return {name: _tensor(self, mask) for name, mask in self.mask_names.items()}

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise fail(
            "PKC275",
            "a lowered network is not pickled: reading it back can silently change its operators",
            "save the weights, and lower again after loading: torch.save(net.state_dict(), path)",
        )


@contextmanager
def values_kept(tree: nn.Module) -> Iterator[None]:
    """Buffers in no ``state_dict`` (masks above all) have their values afterwards, off the meta device: through ``to_empty``."""
    before = [(m, leaf, m._buffers[leaf]) for m in tree.modules() for leaf in sorted(m._non_persistent_buffers_set)]
    yield
    with torch.no_grad():
        for module, leaf, value in before:
            now = module._buffers[leaf]
            if value is None or now is None or value.is_meta:
                continue
            if now.is_meta:
                module._buffers[leaf] = value
            elif now is not value:
                now.copy_(value)


class ValuesKept:
    """``_apply`` of a part of a lowered network, which may be converted or emptied without the rest."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part

    def __call__(self, fn: Any, recurse: bool = True) -> nn.Module:
        """``part._apply(fn, recurse)``, with the values of buffers that no ``state_dict`` holds kept."""
        with values_kept(self.part):
            return type(self.part)._apply(self.part, fn, recurse)


def adopt_tree(module: nn.Module, root: nn.Module, mask_names: Mapping[str, str]) -> None:
    """Make ``module`` own the very parameters, buffers and submodules of ``root``, in root's order, under its names."""
    for attribute in (*TREE, *STATE_HOOKS):
        module.__dict__[attribute] = root.__dict__[attribute]
    module.training = root.training
    module.__dict__["mask_names"] = dict(mask_names)
    for part in root.modules():
        if part is not root and not isinstance(part, MaskedTree):
            part.__dict__["_apply"] = ValuesKept(part)


class Lowered(MaskedTree, fx.GraphModule):
    """A trainable graph with masks as nodes; also keeps what the graph does not use, so that keys equal the dense model's."""

    def __init__(self, root: nn.Module, graph: fx.Graph, mask_names: Mapping[str, str]) -> None:
        fx.GraphModule.__init__(self, root, graph, class_name="Lowered")
        adopt_tree(self, root, mask_names)
        self.graph.lint()

    def __deepcopy__(self, memo: dict[int, Any]) -> Lowered:
        state = {key: copy.deepcopy(value, memo) for key, value in self.__dict__.items() if key != "_graph"}
        root = nn.Module()
        root.__dict__.update({key: state[key] for key in TREE})
        twin = Lowered(root, copy.deepcopy(self.graph), self.mask_names)
        twin.__dict__.update(state)
        memo[id(self)] = twin
        return twin

    def __copy__(self) -> Lowered:
        twin = Lowered(self, copy.deepcopy(self.graph), self.mask_names)
        twin.__dict__.update({key: value for key, value in self.__dict__.items() if key != "_graph"})
        return twin


class ModePair(MaskedTree, nn.Module):
    """A training and an evaluation graph over the same parameters; ``.train()`` and ``.eval()`` switch.

    :ivar programs: the evaluation and the training graph (index by the training flag); neither is registered as a submodule.
    :ivar static_batch: the batch size, where the graphs could only be recorded for one size; else None.
    :ivar recorded: the call that exported graphs repeat; None for traced ones.
    """

    def __init__(
        self,
        root: nn.Module,
        evaluation: fx.Graph,
        training: fx.Graph,
        mask_names: Mapping[str, str],
        static_batch: int | None = None,
        recorded: Recorded | None = None,
    ) -> None:
        nn.Module.__init__(self)
        adopt_tree(self, root, mask_names)
        self.programs = (Lowered(root, evaluation, mask_names), Lowered(root, training, mask_names))
        self.static_batch, self.recorded = static_batch, recorded

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the present mode's graph; raises ``PKC278`` for a call that differs from the recorded one."""
        if self.recorded is not None and not torch.compiler.is_compiling():
            args, kwargs = self.recorded.arranged(args, kwargs)
        return self.programs[int(self.training)](*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModePair:
        twin = ModePair.__new__(ModePair)
        memo[id(self)] = twin
        nn.Module.__init__(twin)
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return twin

    def _apply(self, fn: Any, recurse: bool = True) -> ModePair:
        before = next(filter(torch.is_floating_point, (*self.parameters(), *self.buffers())), torch.empty(0))
        after = fn(torch.empty(0, dtype=before.dtype, device=before.device))
        if after.dtype != before.dtype and any(_names_dtype(program.graph) for program in self.programs):
            raise fail(
                "PKC277",
                f"the graph was recorded in {before.dtype}, which it names; it cannot become {after.dtype}",
                "change the type first: lower(model.to(dtype), masks, example_inputs)",
            )
        super()._apply(fn, recurse)
        for program in self.programs:
            if _move(program.graph, after.device):
                program.recompile()
        return self


def _tensor(module: Any, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), leaf)
    return value


def _names_dtype(graph: fx.Graph) -> bool:
    """Whether recording baked a floating type into ``graph``."""
    leaves = (leaf for node in graph.nodes for leaf in torch.utils._pytree.tree_leaves((node.args, node.kwargs)))
    return any(isinstance(leaf, torch.dtype) and leaf.is_floating_point for leaf in leaves)


def _move(graph: fx.Graph, device: torch.device) -> bool:
    """Point every device that recording baked into ``graph`` to ``device``; whether any changed."""
    changed = False

    def moved(value: Any) -> Any:
        nonlocal changed
        if not isinstance(value, torch.device) or value == device:
            return value
        changed = True
        return device

    for node in graph.nodes:
        node.args = torch.utils._pytree.tree_map(moved, node.args)
        node.kwargs = torch.utils._pytree.tree_map(moved, node.kwargs)
    return changed
