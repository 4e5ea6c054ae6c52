"""Operations that only move entries: proved on their positions, with other sizes and bounds where what is left asks for them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pkcompiler.lowering.call import called
from pkcompiler.lowering.compact.cuts import Cut, cut_of, union
from pkcompiler.lowering.compact.follow import Follow, cuts_in, whole_like

RESHAPES = frozenset(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "ravel", "view_as", "reshape_as"))
EXPANDS = frozenset(("expand", "broadcast_to", "expand_as"))
SPLITS = frozenset(("chunk", "split", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk"))
SLICES = frozenset(("getitem", "slice", "narrow", "select"))
MOVES = (
    RESHAPES
    | EXPANDS
    | SPLITS
    | SLICES
    | frozenset(
        (
            *("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint", "squeeze", "unsqueeze"),
            *("cat", "concat", "concatenate", "stack", "unbind", "flip", "roll", "repeat", "tile", "repeat_interleave"),
            *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "diagonal", "index_select", "pad", "constant_pad_nd"),
            *("hstack", "vstack", "dstack", "numpy_T", "rot90", "unfold", "mT", "T"),
        )
    )
)
JOINS = frozenset(("cat", "concat", "concatenate", "stack"))


def moved(follow: Follow, node: fx.Node, name: str) -> Any:
    """What is left of the result; ``node`` is rewritten, or reads its operands whole where nothing else serves."""
    given = [cut for operand in node.all_input_nodes for cut in cuts_in(follow.cut[operand])]
    if all(cut.is_whole for cut in given):
        follow.settle(node)
        return whole_like(follow.dense[node])
    if name in JOINS:
        _align(follow, node, name)
    proof = Proof(follow, node)
    if proof.cuts is not None:
        before = (node.op, node.target, node.args, node.kwargs)
        if proof.holds() or (_rewritten(follow, node, name, proof.cuts) and proof.holds()):
            return proof.cuts
        node.op, node.target, node.args, node.kwargs = before
    return follow.put_whole(node)


def _align(follow: Follow, node: fx.Node, name: str) -> None:
    """What is joined has one index set along every other dimension."""
    operands = follow.tensors(node)
    if not operands or len({len(follow.cut[g].shape) for g in operands}) > 1:
        return
    rank = len(follow.cut[operands[0]].shape)
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    along = None if name == "stack" else int(given) % rank
    wants = {operand: follow.cut[operand] for operand in operands}
    for dim in (d for d in range(rank) if d != along):
        size, kept = wants[operands[0]].shape[dim], wants[operands[0]].kept[dim]
        for operand in operands[1:]:
            kept = union(size, kept, wants[operand].kept[dim])
        wants = {operand: cut.with_dim(dim, kept) for operand, cut in wants.items()}
    for operand, want in wants.items():
        follow.operand(node, operand, want)


class Proof:
    """The operation on numbers in place of entries, from 1 on: which of them are left in its result (``cuts``; None where these
    make no index sets, or the operation takes no numbers), and whether it moves what is left as it moved the whole."""

    def __init__(self, follow: Follow, node: fx.Node) -> None:
        self.follow, self.node = follow, node
        self.left: dict[fx.Node, Any] = {}
        whole: dict[fx.Node, Any] = {}
        count, kept = 1, [torch.ones(1, dtype=torch.bool)]
        for given in node.all_input_nodes:
            cuts = cuts_in(follow.cut[given])
            if all(cut.is_whole for cut in cuts) and not _floats(follow.part[given]):
                whole[given], self.left[given] = follow.dense.get(given), follow.part[given]
                continue
            places = []
            for cut in cuts:
                places.append(torch.arange(count, count + math.prod(cut.shape), dtype=torch.float64).reshape(cut.shape))
                count += places[-1].numel()
                kept.append(cut.indicator().flatten())
            spec = pytree.tree_structure(follow.part[given])
            whole[given] = pytree.tree_unflatten(places, spec)
            self.left[given] = pytree.tree_unflatten([c.take(t) for c, t in zip(cuts, places, strict=True)], spec)
        self.moved: list[Tensor] = []
        self.cuts: Any = None
        flags = torch.cat(kept)
        with suppress(Exception):  # what numbers do not show is read whole
            result = self.call(whole)
            self.moved, spec = pytree.tree_flatten(result)
            found = [cut_of(flags[t.long()]) for t in self.moved]
            self.cuts = None if any(cut is None for cut in found) else pytree.tree_unflatten(found, spec)

    def holds(self) -> bool:
        """Whether the node, as it is now, moves what is left to where it belongs."""
        for given in self.node.all_input_nodes:
            self.left.setdefault(given, self.follow.part[given])
        with suppress(Exception):
            left = pytree.tree_leaves(self.call(self.left))
            wanted = [cut.take(t) for cut, t in zip(cuts_in(self.cuts), self.moved, strict=True)]
            return len(wanted) == len(left) and all(torch.equal(a, b) for a, b in zip(wanted, left, strict=True))
        return False

    def call(self, values: dict[fx.Node, Any]) -> Any:
        """The operation on numbers; what pads is 0, which is no entry's."""
        node = self.node
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        if "value" in kwargs:
            kwargs["value"] = 0
        elif "pad" in str(node.target) and len(args) > 2:
            place = 2 if isinstance(node.target, torch._ops.OpOverload) and node.target._opname == "constant_pad_nd" else 3
            args = (*args[:place], *(0 for _ in args[place : place + 1]), *args[place + 1 :])
        return called(node, self.follow.root, args, kwargs)


def _floats(value: Any) -> bool:
    return any(t.is_floating_point() or t.is_complex() for t in pytree.tree_leaves(value) if isinstance(t, Tensor))


# other sizes and bounds ---------------------------------------------------------------------------------------------------


def _rewritten(follow: Follow, node: fx.Node, name: str, cuts: Any) -> bool:
    """Rewrite the node for what is left; whether there is a way to."""
    x: Any = node.args[0]
    own = follow.cut[x]
    if not isinstance(own, Cut):
        return False
    if name in RESHAPES and isinstance(cuts, Cut):
        _become(node, "reshape", (x, *_sizes(follow, node, name, cuts)))
    elif name in EXPANDS and isinstance(cuts, Cut):
        _become(node, "expand", (x, *_sizes(follow, node, name, cuts)))
    elif name in SPLITS:
        parts = cuts_in(cuts)
        dim = next((d for d in range(len(own.shape)) if any(p.shape[d] != own.shape[d] for p in parts)), None)
        if dim is None:
            return False
        _become(node, "split", (x, [p.sizes[dim] for p in parts], dim))
    elif name in SLICES and (bounds := _bounds(node, name, own)) is not None:
        node.op, node.target, node.args, node.kwargs = "call_function", operator.getitem, (x, bounds), {}
    else:
        return False
    return True


def _become(node: fx.Node, method: str, args: tuple[Any, ...]) -> None:
    node.op, node.target, node.args, node.kwargs = "call_method", method, args, {}


def _sizes(follow: Follow, node: fx.Node, name: str, cut: Cut) -> Iterator[Any]:
    """The sizes of a result: of a dimension of which something is gone what is left, else as the node says it."""
    said = _said(follow, node, name, len(cut.shape))
    for dim, (kept, size) in enumerate(zip(cut.kept, cut.sizes, strict=True)):
        given = said[dim]
        if kept is None and isinstance(given, fx.Node):
            yield given if follow.part[given] == size else size
        elif isinstance(given, fx.Node) and follow.part[given] == cut.shape[dim]:
            yield _part_of(follow, node, given, size)
        else:
            yield given if kept is None else size


def _part_of(follow: Follow, node: fx.Node, given: fx.Node, size: int) -> fx.Node:
    """The same part of a size that varies: what is left of heads, times the batch."""
    whole = follow.dense[given]
    with follow.graph.inserting_before(node):
        times = follow.graph.call_function(operator.mul, (given, size))
        part = follow.graph.call_function(operator.floordiv, (times, whole))
    for made, value in ((times, whole * size), (part, size)):
        follow.know(made, value)
    return part


def _said(follow: Follow, node: fx.Node, name: str, rank: int) -> list[Any]:
    """How the node says the sizes of its result; -1 for the dimension that it does not say (what stays of a flattened tensor)."""
    if name in ("view", "reshape", "_unsafe_view", "expand", "broadcast_to"):
        rest = node.args[1:] or tuple(node.kwargs[n] for n in ("shape", "size") if n in node.kwargs)
        said = list(rest[0]) if len(rest) == 1 and isinstance(rest[0], list | tuple) else list(rest)
        if len(said) == rank:
            return said
    x, shape = node.all_input_nodes[0], follow.dense[node].shape
    own, said = follow.cut[x].shape, []
    for dim in range(rank):
        lead = all(own[d] == shape[d] for d in range(dim + 1)) if dim < len(own) else False
        if lead:
            with follow.graph.inserting_before(node):
                size = follow.graph.call_method("size", (x, dim))
            follow.know(size, own[dim])
            said.append(size)
        else:
            said.append(shape[dim])
    return said


def _bounds(node: fx.Node, name: str, own: Cut) -> tuple[Any, ...] | None:
    """The index of every dimension up to the last that is sliced."""
    if name == "getitem":
        return _index(node.args[1], own)
    args: list[Any] = list(node.args[1:])
    dim, *rest = args or [0]
    dim = int(dim) % len(own.shape)
    if any(isinstance(v, fx.Node) for v in rest) or node.kwargs:
        return None
    size = own.shape[dim]
    match name, rest:
        case "slice", _:
            index: Any = slice(*(*rest, None, None, None)[:3])
        case "narrow", [start, length]:
            index = slice(start, start + length)
        case _, [place]:
            index = int(place) % size
        case _:
            return None
    left = _left_index(own, dim, index)
    return None if left is None else (*[slice(None)] * dim, left)


def _index(index: Any, own: Cut) -> tuple[Any, ...] | None:
    """The index of ``x[...]`` over what is left."""
    given = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, bool | list | Tensor) for part in given):
        return None
    named = sum(part is not None and part is not Ellipsis for part in given)
    spread: list[Any] = []
    for part in given:
        spread += [slice(None)] * (len(own.shape) - named) if part is Ellipsis else [part]
    left: list[Any] = []
    for part in spread:
        dim = sum(before is not None for before in left)
        left.append(None if part is None else _left_index(own, dim, part))
        if part is not None and left[-1] is None:
            return None
    return tuple(left)


def _left_index(own: Cut, dim: int, index: Any) -> Any:
    """A slice or a position along one dimension, over what is left of it; None where it is no other one."""
    kept, size = own.kept[dim], own.shape[dim]
    if kept is None:
        return index
    if isinstance(index, int):
        place = (kept == index % size).nonzero()
        return int(place) if place.numel() == 1 else None
    if not isinstance(index, slice) or any(isinstance(v, fx.Node) for v in (index.start, index.stop, index.step)):
        return None
    start, stop, step = index.indices(size)
    if step != 1:
        return None
    return slice(int((kept < start).sum()), int((kept < stop).sum()))
