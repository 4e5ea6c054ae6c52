"""Operators with parameters: linear maps, convolutions, embeddings, normalisations, attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from operator_tools import SIZES, Net, case, module, p
from torch import Tensor, nn
from torch.nn import functional as F

# linear maps ----------------------------------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "stride": {"stride": 2},
    "padding": {"padding": 2},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4},
    "same": {"padding": "same"},
    "same_dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate"},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "groups": 2},
    "no_bias": {"stride": 2, "bias": False},
}


def convolutions() -> None:
    for rank, size in SIZES.items():
        kind = getattr(nn, f"Conv{rank}d")
        back = getattr(nn, f"ConvTranspose{rank}d")
        for name, options in CONVOLUTIONS.items():
            module(f"conv{rank}d_{name}", lambda kind=kind, options=options: kind(4, 4, 3, **options), 2, 4, *size)
        for name, options in TRANSPOSED.items():
            module(f"conv_transpose{rank}d_{name}", lambda back=back, options=options: back(4, 2, 3, **options), 2, 4, *size)


convolutions()
module("conv2d_uneven", lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), 2, 3, 7, 8)
module("conv2d_same_even", lambda: nn.Conv2d(3, 4, (4, 2), padding="same"), 2, 3, 6, 6)
module("linear", lambda: nn.Linear(4, 3), 2, 4)
module("linear_no_bias", lambda: nn.Linear(4, 3, bias=False), 2, 4)
module("linear_tokens", lambda: nn.Linear(4, 3), 2, 5, 4)
module("bilinear_by_hand", lambda: Net(lambda m, x: m.a(x) * m.b(x), a=nn.Linear(4, 3), b=nn.Linear(4, 3)), 2, 4)
module("addmm", lambda: Net(lambda m, x: torch.addmm(m.b, x, m.w), b=p(3), w=p(4, 3)), 2, 4)
module("addmm_scaled", lambda: Net(lambda m, x: torch.addmm(m.b, x, m.w, beta=0.5, alpha=2), b=p(3), w=p(4, 3)), 2, 4)
module("baddbmm", lambda: Net(lambda m, x: torch.baddbmm(m.b, x, x.transpose(1, 2) * m.w), b=p(3, 3), w=p(3)), 2, 3, 4)
module("matmul_parameter_right", lambda: Net(lambda m, x: x @ m.w, w=p(4, 3)), 2, 5, 4)
module("matmul_parameter_left", lambda: Net(lambda m, x: m.w @ x, w=p(3, 5)), 2, 5, 4)
module("matmul_stack_of_parameters", lambda: Net(lambda m, x: x @ m.w, w=p(3, 4, 2)), 2, 3, 5, 4)
module("matmul_vector", lambda: Net(lambda m, x: x @ m.w, w=p(4)), 2, 5, 4)
module("matmul_vector_left", lambda: Net(lambda m, x: m.w @ x, w=p(5)), 2, 5, 4)
module("matmul_buffer", lambda: Net(lambda m, x: (x @ m.b) * m.w, b=torch.randn(4, 3), w=p(3)), 2, 4)
module("bmm", lambda: Net(lambda m, x: torch.bmm(x * m.a, (x * m.b).transpose(1, 2)), a=p(4), b=p(4)), 2, 3, 4)
module("einsum_matmul", lambda: Net(lambda m, x: torch.einsum("bij,jk->bik", x, m.w), w=p(4, 3)), 2, 5, 4)
module("einsum_heads", lambda: Net(lambda m, x: torch.einsum("bnd,hde->bhne", x, m.w), w=p(2, 4, 3)), 2, 5, 4)
module("einsum_scores", lambda: Net(lambda m, x: torch.einsum("bid,bjd->bij", x * m.a, x * m.b), a=p(4), b=p(4)), 2, 3, 4)
module("einsum_outer", lambda: Net(lambda m, x: torch.einsum("bi,j->bij", x, m.w), w=p(3)), 2, 4)
module("flatten_linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), 2, 3, 4)
module("weight_transposed", lambda: Net(lambda m, x: F.linear(x, m.w.t(), m.b), w=p(4, 3), b=p(3)), 2, 4)
module("weight_scaled", lambda: Net(lambda m, x: F.linear(x, m.w * m.s), w=p(3, 4), s=p(3, 1)), 2, 4)
module(
    "weight_standardised",
    lambda: Net(lambda m, x: F.conv2d(x, m.w - m.w.mean((1, 2, 3), keepdim=True)), w=p(3, 2, 2, 2)),
    2,
    2,
    4,
    4,
)


def embeddings() -> None:
    ids = torch.tensor([[0, 2, 1], [3, 3, 0]])
    case("embedding", lambda: (nn.Embedding(5, 4), ids))
    case("embedding_padding", lambda: (nn.Embedding(5, 4, padding_idx=3), ids))
    case("embedding_reshaped", lambda: (Net(lambda m, i: m.e(i.view(i.shape[0], -1)).mean(1), e=nn.Embedding(5, 4)), ids))
    case("embedding_dtype", lambda: (Net(lambda m, i: m.e(i.long()) * m.w, e=nn.Embedding(5, 4), w=p(4)), ids.int()))
    case(
        "position_embedding",
        lambda: (Net(lambda m, i: m.e(i) + m.q(torch.arange(i.shape[1])), e=nn.Embedding(5, 4), q=nn.Embedding(7, 4)), ids),
    )
    case(
        "tied_embedding",
        lambda: (Net(lambda m, i: F.linear(torch.tanh(m.e(i)), m.e.weight), e=nn.Embedding(5, 4)), ids),
    )


embeddings()

# normalisation --------------------------------------------------------------------------------------------------------


def rms(m: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.w


def layer(m: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return m.w * (centred / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)) + m.b


def layer_std(m: Any, x: Tensor) -> Tensor:
    return m.w * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + m.b


def layer_mean_of_squares(m: Any, x: Tensor) -> Tensor:
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    return m.w[:, None, None] * ((x - u) / torch.sqrt(s + 1e-6)) + m.b[:, None, None]


def response(m: Any, x: Tensor) -> Tensor:
    g = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    return m.w * (x * (g / (g.mean(dim=-1, keepdim=True) + 1e-6))) + m.b + x


for _rank, _size in SIZES.items():
    module(f"batch_norm{_rank}d", lambda r=_rank: getattr(nn, f"BatchNorm{r}d")(3), 2, 3, *_size)
    module(f"batch_norm{_rank}d_plain", lambda r=_rank: getattr(nn, f"BatchNorm{r}d")(3, affine=False), 2, 3, *_size)
    module(f"instance_norm{_rank}d", lambda r=_rank: getattr(nn, f"InstanceNorm{r}d")(3, affine=True), 2, 3, *_size)
    module(
        f"instance_norm{_rank}d_statistics",
        lambda r=_rank: getattr(nn, f"InstanceNorm{r}d")(3, affine=True, track_running_stats=True),
        2, 3, *_size,
    )  # fmt: skip
module("batch_norm_flat", lambda: nn.BatchNorm1d(3), 2, 3)
module("layer_norm", lambda: nn.LayerNorm(4), 2, 5, 4)
module("layer_norm_two_dims", lambda: nn.LayerNorm((3, 4)), 2, 3, 4)
module("layer_norm_no_bias", lambda: nn.LayerNorm(4, bias=False), 2, 5, 4)
module("layer_norm_plain", lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)), 2, 5, 4)
module("group_norm", lambda: nn.GroupNorm(2, 4), 2, 4, 3, 3)
module("group_norm_flat", lambda: nn.GroupNorm(2, 4), 2, 4)
module("group_norm_plain", lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4, affine=False)), 2, 4, 3, 3)
module("rms_norm", lambda: nn.RMSNorm(4), 2, 5, 4)
module("rms_norm_eps", lambda: nn.RMSNorm(4, eps=1e-5), 2, 5, 4)
module("rms_norm_by_hand", lambda: Net(rms, w=p(4)), 2, 5, 4)
module("layer_norm_by_hand", lambda: Net(layer, w=p(4), b=p(4)), 2, 5, 4)
module("layer_norm_by_hand_std", lambda: Net(layer_std, w=p(4), b=p(4)), 2, 5, 4)
module("layer_norm_channels_first", lambda: Net(layer_mean_of_squares, w=p(3), b=p(3)), 2, 3, 4, 4)
module("global_response_norm", lambda: Net(response, w=p(3), b=p(3)), 2, 4, 4, 3)
module("normalize", lambda: Net(lambda m, x: F.normalize(m.l(x), dim=-1), l=nn.Linear(4, 3)), 2, 4)
module("cosine_classifier", lambda: Net(lambda m, x: F.linear(F.normalize(x), F.normalize(m.w)) * m.s, w=p(3, 4), s=p(1)), 2, 4)

# attention ------------------------------------------------------------------------------------------------------------


def attend(**options: Any) -> Callable[..., Tensor]:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
        given = {key: value(m) if callable(value) else value for key, value in options.items()}
        return m.out(F.scaled_dot_product_attention(q, k, v, **given).transpose(1, 2).flatten(2))

    return forward


def attention(name: str, extra: Callable[[], dict[str, Any]] = dict, **options: Any) -> None:
    def build() -> nn.Module:
        return Net(attend(**options), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), **extra())

    module(name, build, 2, 5, 8)


LOWER = torch.ones(5, 5, dtype=torch.bool).tril()
BANDED = torch.ones(5, 5, dtype=torch.bool).tril(1).triu(-1)
attention("attention")
attention("attention_causal", is_causal=True)
attention("attention_scale", scale=0.3)
attention("attention_boolean", lambda: {"mask": BANDED}, attn_mask=lambda m: m.mask)
attention("attention_additive", lambda: {"mask": torch.zeros(5, 5).masked_fill(~BANDED, -math.inf)}, attn_mask=lambda m: m.mask)
attention("attention_bias_buffer", lambda: {"mask": torch.randn(2, 5, 5)}, attn_mask=lambda m: m.mask)
attention("attention_bias_parameter", lambda: {"mask": p(2, 5, 5)}, attn_mask=lambda m: m.mask)
attention(
    "attention_relative_bias",
    lambda: {"table": p(9, 2), "index": (torch.arange(5)[:, None] - torch.arange(5)[None]) + 4},
    attn_mask=lambda m: m.table[m.index.view(-1)].view(5, 5, -1).permute(2, 0, 1).unsqueeze(0),
)  # fmt: skip
attention("attention_dropout", dropout_p=0.0)


def grouped_query(m: Any, x: Tensor) -> Tensor:
    q = m.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
    k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in m.kv(x).chunk(2, -1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)


def by_hand(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, -1)
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(m.mask[: x.shape[1], : x.shape[1]] == 0, float("-inf"))
    return F.softmax(scores, dim=-1) @ v


def by_hand_where(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).chunk(3, -1)
    scores = torch.where(m.mask, q @ k.transpose(-2, -1), torch.full([], torch.finfo(x.dtype).min, dtype=x.dtype))
    return torch.softmax(scores, -1) @ v


def softmax_over(dim: int) -> Callable[..., Tensor]:
    return lambda m, x: torch.softmax(m.a(x), dim) * m.b(x)


module("attention_grouped_query", lambda: Net(grouped_query, q=nn.Linear(6, 8), kv=nn.Linear(6, 8)), 2, 5, 6)
module("attention_by_hand", lambda: Net(by_hand, qkv=nn.Linear(4, 12), mask=torch.tril(torch.ones(8, 8))), 2, 5, 4)
module("attention_by_hand_where", lambda: Net(by_hand_where, qkv=nn.Linear(4, 12), mask=LOWER), 2, 5, 4)
module("softmax_channels", lambda: Net(softmax_over(1), a=nn.Linear(4, 4), b=nn.Linear(4, 4)), 2, 5, 4)
module("log_softmax_output", lambda: nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(-1)), 2, 4)
module("softmax_output", lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), 2, 4)


def self_attention(batch_first: bool, **options: Any) -> Callable[[], nn.Module]:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        y: Tensor = m.attention(x, x, x, need_weights=bool(options.get("weights")))[0]
        return y if batch_first else y.transpose(0, 1)

    def build() -> nn.Module:
        extra = {k: v for k, v in options.items() if k != "weights"}
        return Net(forward, attention=nn.MultiheadAttention(8, 2, batch_first=batch_first, **extra))

    return build


def cross(m: Any, x: Tensor) -> Tensor:
    return m.attention(m.query.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0]


def causal_heads(m: Any, x: Tensor) -> Tensor:
    return m.attention(x, x, x, need_weights=False, attn_mask=m.mask, is_causal=True)[0]


module("multihead", self_attention(True), 2, 5, 8)
module("multihead_sequence_first", self_attention(False), 2, 5, 8)
module("multihead_with_weights", self_attention(True, weights=True), 2, 5, 8)
module("multihead_separate", self_attention(True, kdim=8, vdim=8), 2, 5, 8)
module("multihead_bias_kv", self_attention(True, add_bias_kv=True), 2, 5, 8)
module("multihead_queries", lambda: Net(cross, attention=nn.MultiheadAttention(8, 2, batch_first=True), query=p(1, 3, 8)), 2, 5, 8)
module(
    "multihead_causal",
    lambda: Net(
        causal_heads,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        mask=nn.Transformer.generate_square_subsequent_mask(5),
    ),
    2, 5, 8,
)  # fmt: skip
module("encoder_layer", lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, 5, 8)
module(
    "encoder_layer_first",
    lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
    2,
    5,
    8,
)
module(
    "decoder_layer",
    lambda: Net(
        lambda m, x: m.d(x, m.memory.expand(x.shape[0], -1, -1)),
        d=nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
        memory=p(1, 3, 8),
    ),
    2,
    5,
    8,
)
