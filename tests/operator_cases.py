"""Tiny modules, one per operator and option, for the certificates: name -> builder of (module, inputs)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Built = tuple[nn.Module, Any]
CASES: dict[str, Callable[[], Built]] = {}


class Net(nn.Module):
    """A function with parameters, buffers and modules: ``function(self, *inputs)``."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.function(self, *inputs, **named)


def p(*shape: int) -> nn.Parameter:
    """A parameter, standard normal."""
    return nn.Parameter(torch.randn(shape))


def case(name: str, built: Callable[[], Built]) -> None:
    assert name not in CASES, name
    CASES[name] = built


def module(name: str, build: Callable[[], nn.Module], *shape: int) -> None:
    """A module on one floating input; its vectors are drawn anew so that no bias is 0 and no gain 1."""

    def built() -> Built:
        return randomised(build()), torch.randn(*shape)

    case(name, built)


def randomised(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net


def unary(name: str, function: Callable[[Tensor], Any], *shape: int) -> None:
    """``function`` between an elementwise parameter before it and one after it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = function(x * net.before)
        return y * net.after + net.shift

    def built() -> Built:
        x = torch.randn(*shape)
        after = tuple(function(x).shape[1:])
        return Net(forward, before=p(*shape[1:]), after=p(*after), shift=p(*after)), x

    case(name, built)


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
SIZES = {1: (8,), 2: (6, 7), 3: (4, 5, 6)}


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
