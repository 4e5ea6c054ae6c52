"""Products of activations, normalisations and attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from oracle.case import family


@family(3, factors=True, products=True)
class GatedProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(self.value(x) * nn.functional.silu(self.gate(x)))

    def paths(self, g, x):
        return g.linear(g.product(g.linear(x, self.value), g.gate(g.linear(x, self.gate), "silu")), self.out)


@family(4, factors=True, products=True)
class ProductShared(nn.Module):
    """Both factors cross the same layer: a pair may cross a parameter twice."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(self.a(x[:, :2]) * self.a(x[:, 2:]))

    def paths(self, g, x):
        return g.linear(g.product(g.linear(x[:2], self.a), g.linear(x[2:], self.a)), self.out)


@family(2, 2, 2, factors=True, products=True)
class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.out = nn.Conv2d(2, 2, 1), nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)

    def forward(self, x):
        x = self.a(x).relu()
        s = self.down(x.mean((2, 3))).relu()[:, :, None, None]
        x = x * torch.sigmoid(self.up(s))
        return self.out(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    def paths(self, g, x):
        x = g.gate(g.conv(x, self.a), "relu")
        s = g.gate(g.linear(g.mean(x.reshape(2, 4)), self.down), "relu").reshape(2, 1, 1)
        x = g.product(x, g.gate(g.conv(s, self.up), "sigmoid"))
        return g.linear(g.mean(x.reshape(2, 4)), self.out)


@family(2, factors=True, products=True)
class BothBounded(nn.Module):
    """Both factors modulate, then the first one does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))
        return torch.tanh(self.c(h)) * self.a(h)

    def paths(self, g, x):
        h = g.product(g.gate(g.linear(x, self.a), "tanh"), g.gate(g.linear(x, self.b), "sigmoid"))
        return g.product(g.gate(g.linear(h, self.c), "tanh"), g.linear(h, self.a))


@family(3, factors=True, products=True)
class SumsOfFactors(nn.Module):
    """Factors that are sums, means, multiples and products of others, and one with a constant."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.out((a + 0.5 * b) * c.mean(-1, keepdim=True) + (a * b) * (1.0 + 2.0 * c))

    def paths(self, g, x):
        a, b, c = (g.linear(x, layer) for layer in (self.a, self.b, self.c))
        first = g.product(g.combine([(a, 1.0), (b, 0.5)]), g.mean(c).reshape(1))
        second = g.product(g.product(a, b), g.combine([(c, 2.0)], 1.0))
        return g.linear(g.combine([(first, 1.0), (second, 1.0)]), self.out)


@family(2, 2, factors=True, products=True)
class Similarity(nn.Module):
    """Matrix products without a softmax: h h^T, scaled, times values; then a product by a parameter alone."""

    def __init__(self):
        super().__init__()
        self.h, self.v, self.p = nn.Linear(2, 2), nn.Linear(2, 2), nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        h = self.h(x)
        y = (0.5 * (h @ h.transpose(-2, -1))) @ self.v(x)
        return y * (self.p.sum(0, keepdim=True) * x)

    def paths(self, g, x):
        h = g.linear(x, self.h)
        y = g.matmul(g.combine([(g.matmul(h, h.T), 0.5)]), g.linear(x, self.v))
        p = g.combine([(row, 1.0) for row in g.value(self.p)])
        return g.product(y, g.product(p, x))


@family(2, 3, factors=True)
class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b, self.m = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.LayerNorm((2, 2))

    def forward(self, x):
        return self.m(self.b(self.n(self.a(x)).relu()))

    def paths(self, g, x):
        x = g.linear(x, self.a)
        gain, bias = (np.tile(g.slot(p), 2) for p in (self.n.weight, self.n.bias))
        x = g.normalise(x, list(np.arange(6).reshape(2, 3)), "layer", self.n.eps, gain, bias)
        x = g.linear(g.gate(x, "relu"), self.b)
        return g.normalise(x, [np.arange(4)], "layer", self.m.eps, g.slot(self.m.weight).ravel(), g.slot(self.m.bias).ravel())


@family(2, 3, factors=True)
class RmsNorm(nn.Module):
    """The module, and the same written out."""

    def __init__(self):
        super().__init__()
        self.n, self.a, self.gain = nn.RMSNorm(3, eps=1e-3), nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.a(self.n(x)).relu()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * self.gain

    def paths(self, g, x):
        rows = list(np.arange(6).reshape(2, 3))
        x = g.normalise(x, rows, "rms", 1e-3, np.tile(g.slot(self.n.weight), 2), None)
        x = g.gate(g.linear(x, self.a), "relu")
        return g.normalise(x, rows, "rms", 1e-3, np.tile(g.slot(self.gain), 2), None)


@family(4, 2, factors=True)
class GroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv1d(4, 4, 1, groups=2), nn.GroupNorm(2, 4), nn.Conv1d(4, 2, 2)

    def forward(self, x):
        return self.b(self.n(self.a(x)).relu())

    def paths(self, g, x):
        gain, bias = (np.repeat(g.slot(p), 2) for p in (self.n.weight, self.n.bias))
        x = g.normalise(g.conv(x, self.a), list(np.arange(8).reshape(2, 4)), "layer", self.n.eps, gain, bias)
        return g.conv(g.gate(x, "relu"), self.b)


@family(3, factors=True)
class UnitVector(nn.Module):
    """A norm in a denominator."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h / torch.linalg.vector_norm(h, dim=-1, keepdim=True))

    def paths(self, g, x):
        h = g.gate(g.linear(x, self.a), "relu")
        return g.linear(g.normalise(h, [np.arange(3)], "norm", 0.0, None, None), self.b)


class _Attention(nn.Module):
    causal = False

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=self.causal))

    def paths(self, g, x):
        q, k, v = g.linear(x, self.q), g.linear(x, self.k), g.linear(x, self.v)
        return g.linear(g.attention(q, k, v, self.causal), self.out)


@family(3, 2, factors=True, products=True)
class Attention(_Attention):
    pass


@family(3, 2, factors=True, products=True)
class CausalAttention(_Attention):
    causal = True


@family(2, 2, factors=True, products=True)
class MixedAttention(nn.Module):
    """The mean of two softmax outputs attends, by the rows that the first of them attends to."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1)

    def forward(self, x):
        q, k = self.q(x), self.k(x)
        first, second = (q @ k.transpose(-2, -1)).softmax(-1), (k @ q.transpose(-2, -1)).softmax(-1)
        return (0.5 * (first + second)) @ self.v(x)

    def paths(self, g, x):
        q, k = g.linear(x, self.q), g.linear(x, self.k)
        first, second = (g.softmax(g.matmul(a, b.T)) for a, b in ((q, k), (k, q)))
        return g.matmul(g.combine([(first, 0.5), (second, 0.5)]), g.linear(x, self.v))


@family(3, 2, factors=True, products=True)
class WrittenAttention(_Attention):
    """softmax(q k^T / sqrt(d)) v, written out."""

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-2, -1) / 2**0.5
        return self.out(scores.softmax(-1) @ self.v(x))
