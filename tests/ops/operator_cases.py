"""Operators without parameters: activations, pools, arithmetic, reindexing, resampling; with those of the maps, all cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import operator_cases_maps  # noqa: F401  (adds its cases)
import torch
from operator_tools import SIZES, Net, module, p, unary
from torch import Tensor, nn
from torch.nn import functional as F

# activations ----------------------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "celu": lambda x: F.celu(x, 1.5),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "softsign": F.softsign,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, 2, 1),
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "rrelu": F.rrelu,
    "sin": torch.sin,
    "sinc": torch.sinc,
    "frac": torch.frac,
    "logit": lambda x: torch.logit(x, 0.1),
    "deg2rad": torch.deg2rad,
    "logaddexp": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "clamp_tensors": lambda x: torch.clamp(x, torch.full_like(x[:1], -0.5), torch.ones_like(x[:1])),
    "cos": torch.cos,
    "exp": torch.exp,
    "abs": torch.abs,
    "square": torch.square,
    "cube": lambda x: x**3,
    "sign": torch.sign,
    "erf": torch.erf,
    "atan": torch.atan,
    "clamp": lambda x: x.clamp(-0.5, 1.0),
    "clamp_min": lambda x: x.clamp(min=0.0),
    "clamp_max": lambda x: torch.clamp_max(x, 0.3),
    "maximum_with_zero": lambda x: torch.maximum(x, torch.zeros(())),
    "gelu_tanh_by_hand": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
    "gelu_erf_by_hand": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu_by_hand": lambda x: x * torch.sigmoid(x),
    "mish_by_hand": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish_by_hand": lambda x: x * F.relu6(x + 3) / 6,
    "softplus_by_hand": lambda x: torch.log(1 + torch.exp(x)),
    "softplus_log1p": lambda x: torch.log1p(torch.exp(x)),
    "softsign_by_hand": lambda x: x / (1 + x.abs()),
    "sigmoid_by_hand": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh_by_hand": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "snake": lambda x: x + torch.sin(x) ** 2,
    "where_leaky": lambda x: torch.where(x > 0, x, 0.2 * x),
    "where_zero": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where_elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
    "relu_times_mask": lambda x: x * (x > 0),
    "relu_times_float_mask": lambda x: x * (x > 0).to(x.dtype),
    "relu_squared": lambda x: F.relu(x) ** 2,
    "relu_by_abs": lambda x: 0.5 * (x + x.abs()),
    "bent_identity": lambda x: (torch.sqrt(x * x + 1) - 1) / 2 + x,
    "gaussian": lambda x: torch.exp(-x * x),
    "sinc_like": lambda x: x / (1 + x * x),
}
COMPOSITES = tuple(n for n in ACTIVATIONS if n.endswith("_by_hand") or n in (
    "gelu_tanh_by_hand", "quick_gelu", "snake", "softplus_log1p", "where_leaky", "where_zero", "where_elu", "relu_times_mask",
    "relu_times_float_mask", "relu_squared", "relu_by_abs", "bent_identity", "gaussian", "sinc_like"
))  # fmt: skip
for _name, _function in ACTIVATIONS.items():
    unary(_name, _function, 2, 7)
module("prelu", lambda: nn.PReLU(), 2, 3, 4)
module("prelu_channels", lambda: nn.PReLU(3), 2, 3, 4)
module("glu", lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU()), 2, 4)
module(
    "swiglu", lambda: Net(lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), a=nn.Linear(4, 6), b=nn.Linear(4, 6), c=nn.Linear(6, 4)), 2, 4
)
module("swiglu_packed", lambda: Net(lambda m, x: F.silu(m.a(x).chunk(2, -1)[0]) * m.a(x).chunk(2, -1)[1], a=nn.Linear(4, 6)), 2, 4)
module("geglu", lambda: Net(lambda m, x: F.gelu(m.a(x)) * m.b(x), a=nn.Linear(4, 6), b=nn.Linear(4, 6)), 2, 4)
module("snake_learned", lambda: Net(lambda m, x: x + torch.sin(m.a * x) ** 2 * m.b, a=p(4), b=p(4)), 2, 4)
module(
    "squeeze_excite",
    lambda: Net(
        lambda m, x: x * torch.sigmoid(m.b(F.relu(m.a(x.mean((2, 3), keepdim=True))))), a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(2, 4, 1)
    ),
    2,
    4,
    3,
    3,
)
module(
    "dropout",
    lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()),
    2,
    3,
    4,
)
module("dropout2d", lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout2d(0.5)), 2, 2, 3, 3)

# pools ----------------------------------------------------------------------------------------------------------------


def pools() -> None:
    for rank, size in SIZES.items():
        most, mean = getattr(F, f"max_pool{rank}d"), getattr(F, f"avg_pool{rank}d")
        unary(f"max_pool{rank}d", lambda x, f=most: f(x, 2), 2, 3, *size)
        unary(f"max_pool{rank}d_options", lambda x, f=most: f(x, 3, 2, 1, 1, True), 2, 3, *size)
        unary(f"max_pool{rank}d_dilated", lambda x, f=most: f(x, 2, 1, 0, 2), 2, 3, *size)
        unary(f"avg_pool{rank}d", lambda x, f=mean: f(x, 2), 2, 3, *size)
        unary(f"avg_pool{rank}d_padded", lambda x, f=mean: f(x, 3, 2, 1), 2, 3, *size)
        unary(f"avg_pool{rank}d_inside", lambda x, f=mean: f(x, 3, 2, 1, False, False), 2, 3, *size)
        unary(f"avg_pool{rank}d_ceil", lambda x, f=mean: f(x, 3, 2, 1, True, True), 2, 3, *size)
        unary(f"avg_pool{rank}d_ceil_inside", lambda x, f=mean: f(x, 3, 2, 1, True, False), 2, 3, *size)
        unary(f"adaptive_avg{rank}d", lambda x, r=rank: getattr(F, f"adaptive_avg_pool{r}d")(x, 3), 2, 3, *size)
        unary(f"adaptive_avg{rank}d_one", lambda x, r=rank: getattr(F, f"adaptive_avg_pool{r}d")(x, 1), 2, 3, *size)
        unary(f"adaptive_max{rank}d_one", lambda x, r=rank: getattr(F, f"adaptive_max_pool{r}d")(x, 1), 2, 3, *size)
        if rank > 1:
            unary(f"avg_pool{rank}d_divisor", lambda x, f=mean: f(x, 3, 2, 1, False, True, 5), 2, 3, *size)
            unary(f"avg_pool{rank}d_divisor_ceil", lambda x, f=mean: f(x, 3, 2, 1, True, False, 5), 2, 3, *size)


pools()
unary("adaptive_max2d_even", lambda x: F.adaptive_max_pool2d(x, 2), 2, 3, 4, 6)
unary("adaptive_avg2d_none", lambda x: F.adaptive_avg_pool2d(x, (None, 2)), 2, 3, 4, 6)
unary("max_pool2d_uneven", lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0)), 2, 3, 5, 6)
unary("max_pool2d_unbatched_channels", lambda x: F.max_pool2d(x, 2), 2, 4, 4)
unary("avg_pool2d_uneven", lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)), 2, 3, 5, 6)
unary("lp_like_amax", lambda x: x.amax((2, 3)), 2, 3, 4, 4)
unary("amax_keepdim", lambda x: x.amax(-1, keepdim=True), 2, 3, 4)
unary("max_values", lambda x: x.max(-1).values, 2, 3, 4)
unary("max_values_keepdim", lambda x: x.max(1, keepdim=True)[0], 2, 3, 4)
unary("min_values", lambda x: x.min(-1).values, 2, 3, 4)
unary("amin", lambda x: x.amin(-1), 2, 3, 4)

# arithmetic -----------------------------------------------------------------------------------------------------------


def arithmetic() -> None:
    c = torch.randn(4)
    operations: dict[str, Callable[[Tensor, Any], Tensor]] = {
        "add": lambda x, y: x + y,
        "add_alpha": lambda x, y: torch.add(x, y, alpha=2),
        "sub": lambda x, y: x - y,
        "sub_alpha": lambda x, y: torch.sub(x, y, alpha=0.5),
        "rsub": lambda x, y: torch.rsub(x, y),
        "reversed_sub": lambda x, y: y - x,
        "mul": lambda x, y: x * y,
        "div": lambda x, y: x / y,
        "in_place_add": lambda x, y: (x * 1.5).add_(y),
        "in_place_mul": lambda x, y: (x + 1.5).mul_(y),
        "where_constant": lambda x, y: torch.where(torch.tensor([True, False, True, False]), x, x * y),
        "lerp": lambda x, y: torch.lerp(x, x * y, 0.3),
        "addcmul": lambda x, y: torch.addcmul(x, x * y, torch.ones(4), value=0.5),
    }
    for name, f in operations.items():
        unary(f"{name}_scalar", lambda x, f=f: f(x, 0.7), 2, 3, 4) if "add_alpha" not in name and name != "addcmul" else None
        unary(f"{name}_constant", lambda x, f=f: f(x, c.to(x.dtype) + 3), 2, 3, 4)
        module(f"{name}_parameter", lambda f=f: Net(lambda m, x: f(m.l(x), m.w), l=nn.Linear(4, 4), w=p(4)), 2, 3, 4)
        if name not in ("in_place_add", "in_place_mul", "where_constant"):
            module(f"{name}_first", lambda f=f: Net(lambda m, x: f(m.w, m.l(x)), l=nn.Linear(4, 4), w=p(4)), 2, 3, 4)
        module(f"{name}_buffer", lambda f=f: Net(lambda m, x: f(m.l(x), m.b), l=nn.Linear(4, 4), b=torch.rand(4) + 1), 2, 3, 4)
        module(f"{name}_paths", lambda f=f: Net(lambda m, x: f(m.l(x), m.k(x)), l=nn.Linear(4, 4), k=nn.Linear(4, 4)), 2, 3, 4)


arithmetic()
unary("neg", torch.neg, 2, 3, 4)
unary("neg_add", lambda x: -x + 1, 2, 4)
unary("subtract_mean", lambda x: x - x.mean(-1, keepdim=True), 2, 3, 4)
module("residual", lambda: Net(lambda m, x: x + m.l(x), l=nn.Linear(4, 4)), 2, 4)
module("layer_scale", lambda: Net(lambda m, x: x + m.g * m.l(x), l=nn.Linear(4, 4), g=p(4)), 2, 4)
module("bias_alone", lambda: Net(lambda m, x: x + m.b.view(1, -1, 1, 1), b=p(3)), 2, 3, 4, 4)
module("scalar_parameter", lambda: Net(lambda m, x: x * m.s + m.t, s=p(), t=p(1)), 2, 3)
module("exponential_parameter", lambda: Net(lambda m, x: x * m.s.exp(), s=p(1)), 2, 3)
module("sigmoid_parameter", lambda: Net(lambda m, x: x * torch.sigmoid(m.s), s=p(3)), 2, 3)
module("softmax_parameter", lambda: Net(lambda m, x: x * torch.softmax(m.s, 0), s=p(3)), 2, 3)
module("linspace_constant", lambda: Net(lambda m, x: m.l(x) * torch.linspace(1, 0.5, 4), l=nn.Linear(4, 4)), 2, 4)
module("power_of_parameter", lambda: Net(lambda m, x: x * m.s**2, s=p(3)), 2, 3)

# reindexing -----------------------------------------------------------------------------------------------------------

REINDEXINGS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "view": (lambda x: x.view(x.shape[0], 12), (2, 3, 4)),
    "view_minus_one": (lambda x: x.view(-1, 12), (2, 3, 4)),
    "reshape_merge_batch": (lambda x: x.reshape(-1, 4), (2, 3, 4)),
    "reshape_and_back": (lambda x: (x.reshape(-1, 4) * 2).reshape(-1, 3, 4), (2, 3, 4)),
    "permute": (lambda x: x.permute(0, 2, 1), (2, 3, 4)),
    "permute_batch": (lambda x: (x.permute(1, 0, 2) * 2).permute(1, 0, 2), (2, 3, 4)),
    "transpose": (lambda x: x.transpose(-1, -2), (2, 3, 4)),
    "mT": (lambda x: x.mT, (2, 3, 4)),
    "movedim": (lambda x: x.movedim(1, -1), (2, 3, 4, 5)),
    "flatten": (lambda x: x.flatten(1), (2, 3, 4)),
    "unflatten": (lambda x: x.unflatten(-1, (2, 2)), (2, 3, 4)),
    "squeeze": (lambda x: x.squeeze(1), (2, 1, 4)),
    "squeeze_all": (lambda x: x.squeeze(), (2, 1, 4, 1)),
    "unsqueeze": (lambda x: x.unsqueeze(1), (2, 3)),
    "expand": (lambda x: x[:, None].expand(-1, 3, -1), (2, 4)),
    "expand_as": (lambda x: x[:, :1].expand_as(x), (2, 4)),
    "slice": (lambda x: x[:, 1:3], (2, 4)),
    "slice_step": (lambda x: x[:, ::2, 1::2], (2, 4, 5)),
    "slice_negative": (lambda x: x[:, -3:-1], (2, 4)),
    "select": (lambda x: x[:, 1], (2, 4)),
    "select_last": (lambda x: x[:, -1, :], (2, 3, 4)),
    "narrow": (lambda x: x.narrow(1, 1, 2), (2, 4)),
    "index_list": (lambda x: x[:, [2, 0, 0]], (2, 4)),
    "index_two": (lambda x: x[:, [[0], [2]], [0, 1]], (2, 3, 4)),
    "index_apart": (lambda x: x[:, [0, 1], :, [1, 2]].transpose(0, 1), (2, 3, 2, 4)),
    "index_none": (lambda x: x[:, None, ..., [0, 3]], (2, 3, 4)),
    "index_boolean": (lambda x: x[:, torch.tensor([True, False, True])], (2, 3)),
    "index_select": (lambda x: torch.index_select(x, 1, torch.tensor([1, 1, 0])), (2, 3)),
    "gather_constant": (lambda x: torch.gather(x, 1, torch.tensor([[0, 2]]).expand(x.shape[0], 2)), (2, 3)),
    "pad": (lambda x: F.pad(x, (1, 2)), (2, 3)),
    "pad_value": (lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), (2, 3, 4)),
    "pad_negative": (lambda x: F.pad(x, (-1, 2)), (2, 3)),
    "pad_reflect": (lambda x: F.pad(x, (1, 2), "reflect"), (2, 3, 4)),
    "pad_reflect2d": (lambda x: F.pad(x, (1, 2, 1, 0), "reflect"), (2, 3, 4, 4)),
    "pad_replicate": (lambda x: F.pad(x, (1, 2, 3, 0), "replicate"), (2, 3, 4, 4)),
    "pad_circular": (lambda x: F.pad(x, (1, 2), "circular"), (2, 3, 4)),
    "pad_channels": (lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)), (2, 3, 4, 4)),
    "roll": (lambda x: torch.roll(x, (1, -2), (1, 2)), (2, 3, 4)),
    "flip": (lambda x: x.flip(-1), (2, 3)),
    "flip_two": (lambda x: x.flip((1, 2)), (2, 3, 4)),
    "repeat": (lambda x: x.repeat(1, 2, 3), (2, 2, 2)),
    "repeat_more": (lambda x: x.repeat(1, 2, 1, 1).flatten(1), (2, 2, 2, 2)),
    "tile": (lambda x: x.tile((1, 2)), (2, 2)),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), (2, 3)),
    "cat": (lambda x: torch.cat([x, x * 2], 1), (2, 3)),
    "cat_negative": (lambda x: torch.cat([x, x[..., :1]], -1), (2, 3, 4)),
    "cat_constant": (lambda x: torch.cat([x, torch.ones(1, 1).expand(x.shape[0], 1)], 1), (2, 3)),
    "stack": (lambda x: torch.stack([x, -x], 1), (2, 3)),
    "stack_last": (lambda x: torch.stack([x, 2 * x], -1).flatten(1), (2, 3)),
    "split": (lambda x: x.split(2, 1)[0] * x.split(2, 1)[1], (2, 4)),
    "split_sizes": (lambda x: x.split([1, 3], 1)[1], (2, 4)),
    "split_uneven": (lambda x: x.split(3, 1)[1], (2, 4)),
    "tensor_split": (lambda x: torch.tensor_split(x, 3, 1)[0], (2, 4)),
    "chunk": (lambda x: x.chunk(2, -1)[1], (2, 4)),
    "chunk_uneven": (lambda x: x.chunk(3, 1)[1], (2, 5)),
    "unbind": (lambda x: x.unbind(1)[2] - x.unbind(1)[0], (2, 3, 4)),
    "mean_last": (lambda x: x.mean(-1), (2, 3, 4)),
    "mean_two_keep": (lambda x: x.mean((2, 3), keepdim=True), (2, 3, 4, 4)),
    "mean_all_but_batch": (lambda x: x.flatten(1).mean(1, keepdim=True), (2, 3, 4)),
    "sum_last": (lambda x: x.sum(-1), (2, 3, 4)),
    "sum_many": (lambda x: x.sum((1, 2), keepdim=True), (2, 3, 4)),
    "cumsum": (lambda x: x.cumsum(1), (2, 4)),
    "diagonal": (lambda x: x.diagonal(0, 1, 2), (2, 3, 3)),
    "tril": (lambda x: x.tril(), (2, 3, 3)),
    "triu": (lambda x: torch.triu(x, 1), (2, 3, 3)),
    "unfold_tensor": (lambda x: x.unfold(1, 3, 2), (2, 7)),
    "unfold_patches": (lambda x: F.unfold(x, 2, stride=2), (2, 3, 4, 4)),
    "unfold_overlapping": (lambda x: F.unfold(x, 3, padding=1), (2, 2, 4, 4)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (2, 8, 3, 3)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (2, 2, 4, 4)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), (2, 4, 3, 3)),
    "einsum_transpose": (lambda x: torch.einsum("bij->bji", x), (2, 3, 4)),
    "einsum_trace": (lambda x: torch.einsum("bii->b", x)[:, None], (2, 3, 3)),
    "windows": (lambda x: x.view(x.shape[0], 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 3), (2, 4, 4, 3)),
    "contiguous": (lambda x: x.transpose(1, 2).contiguous().clone(), (2, 3, 4)),
    "masked_fill_constant": (lambda x: x.masked_fill(torch.tensor([True, False, False]), 0.5), (2, 3)),
    "masked_fill_zero": (lambda x: x.masked_fill(torch.tensor([True, False, False]), 0), (2, 3)),
    "new_zeros_cat": (lambda x: torch.cat([x.new_zeros(x.shape[0], 2), x], 1), (2, 3)),
    "zeros_like_add": (lambda x: torch.zeros_like(x) + x, (2, 3)),
    "meshgrid_constant": (
        lambda x: x + torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")).sum(0),
        (2, 3, 4),
    ),
    "slice_assignment": (lambda x: assign(x), (2, 4)),
}


def assign(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:3] = x[:, :2] * 2
    return y


for _name, (_function, _shape) in REINDEXINGS.items():
    unary(_name, _function, *_shape)

# resampling -----------------------------------------------------------------------------------------------------------


def resampling() -> None:
    modes = [("nearest", 1), ("nearest", 2), ("nearest", 3), ("nearest-exact", 1), ("nearest-exact", 2), ("nearest-exact", 3)]
    modes += [("linear", 1), ("bilinear", 2), ("trilinear", 3), ("bicubic", 2)]
    for mode, rank in modes:
        size = SIZES[rank]
        name = f"upsample_{mode.replace('-', '_')}{rank}d"
        unary(f"{name}_size", lambda x, m=mode, r=rank: F.interpolate(x, size=(9, 5, 4)[:r], mode=m), 2, 2, *size)
        unary(f"{name}_scale", lambda x, m=mode: F.interpolate(x, scale_factor=1.7, mode=m), 2, 2, *size)
        unary(f"{name}_double", lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m), 2, 2, *size)
        if "nearest" not in mode:
            unary(f"{name}_corners", lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m, align_corners=True), 2, 2, *size)
    unary(
        "upsample_recompute",
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True), 2, 2, 6, 7,
    )  # fmt: skip
    unary("upsample_like", lambda x: F.interpolate(x[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear"), 2, 2, 6, 7)


resampling()
