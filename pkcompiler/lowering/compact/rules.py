"""Which entries of a result are left, operation by operation: products, layers, norms, reductions, and all that is pointwise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from pkcompiler.lowering.call import in_place
from pkcompiler.lowering.compact.cuts import Cut, common, union
from pkcompiler.lowering.compact.follow import Follow, Unfit, cuts_in, is_pointwise, whole_like
from pkcompiler.lowering.compact.movement import MOVES, moved
from pkcompiler.lowering.compact.shrink import (
    BATCH_NORMS,
    CONVOLUTIONS,
    INSTANCE_NORMS,
    TRANSPOSED,
    WHOLE_NORMS,
    channels,
    is_known,
)

Place = tuple[fx.Node, int]
"""A dimension of an operand."""


def left_of(follow: Follow, node: fx.Node, seen: Sequence[Any]) -> Any:
    """What is left of the result of ``node``, which is rewritten where it must be. ``seen``: the ATen operators that ran."""
    module = follow.root.get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()
    if is_known(module):
        return _module(Step(follow, node), module)
    operands = follow.tensors(node)
    if not cuts_in([follow.cut[given] for given in node.all_input_nodes]):
        return _of_numbers(follow, node)
    name = _module_name(module) if node.op == "call_module" else name_of(node)
    if name == "getitem" and not operands:
        group: Any = node.args[0]
        return follow.cut[group][node.args[1]]
    if not cuts_in(whole_like(follow.dense[node])):
        return whole_like(follow.dense[node])
    if name in MOVES:
        return moved(follow, node, name)
    follow.settle(node)
    if all(follow.cut[given].is_whole for given in operands) and len(operands) == len(node.all_input_nodes):
        return whole_like(follow.dense[node])
    if name in RULES:
        return RULES[name](Step(follow, node))
    if "pool" in name:
        return _windows(Step(follow, node), int(re.findall(r"(\d)d", name)[-1]))
    if not seen or is_pointwise(seen):
        return Step(follow, node).pointwise()
    return follow.put_whole(node)


def _of_numbers(follow: Follow, node: fx.Node) -> Any:
    """No operand is a tensor: sizes are computed, or a tensor is made, in the size that it had."""
    cut = whole_like(follow.dense[node])
    if cuts_in(cut):
        follow.settle(node)
    return cut


def _module_name(module: nn.Module) -> str:
    """The function that a module of torch without tensors of its own is; '' where another rule serves, or none."""
    kind = type(module)
    if kind.__module__ == "torch.nn.modules.pooling":
        return kind.__name__.lower()
    return MODULES.get(kind, "")


MODULES: Mapping[type[nn.Module], str] = {
    nn.Flatten: "flatten",
    nn.Unflatten: "unflatten",
    nn.PixelShuffle: "pixel_shuffle",
    nn.PixelUnshuffle: "pixel_unshuffle",
    nn.ChannelShuffle: "channel_shuffle",
    nn.Upsample: "interpolate",
    **dict.fromkeys(
        (
            *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
            *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d),
        ),
        "pad",
    ),
}


def name_of(node: fx.Node) -> str:
    """``conv2d`` of a function, a method or an overload of ATen; of a module its class."""
    if node.target is in_place:
        return str(node.args[0])
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._schema.name.partition("::")[2])
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(name).removeprefix("__").removesuffix("__")


class Step:
    """One node, and what it is to read of each operand."""

    def __init__(self, follow: Follow, node: fx.Node) -> None:
        self.follow, self.node = follow, node
        self.wants: dict[fx.Node, Cut] = {given: follow.cut[given] for given in follow.tensors(node)}

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """An argument by position or by one of its names."""
        if position < len(self.node.args):
            return self.node.args[position]
        return next((self.node.kwargs[n] for n in names if n in self.node.kwargs), default)

    def size(self, given: fx.Node, dim: int) -> int:
        """Of a dimension, before anything went."""
        return self.wants[given].shape[dim]

    def kept(self, given: fx.Node, dim: int) -> Tensor | None:
        """What is left of a dimension."""
        return self.wants[given].kept[dim]

    def set(self, given: fx.Node, dim: int, kept: Tensor | None) -> None:
        """Read just this of a dimension."""
        self.wants[given] = self.wants[given].with_dim(dim, kept)

    def whole(self, given: fx.Node, dims: Iterable[int]) -> None:
        """Read all of some dimensions."""
        for dim in dims:
            self.set(given, dim, None)

    def meet(self, places: Sequence[Place], *, product: bool = True) -> Tensor | None:
        """Let dimensions have one index set: what all have, where a missing entry makes the result 0; else what any has."""
        (first, dim), *rest = places
        kept, size = self.kept(first, dim), self.size(first, dim)
        for given, other in rest:
            own = self.kept(given, other)
            kept = common(kept, own) if product else union(size, kept, own)
        for given, other in places:
            self.set(given, other, kept)
        return kept

    def gives(self, kept: Sequence[Tensor | None]) -> Any:
        """The operands as wanted; the result has what ``kept`` says (all its tensors alike)."""
        for given, want in self.wants.items():
            self.follow.operand(self.node, given, want)
        dense = self.follow.dense[self.node]
        if isinstance(dense, Tensor):
            return Cut.of(dense.shape, kept)
        cuts = [Cut.of(t.shape, kept) for t in dense]
        return cuts if isinstance(dense, list) else tuple(cuts)

    def like(self, given: fx.Node) -> Any:
        """The result has the dimensions of an operand."""
        return self.gives(self.wants[given].kept)

    def pointwise(self) -> Any:
        """Operands aligned at the last dimension; a product is 0 where a factor is, else what is missing is 0 in the others."""
        dense = self.follow.dense[self.node]
        shape = dense.shape if isinstance(dense, Tensor) else next(t.shape for t in dense if isinstance(t, Tensor))
        product, kept = name_of(self.node) in ("mul", "mul_", "imul"), []
        for dim in range(-len(shape), 0):
            wide = [(g, dim) for g, c in self.wants.items() if len(c.shape) >= -dim and c.shape[dim] == shape[dim]]
            kept.append(self.meet([(g, d % len(self.wants[g].shape)) for g, d in wide], product=product))
        self._keep_target()
        return self.gives(kept)

    def _keep_target(self) -> None:
        """What is written in place keeps its entries."""
        name = name_of(self.node)
        in_its_place = name.endswith("_") or self.node.target is in_place or self.node.kwargs.get("inplace") is True
        first = next((a for a in self.node.args if isinstance(a, fx.Node)), None)
        if in_its_place and first in self.wants and self.wants[first].sizes != self.follow.cut[first].sizes:
            raise Unfit(f"{self.node.format_node()} writes in place to a tensor of which other units are left")


# modules of torch ---------------------------------------------------------------------------------------------------------


def _module(step: Step, module: Any) -> Any:
    """A layer or norm of torch, of exact class, whose tensors are cut."""
    kind, path = type(module), str(step.node.target)
    cuts = {
        n: step.follow.cuts[f"{path}.{n}"] for n in (*module._parameters, *module._buffers) if f"{path}.{n}" in step.follow.cuts
    }
    x = step.argument(0, "input")
    if kind is nn.Linear:
        step.set(x, -1, cuts["weight"].kept[1])
        return step.gives((*step.wants[x].kept[:-1], cuts["weight"].kept[0]))
    if kind is nn.Embedding:
        return step.gives((*step.wants[x].kept, cuts["weight"].kept[1]))
    rank = len(step.wants[x].shape)
    if kind in CONVOLUTIONS or kind in TRANSPOSED:
        read, made = channels(module, cuts["weight"])
        dim = rank - module.weight.dim() + 1
        step.set(x, dim, read)
        return step.gives((*step.wants[x].kept[:dim], made, *(None,) * (rank - dim - 1)))
    if kind in WHOLE_NORMS:
        step.whole(x, range(rank - len(module.normalized_shape), rank))
        return step.like(x)
    vectors = [cut for cut in cuts.values() if len(cut.shape) == 1 and cut.shape[0] > 1]
    if kind is nn.GroupNorm and not vectors:
        step.whole(x, [1])
    elif vectors and kind in (nn.PReLU, nn.GroupNorm, *BATCH_NORMS, *INSTANCE_NORMS):
        step.set(x, 1, vectors[0].kept[0])
    return step.like(x)


# functions ----------------------------------------------------------------------------------------------------------------


def _linear(step: Step) -> Any:
    x, weight, bias = step.argument(0, "input"), step.argument(1, "weight"), step.argument(2, "bias")
    step.meet([(x, -1), (weight, 1)])
    if bias is not None:
        step.set(bias, 0, step.kept(weight, 0))
    return step.gives((*step.wants[x].kept[:-1], step.kept(weight, 0)))


def _addmm(step: Step) -> Any:
    bias, x, weight = (step.argument(i, n) for i, n in enumerate(("input", "mat1", "mat2")))
    step.meet([(x, 1), (weight, 0)])
    made = (step.kept(x, 0), step.kept(weight, 1))
    for dim in range(-len(step.wants[bias].shape), 0):
        if step.size(bias, dim) > 1:
            step.set(bias, dim, made[dim])
    return step.gives(made)


def _matmul(step: Step) -> Any:
    a, b = step.argument(0, "input", "self"), step.argument(1, "other", "mat2")
    ranks = len(step.wants[a].shape), len(step.wants[b].shape)
    if min(ranks) < 2:
        return step.follow.put_whole(step.node)
    step.meet([(a, ranks[0] - 1), (b, ranks[1] - 2)])
    batch: list[Tensor | None] = []
    for dim in range(2 - max(ranks), 0):
        places = [(g, r - 2 + dim) for g, r in zip((a, b), ranks, strict=True) if r - 2 + dim >= 0]
        widest = max(step.size(*place) for place in places)
        batch.append(step.meet([place for place in places if step.size(*place) == widest]))
    return step.gives((*batch, step.kept(a, -2), step.kept(b, -1)))


def _einsum(step: Step) -> Any:
    rest: Any = step.node.args[1:]
    operands: list[Any] = list(rest[0]) if isinstance(rest[0], list | tuple) else list(rest)
    text = str(step.node.args[0]).replace(" ", "")
    if "." in text or "->" not in text:
        return step.follow.put_whole(step.node)
    read, made = text.split("->")
    places: dict[str, list[Place]] = {}
    for given, letters in zip(operands, read.split(","), strict=True):
        for dim, letter in enumerate(letters):
            places.setdefault(letter, []).append((given, dim))
    kept = {letter: step.meet(found) for letter, found in places.items()}
    return step.gives([kept[letter] for letter in made])


def _attention(step: Step) -> Any:
    """``scaled_dot_product_attention``: the scale is that of the whole width."""
    q, k, v = (step.argument(i, n) for i, n in enumerate(("query", "key", "value")))
    mask = step.argument(3, "attn_mask")
    width, rank = step.size(q, -1), len(step.wants[q].shape)
    if step.argument(7, "enable_gqa") and any(step.kept(g, rank - 3) is not None for g in (q, k, v)):
        step.whole(q, [rank - 3])
        step.whole(k, [rank - 3])
        step.whole(v, [rank - 3])
    else:
        for dim in range(rank - 2):
            step.meet([(g, dim) for g in (q, k, v)])
    step.meet([(q, rank - 1), (k, rank - 1)])
    for given in (q, k, v):
        step.whole(given, [rank - 2])
    made = (*step.wants[q].kept[:-1], step.kept(v, -1))
    if isinstance(mask, fx.Node):
        for dim in range(-len(step.wants[mask].shape), -2):
            if step.size(mask, dim) > 1:
                step.set(mask, dim, made[dim])
    if step.argument(6, "scale") is None and step.kept(q, -1) is not None:
        step.node.kwargs = {**step.node.kwargs, "scale": 1 / math.sqrt(width)}
    return step.gives(made)


def _convolution(step: Step) -> Any:
    x, weight, bias = step.argument(0, "input"), step.argument(1, "weight"), step.argument(2, "bias")
    turned, groups = "transpose" in name_of(step.node), step.argument(6, "groups", default=1)
    rank = len(step.wants[weight].shape)
    dim = len(step.wants[x].shape) - rank + 1
    if groups != 1:
        return step.follow.put_whole(step.node)
    step.meet([(x, dim), (weight, 0 if turned else 1)])
    made = step.kept(weight, 1 if turned else 0)
    if bias is not None:
        step.set(bias, 0, made)
    step.whole(x, range(dim + 1, len(step.wants[x].shape)))
    return step.gives((*step.wants[x].kept[:dim], made, *(None,) * (rank - 2)))


def _embedding(step: Step) -> Any:
    """``F.embedding(indices, weight)``, ``aten.embedding(weight, indices)``."""
    first, second = step.argument(0, "input"), step.argument(1, "weight")
    weight, indices = (first, second) if isinstance(step.node.target, torch._ops.OpOverload) else (second, first)
    step.whole(weight, [0])
    return step.gives((*step.wants[indices].kept, step.kept(weight, 1)))


def _batch_norm(step: Step) -> Any:
    x = step.argument(0, "input")
    vectors = [given for given in step.wants if given is not x]
    step.meet([(x, 1), *((v, 0) for v in vectors)], product=False)
    return step.like(x)


def _last_whole(step: Step) -> Any:
    """``layer_norm``, ``rms_norm``."""
    x, shape = step.argument(0, "input"), step.argument(1, "normalized_shape")
    rank = len(step.wants[x].shape)
    for given in step.wants:
        step.whole(given, range(rank - len(shape), rank) if given is x else range(len(step.wants[given].shape)))
    return step.like(x)


def _along(step: Step) -> Any:
    """What runs along some dimensions, which must be whole: softmax, mean, maximum, cumulative sum, sort."""
    x, rank = step.argument(0, "input", "self"), len(step.follow.cut[step.argument(0, "input", "self")].shape)
    dims = step.argument(1, "dim", "axis", "dims")
    if isinstance(dims, fx.Node):
        return step.pointwise()
    if name_of(step.node) in ("topk", "kthvalue"):
        dims = step.argument(2, "dim", default=-1)
    elif name_of(step.node) in ("sort", "argsort") and dims is None:
        dims = -1
    if name_of(step.node) == "norm":
        dims = step.argument(2, "dim")
    over = range(rank) if dims is None or dims == [] else [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    if name_of(step.node) != "sum":
        step.whole(x, over)
    dense = step.follow.dense[step.node]
    made = dense if isinstance(dense, Tensor) else dense[0]
    if made.dim() == rank:
        return step.gives([None if d in over else k for d, k in enumerate(step.wants[x].kept)])
    if made.dim() == rank - len(list(over)):
        return step.gives([k for d, k in enumerate(step.wants[x].kept) if d not in over])
    return step.follow.put_whole(step.node)


def _windows(step: Step, rank: int) -> Any:
    """Pools and their like slide over the last ``rank`` dimensions."""
    x = step.argument(0, "input", "self")
    lead = len(step.wants[x].shape) - rank
    step.whole(x, range(lead, lead + rank))
    return step.gives((*step.wants[x].kept[:lead], *(None,) * rank))


def _resized(step: Step) -> Any:
    return _windows(step, len(step.wants[step.argument(0, "input", "self")].shape) - 2)


RULES: Mapping[str, Callable[[Step], Any]] = {
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("layer_norm", "rms_norm"), _last_whole),
    **dict.fromkeys(
        (
            *("softmax", "log_softmax", "mean", "sum", "var", "std", "amax", "amin", "max", "min", "cumsum", "logsumexp"),
            *("argmax", "argmin", "sort", "argsort", "topk", "norm", "prod", "any", "all", "_softmax", "_log_softmax"),
        ),
        _along,
    ),
    **dict.fromkeys(("interpolate", "upsample", "upsample_nearest2d", "upsample_bilinear2d"), _resized),
}
